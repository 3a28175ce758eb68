"""What an intervention does to one prompt, as a table."""

from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from mechsteer.errors import not_finite
from mechsteer.models import advance, as_prompts, hooked, is_encoder_decoder, pad, parse, position_stack
from mechsteer.prompts import Prompt, PromptLike
from mechsteer.prompts.vocabulary import token_text
from mechsteer.steering.batches import begin, check_saes
from mechsteer.steering.intervention import BoundEdit, Intervention, attach, check_fired, in_norms
from mechsteer.steering.scope import Scope, Step
from mechsteer.steering.sites import SCORE_KINDS

if TYPE_CHECKING:
    import pandas as pd


GENERATED = "generated tokens only"
"""What an edit acts on that has nothing to do before the first new token."""

_MASKED = 1e9  # beyond this an attention score is a mask


class _Measured:
    """A bound edit that also measures how far it moves the activation."""

    def __init__(self, bound: BoundEdit) -> None:
        self.bound = bound
        self.changes: list[float] = []
        self.norms: list[float] = []

    def __call__(self, x: Tensor, hook: Any = None) -> Tensor | None:
        out = self.bound(x, hook)
        if out is not None:
            visible = x.abs() < _MASKED  # attention scores of masked keys say nothing
            before = _rows(torch.where(visible, x.float(), 0.0), hook.name)
            moved = _rows(torch.where(visible, out.float() - x.float(), 0.0), hook.name).norm(dim=-1)
            touched = moved > 0
            self.changes += moved[touched].tolist()
            self.norms += before.norm(dim=-1)[touched].tolist()
        return out

    @property
    def change(self) -> float:
        return sum(self.changes) / len(self.changes) if self.changes else 0.0

    @property
    def before(self) -> float:
        return sum(self.norms) / len(self.norms) if self.norms else 0.0


def _rows(x: Tensor, site: str) -> Tensor:
    """One row a position; of attention scores, one row a head and query."""
    parsed = parse(site)
    return x if parsed is not None and parsed[2] in SCORE_KINDS else x.flatten(2)


def explain(intervention: Intervention, model: Any, prompt: PromptLike) -> "pd.DataFrame":
    """Run one prompt without, with each edit alone, and with all of them, up to its first new token.

    An edit in the scope ``"generated"`` has nothing to do yet there: its ``tokens`` say that it acts on those alone.

    Returns:
        One row an edit and, when there are several, one for all ``together``. Columns: method, site, scope, span,
        strength, in_norms (of a vector that is added: its length in mean norms of the states, as its direction records
        them, or else as they are here), tokens (of the span, or at the positions it acts on), fired (how many passes of
        the hook point it changed), change_norm (mean L2 norm of the change over the positions it moved; of attention
        scores, over heads and queries), relative_change (the same divided by the activation's norm), kl (KL divergence
        in nats of the next-token distribution, steered from unsteered), top1_before, top1_after.

    Raises:
        MechsteerError: if an edit does not fit the model, or its SAE the prompt, never fires, or makes the logits NaN
            or infinite.
    """
    import pandas as pd

    intervention.check(model)
    (made,) = as_prompts(model, [prompt])
    check_saes(model, [made], intervention)
    before, _ = _run(model, made, Intervention())
    rows = []
    for edit in intervention.edits:
        after, measured = _run(model, made, Intervention((edit,)))
        (one,) = measured
        rows.append(
            {
                "method": edit.method,
                "site": edit.site if isinstance(edit.site, str) else str(edit.site.within(model)),
                "scope": str(edit.scope),
                "span": " ".join(edit.spans),
                "strength": edit.strength,
                "in_norms": in_norms(edit, one.before),
                "tokens": _tokens(model, one.bound, made),
                "fired": one.bound.fired,
                "change_norm": one.change,
                "relative_change": one.change / one.before if one.before else float("nan"),
                **_difference(model, before, after),
            }
        )
    if len(intervention.edits) > 1:
        after, measured = _run(model, made, intervention)
        fired = sum(m.bound.fired for m in measured)
        rows.append({"method": "together", "fired": fired, **_difference(model, before, after)})
    return pd.DataFrame(rows)


@torch.no_grad()
def _run(model: Any, made: Prompt, steer: Intervention) -> tuple[Float[Tensor, "d_vocab"], list[_Measured]]:
    one = pad(model, [made])
    step = Step(one, decoder_prefix=int(is_encoder_decoder(model)))
    measured = [_Measured(bound) for bound in steer.bind(model, step)]
    with hooked(model, [(name, m) for m in measured for name, _ in attach([m.bound], model)]):
        logits = advance(model, *begin(model, step))[0, -1]
    check_fired([m.bound for m in measured], model)
    if not logits.isfinite().all():
        raise not_finite("unembed.hook_out", 0)
    return logits.cpu().double().log_softmax(-1), measured  # in float32 the KL of a small change comes out below 0


def _tokens(model: Any, bound: BoundEdit, made: Prompt) -> str:
    """The tokens of the span whose keys are steered, or those at the positions that are."""
    step, edit = bound.step, bound.edit
    if edit.scope.where == "generated":
        return GENERATED
    stacks = {position_stack(name, two_stacks=bound.two_stacks) for name, _ in attach([bound], model)}
    if step is None or (stacks == {"decoder"} and not edit.spans):
        return "decoder start" if bound.fired else ""
    scopes = edit.span_scopes() or (edit.scope,)
    stack = "encoder" if bound.two_stacks else "blocks"
    chosen = [step.select(Scope(scope.where), stack, len(made)) for scope in scopes]
    if any(hit is True for hit in chosen):
        return "all"
    hits = [any(not isinstance(mask, bool) and bool(mask[0, i]) for mask in chosen) for i in range(len(made))]
    return " ".join(text.strip(" ") for places, text in made.letters() if any(hits[place] for place in places))


def _difference(model: Any, before: Float[Tensor, "d_vocab"], after: Float[Tensor, "d_vocab"]) -> dict[str, Any]:
    return {
        "kl": float((after.exp() * (after - before)).sum()),
        "top1_before": token_text(model.tokenizer, int(before.argmax())),
        "top1_after": token_text(model.tokenizer, int(after.argmax())),
    }
