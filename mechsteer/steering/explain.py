"""What an intervention does to one prompt, as a table."""

from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from mechsteer.models import advance, hooked, is_encoder_decoder, start
from mechsteer.prompts import Prompt, batch
from mechsteer.prompts import prompt as make_prompt
from mechsteer.steering.intervention import BoundEdit, Intervention, check_fired
from mechsteer.steering.scope import Step

if TYPE_CHECKING:
    import pandas as pd


class _Measured:
    """A bound edit that also measures how far it moves the activation."""

    def __init__(self, bound: BoundEdit) -> None:
        self.bound, self.change, self.before = bound, 0.0, 0.0

    def __call__(self, x: Tensor, hook: Any = None) -> Tensor | None:
        out = self.bound(x, hook)
        if out is not None:
            rows = x.float().flatten(2), out.float().flatten(2)
            moved = (rows[1] - rows[0]).norm(dim=-1)
            touched = moved > 0
            if touched.any():
                self.change = float(moved[touched].mean())
                self.before = float(rows[0].norm(dim=-1)[touched].mean())
        return out


def explain(intervention: Intervention, model: Any, prompt: str | Prompt) -> "pd.DataFrame":
    """Run one prompt without, with each edit alone, and with all of them.

    Returns:
        One row an edit and, when there are several, one for all ``together``. Columns: method, site, scope, strength,
        tokens (the tokens it acts on), fired (how many passes of the hook point it changed), change_norm (mean L2 norm
        of the change over the positions it moved), relative_change (the same divided by the activation's norm), kl (KL
        divergence in nats of the next-token distribution, steered from unsteered), top1_before, top1_after.

    Raises:
        MechsteerError: if an edit does not fit the model or never fires.
    """
    import pandas as pd

    intervention.check(model)
    made = prompt if isinstance(prompt, Prompt) else make_prompt(model, prompt)
    before, _ = _run(model, made, Intervention())
    rows = []
    for edit in intervention.edits:
        after, measured = _run(model, made, Intervention((edit,)))
        (one,) = measured
        rows.append(
            {
                "method": edit.method,
                "site": edit.site,
                "scope": str(edit.scope),
                "strength": edit.strength,
                "tokens": _tokens(one.bound, made),
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
    two_stacks = is_encoder_decoder(model)
    one = batch([made], side="right" if two_stacks else "left")
    step = Step(one, decoder_prefix=int(two_stacks))
    measured = [_Measured(bound) for bound in steer.bind(step)]
    with hooked(model, [(m.bound.edit.site, m) for m in measured]):
        state = start(model, one.tokens, one.mask)
        tokens = torch.tensor([[model.cfg.decoder_start_token_id]]) if two_stacks else one.tokens
        step.begin(tokens.shape[1])
        logits = advance(model, state, tokens, torch.ones_like(tokens, dtype=torch.bool))[0, -1]
    check_fired([m.bound for m in measured], model)
    return logits.float().log_softmax(-1), measured


def _tokens(bound: BoundEdit, made: Prompt) -> str:
    if bound.step is None or bound.stack == "decoder":
        return "decoder start" if bound.fired else ""
    chosen = bound.step.select(bound.edit.scope, bound.stack, len(made))
    if isinstance(chosen, bool):
        return "all" if chosen else ""
    return " ".join(token for token, hit in zip(made.str_tokens, chosen[0].tolist(), strict=True) if hit)


def _difference(model: Any, before: Float[Tensor, "d_vocab"], after: Float[Tensor, "d_vocab"]) -> dict[str, Any]:
    return {
        "kl": float((after.exp() * (after - before)).sum()),
        "top1_before": model.tokenizer.decode([int(before.argmax())]),
        "top1_after": model.tokenizer.decode([int(after.argmax())]),
    }
