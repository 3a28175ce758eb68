"""How good an SAE is: L0, explained variance, and how much of the model's prediction survives its reconstruction.

``explained_variance`` is 1 - sum |x - x^|^2 / sum |x - mean|^2 over held-out positions. ``ce_recovered`` is
(CE_zero - CE_sae) / (CE_zero - CE), with the cross-entropy (nats a token) of the taught answers while every position's
activation is left alone (CE), replaced by decode(encode(x)) (CE_sae), or by zeros (CE_zero).
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mechsteer.activations import capture
from mechsteer.decoding.score import score_ids
from mechsteer.models import continuation_ids
from mechsteer.prompts import Prompt, prompt
from mechsteer.steering import Edit, Intervention, Scope, Where, load_sae


@torch.no_grad()
def quality(model: Any, path: Any, site: str, examples: Sequence[Any], *, new_tokens: int) -> dict[str, float]:
    """Measure a saved SAE on prompts with their answers: l0, explained_variance, dead_share, and four of CE."""
    sae = load_sae(path)
    prompts = [prompt(model, e.prompt) for e in examples]
    x = capture(model, prompts, sites=site, positions="all", generate=new_tokens, batch_size=128)[site].flatten(1)
    acts = torch.cat([sae.encode(part) for part in x.split(4096)])
    remains = x - torch.cat([sae.decode(part) for part in acts.split(4096)])
    variance = (x - x.mean(0)).double().square().sum()
    answers = [continuation_ids(model, e.answer, p) for e, p in zip(examples, prompts, strict=True)]
    clean = cross_entropy(model, prompts, answers, Intervention())
    replaced = cross_entropy(model, prompts, answers, replace(site, lambda x: sae.decode(sae.encode(x))))
    zero = cross_entropy(model, prompts, answers, replace(site, torch.zeros_like))
    found = {
        "l0": float((acts > 0).double().sum(-1).mean()),
        "explained_variance": float(1 - remains.double().square().sum() / variance),
        "never_active": float((~(acts > 0).any(0)).double().mean()),
        "ce": clean,
        "ce_sae": replaced,
        "ce_zero": zero,
        "ce_recovered": (zero - replaced) / (zero - clean),
    }
    return {name: round(value, 4) for name, value in found.items()} | {"positions": len(x)}


def replace(site: str, function: Callable[[Tensor], Tensor]) -> Intervention:
    """An intervention that puts a function of the activation in its place, padding excepted."""

    def apply(_: Edit, x: Float[Tensor, "rows positions width"], where: Where) -> Tensor:
        mask = where.query_mask(x.shape[0], x.shape[1], x.device)
        return torch.where(mask[..., None], function(x), x)

    return Intervention((Edit("replace", site, Scope(), 1.0, apply),))


def cross_entropy(
    model: Any, prompts: Sequence[Prompt], answers: Sequence[Sequence[int]], steer: Intervention
) -> float:
    """Mean negative log-probability of the answers' tokens, in nats."""
    scores, _ = score_ids(model, prompts, [[ids] for ids in answers], steer=steer)
    return float(-scores.double().sum() / sum(map(len, answers)))
