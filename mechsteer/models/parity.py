"""Whether the hooked model computes what Hugging Face's model computes."""

from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mechsteer.errors import MechsteerError, ParityError
from mechsteer.models.forward import advance, model_device, start
from mechsteer.models.info import check_model, is_encoder_decoder, model_info

if TYPE_CHECKING:
    import pandas as pd

TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 1e-1, torch.float16: 5e-2}
"""The largest difference of a next-token probability that the gate lets through, by dtype."""

_DECODER_TOKENS, _NEW_TOKENS = 5, 3


def gate(model: Any, hf_model: Any) -> None:
    """Refuse a model whose probabilities are not Hugging Face's: two fixed prompts, one of them padded.

    Raises:
        ParityError: with the largest difference.
    """
    tokens, mask = _random_prompts(model, lengths=(11, 7), seed=0)
    ours, theirs = _both(model, hf_model, tokens, mask)
    if not theirs.isfinite().all():
        raise ParityError(
            f"Hugging Face's own logits of these weights are not finite in {model.cfg.dtype}, so there is nothing to "
            "be equal to. Load the model in another dtype: float32, or bfloat16 for float16."
        )
    difference, agreement = _compare(ours, theirs)
    tolerance = TOLERANCE.get(model.cfg.dtype, 1e-3)
    if not difference <= tolerance:  # also true for NaN
        raise ParityError(
            f"The hooked {model_info(model).family} model differs from Hugging Face's: largest difference of a "
            f"next-token probability {difference:.2g} (allowed {tolerance:g} in {model.cfg.dtype}), same most likely "
            f"token at {agreement:.0%} of positions. Its configuration has a feature that the hooked modules do not "
            "represent. "
            "check=False loads it all the same, with wrong numbers."
        )


def verify(model: Any, hf_model: Any = None) -> "pd.DataFrame":
    """Compare a loaded model with Hugging Face's on random token batches.

    Args:
        model: From :func:`mechsteer.load`.
        hf_model: The Hugging Face model; default: loaded again from where ``model`` came from.

    Returns:
        One row a check (``unpadded``, ``padded``, ``cached``: prompt and then one token at a time against the cache):
        the largest absolute difference of a next-token probability (``max_abs_diff``), the share of positions with the
        same most likely token (``argmax_agreement``), and whether the difference is within :data:`TOLERANCE` (``ok``).

    Raises:
        MechsteerError: if no Hugging Face model is given and the model's origin is not known.
    """
    import pandas as pd

    check_model(model)
    hf_model = hf_model if hf_model is not None else _reload(model)
    rows = []
    batches = {"unpadded": (12, 12, 12), "padded": (14, 9, 4)}
    for seed, (check, lengths) in enumerate(batches.items(), start=1):
        tokens, mask = _random_prompts(model, lengths, seed)
        rows.append((check, *_compare(*_both(model, hf_model, tokens, mask))))
    tokens, mask = _random_prompts(model, (10, 6), seed=3)
    rows.append(("cached", *_compare(*_both(model, hf_model, tokens, mask, cached=True))))
    table = pd.DataFrame(rows, columns=["check", "max_abs_diff", "argmax_agreement"])
    table["ok"] = table["max_abs_diff"] <= TOLERANCE.get(model.cfg.dtype, 1e-3)
    return table


def _reload(model: Any) -> Any:
    from pathlib import Path

    from mechsteer.models.hf import load_hf

    info = model_info(model)
    if not info.path:
        raise MechsteerError("This model was not made by mechsteer.load; pass hf_model= to compare it with.")
    return load_hf(Path(info.path), dtype=model.cfg.dtype, device=model_device(model))


def _random_prompts(
    model: Any, lengths: tuple[int, ...], seed: int
) -> tuple[Int[Tensor, "batch pos"], Bool[Tensor, "batch pos"]]:
    generator = torch.Generator().manual_seed(seed)
    longest = max(lengths)
    tokens = torch.randint(0, model.cfg.d_vocab, (len(lengths), longest), generator=generator)
    lengths_column = torch.tensor(lengths)[:, None]
    positions = torch.arange(longest)[None, :]
    if is_encoder_decoder(model):
        return tokens, positions < lengths_column
    return tokens, positions >= longest - lengths_column


@torch.no_grad()
def _both(
    model: Any,
    hf_model: Any,
    tokens: Int[Tensor, "batch pos"],
    mask: Bool[Tensor, "batch pos"],
    *,
    cached: bool = False,
) -> tuple[Float[Tensor, "positions d_vocab"], Float[Tensor, "positions d_vocab"]]:
    """Log-probabilities of both models at the same real positions."""
    device = model_device(model)
    tokens, mask = tokens.to(device), mask.to(device)
    if is_encoder_decoder(model):
        generator = torch.Generator().manual_seed(99)
        decoder = torch.randint(0, model.cfg.d_vocab, (tokens.shape[0], _DECODER_TOKENS), generator=generator)
        decoder[:, 0] = model.cfg.decoder_start_token_id
        fed, fed_mask = decoder.to(device), torch.ones_like(decoder, dtype=torch.bool, device=device)
        theirs = hf_model(input_ids=tokens, attention_mask=mask.long(), decoder_input_ids=fed).logits
    else:
        fed, fed_mask = tokens, mask
        positions = (mask.long().cumsum(-1) - 1).clamp(min=0)
        theirs = hf_model(input_ids=tokens, attention_mask=mask.long(), position_ids=positions).logits
    _check_unhooked(model)
    state = start(model, tokens, mask)
    if cached:
        split = fed.shape[1] - _NEW_TOKENS
        parts = [advance(model, state, fed[:, :split], fed_mask[:, :split], logits_at="all")]
        for position in range(split, fed.shape[1]):
            new = slice(position, position + 1)
            parts.append(advance(model, state, fed[:, new], fed_mask[:, new]))
        ours = torch.cat(parts, dim=1)
    else:
        ours = advance(model, state, fed, fed_mask, logits_at="all")
    return ours[fed_mask].float().log_softmax(-1), theirs[fed_mask].float().log_softmax(-1)


def _check_unhooked(model: Any) -> None:
    hooked = sorted(name for name, point in model.hook_dict.items() if point.fwd_hooks)
    if hooked:
        raise MechsteerError(f"Hooks are on the model at {', '.join(hooked[:3])}; call model.reset_hooks() first.")


def _compare(ours: Float[Tensor, "n d_vocab"], theirs: Float[Tensor, "n d_vocab"]) -> tuple[float, float]:
    difference = (ours.exp() - theirs.exp()).abs().max().item()
    agreement = (ours.argmax(-1) == theirs.argmax(-1)).float().mean().item()
    return difference, agreement
