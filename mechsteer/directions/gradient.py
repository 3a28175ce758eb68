"""Gradient-based steering vectors.

Paper: "Enhancing Instruction-Following Capabilities in Seq2Seq Models: DoLa Adaptations for T5" (arXiv 2512.03803v2),
section 3.2. For each of N examples with a target token x+ (obeys the instruction) and a trap token x- (memorised),

    L_i = log P(x-) - log P(x+)                      (eq. 3, at the first decoding position)
    v   = -(1/N) sum_i grad_{h_l} L_i                (eqs. 4 and 5)
    h'  = h + alpha v / ||v||                        (eq. 6; see :func:`mechsteer.add`)

The normaliser of the softmax cancels in L. The authors' notebook (``steering.ipynb``) departs from the text: it takes
the gradient at the *input* of block l and adds the vector to the *output* of block l. ``compat="released"`` does that.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from mechsteer.directions.direction import Direction
from mechsteer.errors import MechsteerError, listed, one_of, positive_int, whole
from mechsteer.files import digest
from mechsteer.models import advance, as_prompts, check_model, hooked, model_device, provenance, site, word_id
from mechsteer.models.hooking import Kept, check_finite
from mechsteer.prompts import Batch, Prompt, PromptLike
from mechsteer.sources import Running, Steering, batches, begin, run_under


@runtime_checkable
class TrapExample(Protocol):
    """What an example must have: a prompt, the word that obeys it, and the word that memory suggests."""

    @property
    def prompt(self) -> PromptLike:
        """What the model is given."""
        ...

    @property
    def target(self) -> str | int:
        """The word that obeys, or a token id."""
        ...

    @property
    def trap(self) -> str | int:
        """The word that memory suggests, or a token id."""
        ...


@dataclass
class _Sums:
    gradient: Float[Tensor, "width"]
    state: Float[Tensor, "width"]
    norm: float
    count: int


@torch.inference_mode(False)  # there are no gradients in inference mode, which the caller may be in
def gradient_direction(
    model: Any,
    traps: Sequence[TrapExample],
    *,
    layer: int,
    site: str = "resid_post",
    compat: str = "paper",
    steer: Steering | None = None,
    batch_size: int = 32,
    progress: bool = False,
) -> Direction:
    """Mine the direction that raises the target token against the trap token.

    Args:
        model: A loaded model, of either type.
        traps: The mining examples. A word counts by the first of its tokens behind the prompt, full stop stripped (see
            :mod:`mechsteer.models.following`). Examples whose words start with the same token are left out.
        layer: The layer, from 0. Encoder-decoders: of the decoder.
        site: The kind of site in that layer.
        compat: ``"paper"``: gradient and injection at the same site. ``"released"``: gradient at the layer's
            ``resid_pre``, injection at its ``resid_post``, as the authors' notebook does.
        steer: An intervention to mine under: what is found is added after it.
        batch_size: Examples in one backward pass; does not change the result.
        progress: Show a bar.

    Returns:
        The direction at the injection site. ``vector`` is the mean of the negative gradients, ``mean_projection`` and
        ``activation_norm`` are measured on the unsteered states of the examples at the injection site.

    Raises:
        MechsteerError: for no examples, an unknown site, layer or compat, a site outside the predicting stack, token
            ids that are not in the vocabulary, or examples whose target and trap always start with the same token,
            states or gradients that are not finite (with site and example), or an intervention that does not fit.

    Warns:
        UserWarning: if examples are left out, with their number.

    Example:
        >>> mined = ms.gradient_direction(t5, traps, layer=4)
        >>> ms.generate(t5, traps[0].prompt, steer=ms.add(mined, 0.5 * mined.activation_norm)).texts
    """
    one_of("compat", compat, ("paper", "released"))
    positive_int("batch_size", batch_size)
    check_model(model)
    traps = listed("traps", traps)
    if not traps:
        raise MechsteerError("No trap examples were given to mine a direction from.")
    injected = _site(model, site, layer)
    mined = injected
    if compat == "released":
        if not injected.endswith(".hook_resid_post"):
            raise MechsteerError(f'compat="released" is defined for site="resid_post" only, got {site!r}.')
        mined = _site(model, "resid_pre", layer)
    if injected.startswith("encoder"):
        raise MechsteerError(f"{injected!r} is in the encoder; the gradient is taken at the first decoding position.")
    prompts = as_prompts(model, [trap.prompt for trap in traps])
    ids = torch.tensor(
        [[_token(model, word, p) for word in (t.target, t.trap)] for t, p in zip(traps, prompts, strict=True)]
    )
    differ = _different(traps, ids)
    chosen = [prompts[i] for i in differ]
    sums, under = _Sums(torch.zeros(0), torch.zeros(0), 0.0, 0), run_under(steer, model, chosen)
    with tqdm(total=len(chosen), desc=f"gradients at {mined}", disable=not progress) as bar:
        for batch, index in batches(model, chosen, batch_size, by_length=False):
            _accumulate(model, under, (batch, index), ids[differ][index], (mined, injected), sums)
            bar.update(len(index))
    under.check_fired()
    vector = sums.gradient / sums.count
    unit = vector / vector.norm()
    return Direction(
        vector=vector,
        site=injected,
        method="gradient",
        mean_projection=float(sums.state @ unit) / sums.count,
        activation_norm=sums.norm / sums.count,
        meta=provenance(model)
        | {
            "compat": compat,
            "mined_at": mined,
            "examples": str(len(traps)),
            "examples_hash": digest([(_text(t.prompt), t.target, t.trap) for t in traps]),
            "same_first_token": str(len(traps) - len(differ)),
        },
    )


_site = site  # the parameter of the same name hides the function


def _different(traps: Sequence[TrapExample], ids: Int[Tensor, "n 2"]) -> list[int]:
    """The places of the examples whose words start with different tokens: the others have no gradient."""
    same = (ids[:, 0] == ids[:, 1]).nonzero()[:, 0].tolist()
    if len(same) == len(traps):
        raise MechsteerError("Target and trap start with the same token in every example, so there is no gradient.")
    if same:
        first = traps[same[0]]
        warnings.warn(
            f"Target and trap start with the same token in {len(same)} of {len(traps)} examples, e.g. {first.target!r} "
            f"and {first.trap!r}; they are left out.",
            stacklevel=3,
        )
    return [place for place in range(len(traps)) if place not in set(same)]


def _token(model: Any, word: str | int, prompt: Prompt) -> int:
    number = whole(word)
    if number is None:
        return word_id(model, word, prompt, strip=" .")  # pyright: ignore[reportArgumentType]  # refuses what is no text
    if not 0 <= number < model.cfg.d_vocab:
        raise MechsteerError(f"There is no token {number}: the vocabulary has ids 0 to {model.cfg.d_vocab - 1}.")
    return number


def _text(value: PromptLike) -> Any:
    return value.text if isinstance(value, Prompt) else value


def _accumulate(
    model: Any,
    under: Running,
    batch: tuple[Batch, list[int]],
    pairs: Int[Tensor, "batch 2"],
    sites: tuple[str, str],
    sums: _Sums,
) -> None:
    """Add one batch's negative gradients at the first site and its states at the second to the sums."""
    mined, injected = sites
    zeros: list[Tensor] = []

    def probe(x: Tensor, hook: Any) -> Tensor:
        """Add a zero whose gradient is the gradient of the state; keep the state at the position that predicts."""
        if x[:, -1].ndim != 2:
            raise MechsteerError(f"{mined!r} holds {tuple(x.shape)}; a direction needs one vector a position.")
        zeros.append(torch.zeros_like(x).requires_grad_())
        return x + zeros[-1]

    kept = Kept([injected], lambda x, site: x[:, -1].detach())
    with torch.enable_grad(), under.on(*batch) as step, hooked(model, [(mined, probe), *kept.hooks]):
        logits = advance(model, *begin(model, step))[:, -1].float()
        chosen = logits.gather(1, pairs.to(model_device(model)))
        loss = (chosen[:, 1] - chosen[:, 0]).sum()
        (gradient,) = torch.autograd.grad(loss, zeros[-1])
    gradients, states = (x.float().cpu() for x in (gradient[:, -1], kept.take(injected)))
    for name, x in ((injected, states), (mined, gradients)):
        check_finite(x, name, batch[1])
    total = -gradients.sum(0)
    first = sums.count == 0
    sums.gradient = total if first else sums.gradient + total
    sums.state = states.sum(0) if first else sums.state + states.sum(0)
    sums.norm += float(states.norm(dim=-1).sum())
    sums.count += len(batch[1])
