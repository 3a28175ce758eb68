"""Whether the hooked model computes what Hugging Face's model computes.

The gate compares log-probabilities, over the whole vocabulary, of random tokens: 64 of them or, where that is cheap
enough, so many that they reach past the model's windows; two rows, one of them padded; the last tokens one at a time
against the cache. Two numbers decide: the root mean square of the differences, which a wrong setting raises far above
what rounding does, also where no single one stands out; and the largest.

What such a comparison may not show is compared with Hugging Face's modules and configuration directly
(:mod:`mechsteer.models.unseen`), and what changes with the length of a text ends the context
(:func:`mechsteer.models.families.rope.context`).
"""

from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mechsteer.errors import MechsteerError, ParityError
from mechsteer.models.forward import advance, model_device, start
from mechsteer.models.hooking import hooked
from mechsteer.models.info import check_model, is_encoder_decoder, model_info
from mechsteer.models.unseen import differing_settings, our_windows

if TYPE_CHECKING:
    import pandas as pd

TOLERANCE = {torch.float32: 5e-5, torch.bfloat16: 3e-1, torch.float16: 5e-2}
"""The root mean square of the differences of log-probabilities that the gate lets through, by dtype. Rounding alone
makes 1e-6 to 6e-6, 0.03 to 0.12 and 0.002 to 0.015 in models that are sound."""

TOLERANCE_T5 = {torch.float32: 1e-3, torch.bfloat16: 5e-1, torch.float16: 3e-1}
"""The same for T5, whose attention has no scale: its scores are large, and rounding shows 10 to 30 times as much."""

LARGEST = 20
"""How many times the tolerance the largest difference may be."""

_TOKENS, _FEW, _PAST_WINDOW, _LONGEST = 64, 16, 16, 640
_AFFORDABLE = 2e10  # tokens times weights: one or two seconds of two cores
_ONE_AT_A_TIME, _AS_EXACT = 3, 2.0

Inputs = tuple[Int[Tensor, "batch pos"], Bool[Tensor, "batch pos"], Int[Tensor, "batch new"], Bool[Tensor, "batch new"]]


@dataclass(frozen=True)
class Difference:
    """How far two models are apart.

    Attributes:
        probability: The largest difference of a next-token probability.
        largest: The largest difference of a log-probability.
        typical: The root mean square of the differences of log-probabilities.
        agreement: The share of positions with the same most likely token.
    """

    probability: float
    largest: float
    typical: float
    agreement: float

    def within(self, model: Any) -> bool:
        """Whether this is no more than rounding, for the model's dtype. False for NaN."""
        table = TOLERANCE_T5 if is_encoder_decoder(model) else TOLERANCE
        tolerance = table.get(model.cfg.dtype, table[torch.float32])
        return self.typical <= tolerance and self.largest <= LARGEST * tolerance


def gate(model: Any, hf_model: Any) -> None:
    """Refuse a model that is not Hugging Face's.

    Raises:
        ParityError: naming the setting that differs, or with the differences of log-probabilities.
    """
    wrong = _what_is_wrong(model, hf_model)
    if wrong:
        raise ParityError(wrong)


def _what_is_wrong(model: Any, hf_model: Any) -> str:
    """Why the gate is closed; empty where it is open."""
    differs = f"The hooked {model_info(model).family} model differs from Hugging Face's:"
    anyway = "check=False loads it all the same, with wrong numbers."
    for name, ours, theirs in differing_settings(model, hf_model):
        return f"{differs} {name} is {ours}, not {theirs}. {anyway}"
    length = _length(model)
    tokens, mask = _random_prompts(model, (length, max(1, length - 23)), seed=0)
    ours, theirs = _both(model, hf_model, tokens, mask, decoder=_TOKENS, cached=True)
    if not theirs.isfinite().all():
        return (
            f"Hugging Face's own logits of these weights are not finite in {model.cfg.dtype}, so there is nothing to "
            "be equal to. Load the model in another dtype: float32, or bfloat16 for float16."
        )
    found = compare(ours, theirs)
    if found.within(model) or _but_for_routing(model, ours, theirs):
        return ""
    if _as_exact(model, hf_model, tokens, mask, ours, theirs):
        return ""
    return (
        f"{differs} log-probabilities by {found.typical:.2g} (root mean square) and up to {found.largest:.2g} in "
        f"{model.cfg.dtype}, same most likely token at {found.agreement:.0%} of positions. Its configuration has a "
        f"feature that the hooked modules do not represent. {anyway}"
    )


def _as_exact(
    model: Any,
    hf_model: Any,
    tokens: Int[Tensor, "batch pos"],
    mask: Bool[Tensor, "batch pos"],
    ours: Float[Tensor, "positions d_vocab"],
    theirs: Float[Tensor, "positions d_vocab"],
) -> bool:
    """Whether ours is as close to float32 as Hugging Face's half precision is, which in some models is not close."""
    if model.cfg.dtype not in (torch.bfloat16, torch.float16):
        return False
    exact = _theirs(deepcopy(hf_model).float(), *_fed(model, tokens, mask, _TOKENS))
    return compare(ours, exact).typical <= _AS_EXACT * compare(theirs, exact).typical


def _but_for_routing(
    model: Any, ours: Float[Tensor, "positions d_vocab"], theirs: Float[Tensor, "positions d_vocab"]
) -> bool:
    """Of a mixture of experts in half precision: whether ours is Hugging Face's at three of four positions.

    Rounding sends a token to another expert now and then, and there the two differ by far.
    """
    half = model.cfg.dtype in (torch.bfloat16, torch.float16)
    if not (model.cfg.num_experts and half and ours.isfinite().all()):
        return False
    apart = torch.tensor([compare(ours[i : i + 1], theirs[i : i + 1]).typical for i in range(len(ours))])
    kept = apart.argsort()[: 3 * len(apart) // 4]
    return compare(ours[kept], theirs[kept]).within(model)


def _length(model: Any) -> int:
    """How many tokens: past the longest window that is cheap enough to reach."""
    if is_encoder_decoder(model):
        return _TOKENS
    past = [window + _PAST_WINDOW for window in our_windows(model) if window]
    longest = min(_LONGEST, int(_AFFORDABLE / model.cfg.n_params))
    return min(max([_TOKENS, *(length for length in past if length <= longest)]), model.cfg.n_ctx)


def verify(model: Any, hf_model: Any = None) -> "pd.DataFrame":
    """Compare a loaded model with Hugging Face's on random token batches.

    Args:
        model: From :func:`mechsteer.load`.
        hf_model: The Hugging Face model; default: loaded again from where ``model`` came from.

    Returns:
        One row a check (``unpadded``, ``padded``, ``cached``: prompt and then one token at a time against the cache):
        the largest absolute difference of a next-token probability (``max_abs_diff``), the share of positions with the
        same most likely token (``argmax_agreement``), and ``ok``: whether the log-probabilities are within
        :data:`TOLERANCE`, and the gate at load lets the model through.

    Raises:
        MechsteerError: if no Hugging Face model is given and the model's origin is not known.

    Example:
        >>> ms.verify(model)
    """
    import pandas as pd

    check_model(model)
    hf_model = hf_model if hf_model is not None else _reload(model)
    length, sound = _length(model), not _what_is_wrong(model, hf_model)
    lengths = {"unpadded": (length, length), "padded": (length, length - 23, 9), "cached": (length - 4, length - 27)}
    rows = []
    for seed, (check, given) in enumerate(lengths.items(), start=1):
        tokens, mask = _random_prompts(model, tuple(max(1, n) for n in given), seed)
        both = _both(model, hf_model, tokens, mask, decoder=_FEW, cached=check == "cached")
        found = compare(*both)
        close = found.within(model) or _but_for_routing(model, *both)
        rows.append((check, found.probability, found.agreement, sound and close))
    return pd.DataFrame(rows, columns=["check", "max_abs_diff", "argmax_agreement", "ok"])


def _reload(model: Any) -> Any:
    from pathlib import Path

    from mechsteer.models.checkpoint.hf import load_hf

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
    decoder: int,
    cached: bool = False,
) -> tuple[Float[Tensor, "positions d_vocab"], Float[Tensor, "positions d_vocab"]]:
    """Logits of both models at the same real positions; T5's decoder gets so many random tokens."""
    inputs = _fed(model, tokens, mask, decoder)
    theirs = _theirs(hf_model, *inputs)
    _check_unhooked(model)
    tokens, mask, fed, fed_mask = inputs
    ours = _ours(model, start(model, tokens, mask), fed, fed_mask, _ONE_AT_A_TIME if cached else 0)
    return ours[fed_mask], theirs


def _fed(model: Any, tokens: Int[Tensor, "batch pos"], mask: Bool[Tensor, "batch pos"], decoder: int) -> Inputs:
    """Tokens and mask on the model's device, and what the stack that predicts is fed, with its mask."""
    device = model_device(model)
    tokens, mask = tokens.to(device), mask.to(device)
    if not is_encoder_decoder(model):
        return tokens, mask, tokens, mask
    fed = torch.randint(0, model.cfg.d_vocab, (len(tokens), decoder), generator=torch.Generator().manual_seed(99))
    fed[:, 0] = model.cfg.decoder_start_token_id
    return tokens, mask, fed.to(device), torch.ones_like(fed, dtype=torch.bool, device=device)


@torch.no_grad()
def _theirs(
    hf_model: Any,
    tokens: Int[Tensor, "batch pos"],
    mask: Bool[Tensor, "batch pos"],
    fed: Int[Tensor, "batch new"],
    fed_mask: Bool[Tensor, "batch new"],
) -> Float[Tensor, "positions d_vocab"]:
    if hf_model.config.is_encoder_decoder:
        return hf_model(input_ids=tokens, attention_mask=mask.long(), decoder_input_ids=fed).logits[fed_mask]
    positions = (mask.long().cumsum(-1) - 1).clamp(min=0)
    return hf_model(input_ids=tokens, attention_mask=mask.long(), position_ids=positions).logits[mask]


def _ours(
    model: Any, state: Any, fed: Int[Tensor, "batch pos"], mask: Bool[Tensor, "batch pos"], one_at_a_time: int
) -> Float[Tensor, "batch pos d_vocab"]:
    """Logits at all positions, the last ones step by step, with scores and patterns made as hooks on them want it."""
    split = max(1, fed.shape[1] - one_at_a_time)
    parts = [advance(model, state, fed[:, :split], mask[:, :split], logits_at="all")]
    looked_at = [(name, _look) for name in model.hook_dict if name.endswith("hook_attn_scores")]
    with hooked(model, looked_at):
        for position in range(split, fed.shape[1]):
            new = slice(position, position + 1)
            parts.append(advance(model, state, fed[:, new], mask[:, new]))
    return torch.cat(parts, dim=1)


def _look(scores: Tensor, hook: Any) -> None:
    """A hook that changes nothing."""


def _check_unhooked(model: Any) -> None:
    hooked = sorted(name for name, point in model.hook_dict.items() if point.fwd_hooks)
    if hooked:
        raise MechsteerError(f"Hooks are on the model at {', '.join(hooked[:3])}; call model.reset_hooks() first.")


def compare(ours: Float[Tensor, "n d_vocab"], theirs: Float[Tensor, "n d_vocab"], rows: int = 16) -> Difference:
    """How far two sets of logits are apart; a few rows at a time, since vocabularies are large."""
    probability = largest = squares = agree = 0.0
    for i in range(0, len(ours), rows):
        a, b = (x[i : i + rows].float().log_softmax(-1) for x in (ours, theirs))
        agree += (a.argmax(-1) == b.argmax(-1)).sum().item()
        difference = torch.where(a == b, 0.0, a - b)
        squares += difference.square().sum(dtype=torch.float64).item()
        largest = _larger(largest, difference.abs().max().item())
        probability = _larger(probability, (a.exp() - b.exp()).abs().max().item())
    return Difference(probability, largest, (squares / ours.numel()) ** 0.5, agree / len(ours))


def _larger(a: float, b: float) -> float:
    """The larger number; NaN if one of them is."""
    return a if a != a or a > b else b
