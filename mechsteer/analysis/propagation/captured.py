"""Influence and rollout from what was captured: their own columns, or the library's cache with its patterns.

A capture keeps, of a span, one number a layer and position, which is what the recursion leaves there, and not the
patterns, which are as large as positions squared: ``sites="influence:instruction"`` at ``positions="all"``. They are
those of the default forms. A cache of the library has patterns and streams, so that every form can be taken from it:
what :mod:`mechsteer.analysis.propagation.hooks` sees of a running model it is then shown of the cache.
"""

import re
from collections.abc import Iterable, Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mechsteer.analysis.propagation.hooks import Hook, Weighing, track
from mechsteer.errors import MechsteerError, shown
from mechsteer.models import hooked, is_encoder_decoder, model_device, stacks
from mechsteer.prompts import Prompt
from mechsteer.prompts.vocabulary import token_pieces
from mechsteer.sources import Recorded, refuse_steer

if TYPE_CHECKING:
    pass

Curves = dict[str, Float[Tensor, "layers _ spans"]]
"""For each stack what its positions have of each span after each layer."""

FORMS = {"influence": Weighing(), "rollout": Weighing(residual=0.5)}
"""The forms that a capture keeps."""

_NAME = re.compile(r"(blocks|encoder|decoder)\.(\d+)\.(influence|rollout):(.+)")


def column_sites(model: Any, name: str) -> list[str]:
    """The names of the columns that ``"influence:SPAN"`` or ``"rollout:SPAN"`` means; none for other sites."""
    quantity, colon, span = name.partition(":")
    if not colon or not span or quantity not in FORMS:
        return []
    return [f"{stack}.{layer}.{name}" for stack, n in stacks(model).items() for layer in range(n)]


def parse_column(name: str) -> tuple[str, int, str, str] | None:
    """Stack, layer, quantity and span of a column's name; None for other sites."""
    found = _NAME.fullmatch(name)
    return None if found is None else (found[1], int(found[2]), found[3], found[4])


def starts_of(prompt: Prompt, spans: Sequence[str]) -> Bool[Tensor, "pos spans"]:
    """True where a position of a prompt is in a span.

    Raises:
        MechsteerError: if a span has no tokens.
    """
    starts = torch.zeros((len(prompt), len(spans)), dtype=torch.bool)
    for column, name in enumerate(spans):
        if not prompt.positions(name):
            raise MechsteerError(f"The span {name!r} has no tokens in {prompt!r}.")
        starts[prompt.positions(name), column] = True
    return starts


class Columns:
    """Measures one prompt at a time, which a capture runs alone, for the columns that are wanted."""

    def __init__(self, model: Any, names: Iterable[str]) -> None:
        self.model = model
        self.wanted = {name: parsed for name in names if (parsed := parse_column(name))}
        spans = {(quantity, span): None for _, _, quantity, span in self.wanted.values()}
        self.spans = {quantity: [s for q, s in spans if q == quantity] for quantity, _ in spans}

    def measure(self, prompt: Prompt, run: Any) -> dict[str, Float[Tensor, "pos 1"]]:
        """Call ``run``, which makes the pass, and give the columns."""
        lengths = {stack: 1 if stack == "decoder" else len(prompt) for stack in stacks(self.model)}
        tables: dict[str, Curves] = {}
        hooks: list[Hook] = []
        for quantity, spans in self.spans.items():
            starts = starts_of(prompt, spans).to(model_device(self.model))
            tables[quantity], more = track(self.model, starts, FORMS[quantity], lengths=lengths)
            hooks += more
        with hooked(self.model, hooks):
            run()
        return {
            name: tables[quantity][stack][layer][:, self.spans[quantity].index(span), None]
            for name, (stack, layer, quantity, span) in self.wanted.items()
        }


def captured_curves(
    source: Recorded, place: int, spans: Sequence[str], weighing: Weighing, quantity: str
) -> tuple[Curves, dict[str, list[str]]]:
    """What was captured of one prompt, and the tokens of each stack.

    Raises:
        MechsteerError: if it was not, saying what to capture.
    """
    (prompt,) = source.prompts([source.members[place]])
    if source.raw is not None:
        return _of_patterns(source, place, prompt, starts_of(prompt, spans), weighing)
    if weighing != FORMS[quantity]:
        raise MechsteerError(
            f"{source.name} has {quantity} in its default form alone: run the model for others, or take a cache of the "
            "library, which has the patterns."
        )
    found: dict[str, list[Tensor]] = {}
    for name, stack in source.stacks.items():
        parsed = parse_column(name)
        if parsed is not None and parsed[2:] == (quantity, spans[0]):
            places, member = source.places(stack), source.members[place]
            each = [f"{name.rpartition(':')[0]}:{span}" for span in spans]
            rows = source.rows(source.site(name), member, places)
            rows = rows[:1] if stack == "decoder" else rows  # what it wrote later was not measured
            found.setdefault(stack, []).append(torch.cat([source.read(one, rows).float() for one in each], dim=1))
    if not found:
        raise source.lacks(
            f"the {quantity} of the span {spans[0]!r}", f"sites='{quantity}:{spans[0]}', positions='all'"
        )
    read = prompt.read()
    tokens = {stack: read for stack in found} | {"decoder": [source.about.get("start_token", "")]}
    return {stack: torch.stack(layers) for stack, layers in found.items()}, tokens


def _of_patterns(
    source: Recorded, place: int, prompt: Prompt, starts: Bool[Tensor, "pos spans"], weighing: Weighing
) -> tuple[Curves, dict[str, list[str]]]:
    """The recursion over a cache's patterns and streams, sublayer by sublayer."""
    model, raw, member = source.model, source.raw, source.members[place]
    if model is None or raw is None:
        raise MechsteerError("A dict of tensors does not know its model: give the library's ActivationCache.")
    two_stacks = is_encoder_decoder(model)
    written = raw(member, "decoder.0.hook_resid_pre").shape[1] if two_stacks else 0
    lengths = {stack: written if stack == "decoder" else len(prompt) for stack in stacks(model)}
    device = model_device(model)  # a cache may have been moved to another
    tables, hooks = track(model, starts.to(device), weighing, lengths=lengths, prompt=place)
    for name, function in _as_they_fire(hooks):
        function(raw(member, name).to(device), SimpleNamespace(name=name))
    tokens = {stack: prompt.read() for stack in tables}
    if two_stacks:
        start = token_pieces(model.tokenizer, [model.cfg.decoder_start_token_id])
        tokens["decoder"] = [*start, *["?"] * (written - 1)]
    return {stack: table.cpu() for stack, table in tables.items()}, tokens


def _as_they_fire(hooks: Sequence[Hook]) -> list[Hook]:
    """Values come before the pattern that weighs them; scores, which are only checked for NaN, are left out."""
    kept: list[Hook] = []
    for name, function in hooks:
        if name.endswith("hook_attn_scores"):
            continue
        at = len(kept)
        if name.endswith("hook_v"):
            at = next(i for i, (other, _) in enumerate(kept) if other == name.replace("hook_v", "hook_pattern"))
        kept.insert(at, (name, function))
    return kept


def check_captured(source: Recorded, *, deltas: Sequence[float], steer: Any, continuation: Any) -> None:
    """Refuse what is for prompts that are run.

    Raises:
        MechsteerError: naming it.
    """
    refuse_steer(source, steer)
    if continuation is not None or any(deltas):
        raise MechsteerError(
            f"{source.name} is captured already: delta= and continuation= are for prompts that are run, got "
            f"{shown(deltas[0] if len(deltas) == 1 else deltas)} and {shown(continuation)}."
        )
