"""Which hook points an edit acts at: one by its full name, or one kind in some layers of some stacks."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mechsteer.errors import MechsteerError, shown, unknown, wholes
from mechsteer.models import fires, loaded_info, parse, stacks
from mechsteer.models.sites import switched_on

SCORE_KINDS = frozenset({"attn_scores", "cross_attn_scores", "pattern", "cross_pattern"})
"""Kinds whose tensors are ``[batch, heads, query_pos, key_pos]``; all others have positions in their second
dimension."""


@dataclass(frozen=True)
class Sites:
    """The hook points of some kinds.

    An instance is also a name filter, the form in which TransformerLens takes several hook points at once.

    Attributes:
        kinds: ``(stack, kind)`` pairs, e.g. ``("blocks", "attn_scores")``; those that a model lacks are ignored.
        layers: Layers, from 0; negative ones count from the end of each stack. None for all.
    """

    kinds: tuple[tuple[str, str], ...]
    layers: tuple[int, ...] | None = None

    def __call__(self, name: str) -> bool:
        """Whether the hook point of that full name is meant.

        Raises:
            MechsteerError: for layers that count from the end: of which stack, a name alone does not say.
        """
        if self.layers and min(self.layers) < 0:
            raise MechsteerError(
                f"The layers {list(self.layers)} count from the end of a model, which hooks do not know: name them "
                "from 0."
            )
        return bool(self.of([name], {}))

    def of(self, names: Iterable[str], sizes: Mapping[str, int]) -> list[str]:
        """Those of the names that are meant, in a model whose stacks have so many layers."""
        layers = self.layers
        return [
            name
            for name in names
            if (found := parse(name)) is not None
            and (found[0], found[2]) in self.kinds
            and (layers is None or found[1] in layers or found[1] - sizes.get(found[0], 0) in layers)
        ]

    def within(self, model: Any) -> "Sites":
        """The same without the kinds that a model does not have."""
        present = {(p[0], p[2]) for name in model.hook_dict if (p := parse(name)) is not None}
        return Sites(tuple(kind for kind in self.kinds if kind in present), self.layers)

    def __str__(self) -> str:
        layers = "*" if self.layers is None else ",".join(map(str, self.layers))
        return " ".join(f"{stack}.{layers}.{kind}" for stack, kind in self.kinds)


Target = str | Sites


def names(target: Target, model: Any, method: str) -> list[str]:
    """The full names of a target's hook points in a model, in the model's order.

    Raises:
        MechsteerError: if the model has none of them, a layer is out of range, or a hook point is never reached.
    """
    family = loaded_info(model).family
    if isinstance(target, str):
        if target not in model.hook_dict:
            raise unknown(f"site for this {family} model", target, model.hook_dict)
        if not fires(model, target):
            raise MechsteerError(
                f"{target!r} is never reached in this {family} model with its present settings, so {method} would do "
                f"nothing.{switched_on(target)}"
            )
        return [target]
    sizes = stacks(model)
    here = {stack: sizes[stack] for stack, _ in target.kinds if stack in sizes}
    for layer in target.layers or ():
        if here and not -max(here.values()) <= layer < max(here.values()):
            raise MechsteerError(f"{method}: layer {layer} is out of range: {_ranges(here)}.")
    found = target.of(model.hook_dict, sizes)
    if not found:
        raise MechsteerError(f"{method} acts at {target}, which this {family} model does not have: {_ranges(sizes)}.")
    return found


def _ranges(sizes: Mapping[str, int]) -> str:
    return ", ".join(f"{stack} has layers 0 to {count - 1}" for stack, count in sizes.items())


def checked_spans(spans: Any, method: str, strength: str) -> tuple[str, ...]:
    """Freeze a choice of spans.

    Args:
        spans: One name or several.
        method: The method, for errors.
        strength: The name of its strength, which is easily given in the place of the span.

    Raises:
        MechsteerError: for what is no name, or no names.
    """
    names = (spans,) if isinstance(spans, str) else tuple(spans) if isinstance(spans, Sequence) else ()
    if not names or not all(isinstance(name, str) and name for name in names):
        raise MechsteerError(
            f"{method} needs a span, e.g. 'instruction', got {shown(spans)}; the strength is {strength}=."
        )
    return names


def checked_layers(layers: Sequence[int] | None) -> tuple[int, ...] | None:
    """Freeze a choice of layers.

    Raises:
        MechsteerError: for an empty choice or one that is not of integers.
    """
    if layers is None:
        return None
    found = wholes(layers)
    if not found:
        raise MechsteerError(f"layers must name layers, e.g. [0, 3], or [-1] for the last, got {shown(layers)}.")
    return tuple(sorted(set(found)))
