"""Running prompts for rollout and Influence: which spans and strengths, in what pieces, and the table."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch

from mechsteer.analysis.exits import continuations
from mechsteer.analysis.propagation.captured import Curves, captured_curves, check_captured, starts_of
from mechsteer.analysis.propagation.hooks import Weighing, track
from mechsteer.errors import MechsteerError, finite, listed, positive_int, shown
from mechsteer.models import (
    as_prompts,
    context_of,
    hooked,
    is_encoder_decoder,
    model_device,
    residual,
)
from mechsteer.prompts import Prompt, Prompts
from mechsteer.prompts.vocabulary import token_pieces
from mechsteer.sources import Recorded, as_recorded, check_made_by
from mechsteer.steering import Intervention, Step, as_intervention, attention_bias, begin, run_batches
from mechsteer.steering.registry import registered

if TYPE_CHECKING:
    import pandas as pd

MOST_DELTAS = 10_000
"""The most biases of one table: each is a pass of its own."""

CHUNK = 128


@dataclass(frozen=True)
class Continued:
    """One prompt and what follows it.

    Attributes:
        prompt: The prompt.
        continuation: Token ids after it: of the same stack, or of the decoder after its start token.
    """

    prompt: Prompt
    continuation: tuple[int, ...]


def measure(
    model: Any,
    prompt: Prompts | Any,
    span: str | Sequence[str],
    weighing: Weighing,
    *,
    quantity: str,
    delta: float | Iterable[float],
    steer: Intervention | None,
    continuation: str | Sequence[str] | None,
    chunk: int,
) -> "pd.DataFrame":
    """Measure every prompt, span and delta; see :func:`mechsteer.analysis.influence.influence`."""
    positive_int("chunk", chunk)
    source = as_recorded(model)
    if source is None and (source := as_recorded(prompt)) is not None:
        check_made_by(model, [source])
    if source is not None:
        check_captured(source, deltas=_deltas(delta), steer=steer, continuation=continuation)
        return _of_captured(source, _spans(span), weighing, quantity)
    texts = _continued(model, prompt, continuation)
    spans, deltas, base = _spans(span), _deltas(delta), as_intervention(steer)
    for text in texts:
        _check(model, text)
        starts_of(text.prompt, spans)
    frames = []
    for number in deltas:
        # At 0 nothing depends on the span, and one pass measures all of them; otherwise each span is biased alone.
        for group in [spans] if number == 0 else [[name] for name in spans]:
            steered = base if number == 0 else base + attention_bias(group[0], number)
            curves = _run(model, texts, group, weighing, steered, chunk)
            for place, (text, found) in enumerate(zip(texts, curves, strict=True)):
                frames += _frames(place, group, number, found, quantity, _tokens(model, text))
    return _table(frames, spans, weighing)


def _of_captured(source: Recorded, spans: list[str], weighing: Weighing, quantity: str) -> "pd.DataFrame":
    """The same of what was captured."""
    frames = []
    for place in range(len(source.members)):
        found, tokens = captured_curves(source, place, spans, weighing, quantity)
        frames += _frames(place, spans, 0.0, found, quantity, tokens)
    return _table(frames, spans, weighing)


def _table(frames: list["pd.DataFrame"], spans: Sequence[str], weighing: Weighing) -> "pd.DataFrame":
    """All frames in the order of prompts and spans."""
    import pandas as pd

    if weighing.skip_first:
        frames = [frame[frame["position"] > 0].assign(skip_first=True) for frame in frames]
    order = {name: place for place, name in enumerate(spans)}
    table = pd.concat(frames, ignore_index=True)
    if table.empty:  # of prompts of one token, without the first
        return table
    keys = table["prompt"] * len(order) + table["span"].map(order)
    return table.iloc[keys.argsort(kind="stable")].reset_index(drop=True)


def _continued(model: Any, prompt: Any, continuation: str | Sequence[str] | None) -> list[Continued]:
    prompts = as_prompts(model, prompt)
    after = continuations(model, prompts, continuation)
    return [Continued(p, tuple(ids)) for p, ids in zip(prompts, after, strict=True)]


def _spans(span: str | Sequence[str]) -> list[str]:
    names = [span] if isinstance(span, str) else listed("span", span)
    if not names or not all(isinstance(name, str) for name in names):
        raise MechsteerError(f"span must be a name or a list of names, e.g. 'instruction', got {shown(span)}.")
    return list(dict.fromkeys(names))


def _deltas(delta: float | Iterable[float]) -> list[float]:
    several = isinstance(delta, Iterable) and not isinstance(delta, str) and getattr(delta, "ndim", 1)
    many: Iterable[Any] = delta if several else [delta]  # pyright: ignore[reportAssignmentType]
    given = list(islice(many, MOST_DELTAS + 1))
    if len(given) > MOST_DELTAS:
        raise MechsteerError(f"delta has more than {MOST_DELTAS:,} values, each a pass of its own: leave some out.")
    numbers = list(dict.fromkeys(finite("delta", number) for number in given))
    if not numbers:
        raise MechsteerError("No delta was given; 0 leaves the attention as it is.")
    return numbers


def _check(model: Any, text: Continued) -> None:
    length = len(text.prompt) + len(text.continuation)
    if not is_encoder_decoder(model) and length > model.cfg.n_ctx:
        raise MechsteerError(f"{length} positions do not fit: this model's context has {context_of(model)}.")


def _run(
    model: Any,
    texts: Sequence[Continued],
    spans: Sequence[str],
    weighing: Weighing,
    steer: Intervention,
    chunk: int,
) -> list[Curves]:
    """Each prompt alone, so that nothing depends on the others."""
    found: dict[int, Curves] = {}
    whole = needs_whole_pass(steer)

    def run(step: Step) -> None:
        place = step.index[0] if step.index else 0
        text = texts[place]
        starts = starts_of(text.prompt, spans).to(model_device(model))
        tables, hooks = track(model, starts, weighing, lengths=_lengths(model, text), prompt=place)
        with hooked(model, hooks):
            _forward(model, step, text.continuation, None if whole else chunk)
        found[place] = {stack: table.cpu() for stack, table in tables.items()}

    run_batches(model, [s.prompt for s in texts], run, steer=steer, batch_size=1)
    return [found[place] for place in range(len(texts))]


def needs_whole_pass(steer: Intervention) -> bool:
    """Whether an edit pools over the queries of a pass, so that passes over pieces would be another intervention."""
    methods = [(edit, registered(edit)) for edit in steer.edits]
    return any(method is not None and method.pools(edit) for edit, method in methods)


def _lengths(model: Any, text: Continued) -> dict[str, int]:
    if is_encoder_decoder(model):
        return {"encoder": len(text.prompt), "decoder": 1 + len(text.continuation)}
    return {"blocks": len(text.prompt) + len(text.continuation)}


def _forward(model: Any, step: Step, continuation: Sequence[int], chunk: int | None) -> None:
    """Run the prompt and what follows it, in passes of at most ``chunk`` positions of the predicting stack."""
    state, first, _ = begin(model, step)
    tokens = torch.cat([first, torch.tensor([list(continuation)], dtype=torch.long)], dim=1)
    for place, end in passes(first.shape[1], tokens.shape[1], chunk):
        piece = tokens[:, place:end]
        residual(model, state, piece, torch.ones_like(piece, dtype=torch.bool))


def passes(prompt: int, total: int, chunk: int | None) -> Iterator[tuple[int, int]]:
    """Ranges of positions; none has both prompt and continuation, as interventions tell the two apart by the pass."""
    for start, end in ((0, prompt), (prompt, total)):
        for first in range(start, end, chunk or max(end - start, 1)):
            yield first, min(first + (chunk or total), end)


def _frames(
    place: int, spans: Sequence[str], delta: float, found: Curves, quantity: str, tokens: Mapping[str, list[str]]
) -> list["pd.DataFrame"]:
    """One table for each span and stack."""
    import numpy as np
    import pandas as pd

    frames = []
    for column, span in enumerate(spans):
        for stack, curves in found.items():
            values = curves[:, :, column]
            layers, length = values.shape
            columns = {
                "prompt": place,
                "span": span,
                "delta": delta,
                "stack": stack,
                "layer": np.repeat(np.arange(layers), length),
                "position": np.tile(np.arange(length), layers),
                "token": tokens[stack] * layers,
                quantity: values.flatten().numpy(),
            }
            frames.append(pd.DataFrame(columns))
    return frames


def _tokens(model: Any, text: Continued) -> dict[str, list[str]]:
    """The text of each stack's tokens."""
    read, after = text.prompt.tokens.tolist(), list(text.continuation)
    if not is_encoder_decoder(model):
        return {"blocks": token_pieces(model.tokenizer, read + after)}
    written = [model.cfg.decoder_start_token_id, *after]
    return {"encoder": token_pieces(model.tokenizer, read), "decoder": token_pieces(model.tokenizer, written)}
