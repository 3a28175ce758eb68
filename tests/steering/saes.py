"""SAEs of every kind for tiny models, with random weights, and a feature edit by its definition."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

import mechsteer as ms
from mechsteer.models import is_encoder_decoder

D_SAE = 48


def own_site(model: Any, kind: str = "resid_post", stack: str = "decoder") -> str:
    return ms.site(model, kind, layer=1, stack=stack if is_encoder_decoder(model) else None)


def make_sae(model: Any, kind: str = "topk", *, site: str | None = None, d_in: int = 32, **options: Any) -> Any:
    """An SAE whose biases are not zero and whose decoder's rows differ in norm."""
    import sae_lens
    from sae_lens.saes.sae import SAEMetadata

    names = {
        "topk": ("TopKSAE", {"k": 6}),
        "abstopk": ("AbsTopKSAE", {"k": 6}),
        "standard": ("StandardSAE", {}),
        "jumprelu": ("JumpReLUSAE", {}),
        "gated": ("GatedSAE", {}),
        "matching_pursuit": ("MatchingPursuitSAE", {"max_iterations": 6}),
        "temporal": ("TemporalSAE", {"n_heads": 1, "bottleneck_factor": 1}),
        "transcoder": ("Transcoder", {"d_out": d_in, "apply_b_dec_to_input": False}),
        "train-topk": ("TopKTrainingSAE", {"k": 6}),
        "train-batchtopk": ("BatchTopKTrainingSAE", {"k": 6}),
    }
    name, defaults = names[kind]
    metadata = SAEMetadata(**{"hook_name": site or own_site(model), **options.pop("metadata", {})})
    config = getattr(sae_lens, f"{name}Config")(d_in=d_in, d_sae=D_SAE, metadata=metadata, **(defaults | options))
    sae = getattr(sae_lens, name)(config)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for key, p in sae.named_parameters():
            p.copy_(torch.randn(p.shape, generator=generator) * (0.15 if p.ndim > 1 else 0.1))
            if key == "threshold":
                p.abs_()
        if kind == "matching_pursuit":  # it needs rows of norm 1
            sae.W_dec /= sae.W_dec.norm(dim=-1, keepdim=True)
        if kind == "train-batchtopk":
            sae.topk_threshold.fill_(0.2)
    return sae


def by_definition(sae: Any, edits: Mapping[int, Any]) -> Callable[[Tensor], Tensor]:
    """X + decode(f') - decode(f), feature by feature, with SAELens' own encoder and decoder."""

    def edited(x: Tensor) -> Tensor:
        changed = sae.encode(x).clone()
        for index, change in edits.items():
            operation, value = (change, 0.0) if isinstance(change, str) else change
            if operation == "add":
                changed[..., index] += value
            elif operation == "scale":
                changed[..., index] *= value
            else:
                changed[..., index] = value
        after = sae.decode(changed)
        return x + after - sae.decode(sae.encode(x))

    return edited
