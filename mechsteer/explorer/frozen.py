"""A steered answer whose attention looks where the unsteered model's would: what of an effect goes past attention.

Two rows of one prompt are computed together. The first is not steered; the second is, but for its attention weights: in
every layer and at every step they are the first row's. Both are given the token that the second chooses, so the first
row says where the unsteered model looks when it has read the same text. Ours; of a method that acts on attention alone
nothing is left.
"""

from dataclasses import dataclass, replace
from typing import Any

from jaxtyping import Float
from torch import Tensor

from mechsteer.decoding import Choice, Pass
from mechsteer.errors import MechsteerError
from mechsteer.steering import Edit, Intervention, Sites, Where, as_intervention, make_scope

PATTERNS = Sites((("blocks", "pattern"), ("encoder", "pattern"), ("decoder", "pattern"), ("decoder", "cross_pattern")))


def attention_frozen(steer: Intervention | None) -> "tuple[Intervention, SameTokens]":
    """What ``generate`` needs for one prompt, given twice; the second answer is the one that is meant.

    Args:
        steer: The intervention; its own rows are left out.

    Returns:
        The intervention for both rows, and the strategy, which is greedy.

    Example:
        >>> from mechsteer.explorer import attention_frozen
        >>> steer, strategy = attention_frozen(ms.attention_bias(delta=2.0))
        >>> ms.generate(model, [prompt, prompt], steer=steer, strategy=strategy).texts[1]
    """
    second = tuple(replace(e, scope=replace(e.scope, rows=(1,))) for e in as_intervention(steer).edits)
    weights = Edit("frozen_attention", PATTERNS, make_scope("all"), 1.0, _first_rows)
    return Intervention((*second, weights)), SameTokens()


def _first_rows(edit: Edit, x: Float[Tensor, "rows heads queries keys"], where: Where) -> Tensor:
    step = where.step
    first = 0 if step is None or step.index is None else list(step.index).index(0)
    return x[first : first + 1].expand_as(x).clone()


@dataclass(frozen=True)
class SameTokens:
    """Greedy decoding of the second prompt; the first takes its tokens."""

    def chooser(self, model: Any) -> "SameTokens":
        """It has nothing to remember."""
        return self

    def choose(self, current: Pass) -> Choice:
        """Choose the second prompt's largest logit.

        Raises:
            MechsteerError: for other prompts than one, twice.
        """
        if sorted(current.places) != [0, 1]:
            raise MechsteerError(
                f"Frozen attention takes one prompt twice, [prompt, prompt], got {len(current.places)}."
            )
        logits = current.logits()
        chosen = current.processed(logits).argmax(-1)[current.places.index(1)]
        return Choice(chosen.repeat(len(logits)), logits)
