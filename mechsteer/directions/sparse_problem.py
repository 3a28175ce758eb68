"""The loss that a sparse vector is learned by, and its gradient.

What comes before the last token of the prompt does not depend on D. It is computed once, and each evaluation of the
loss runs the last token and the target's alone.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mechsteer.directions.proximal import Groups
from mechsteer.directions.sparse_examples import Target, checked, continuations, distribution, split
from mechsteer.errors import MechsteerError, listed, not_finite, one_of, positive_int
from mechsteer.files import digest
from mechsteer.models import (
    State,
    advance,
    fork,
    hooked,
    model_device,
    parse,
    predicting_stack,
    provenance,
    residual,
    site,
)
from mechsteer.prompts import Batch, Prompt, PromptLike
from mechsteer.sources import Running, Steering, batches, begin, run_under

_STREAMS = ("resid_pre", "resid_mid", "resid_mid_cross", "resid_post", "attn_out", "cross_attn_out", "mlp_out")
_HEADS = ("z", "cross_z")


@dataclass(frozen=True)
class Chunk:
    """A batch whose unchanging part is computed.

    Attributes:
        batch: The prompts.
        state: After all but the last token of the prompts.
        tokens: The last token of the prompt, then the target's but its last.
        mask: True at real ones.
        index: The examples' places in the caller's list.
        wanted: Continuations: the token ids, and which are real. Distributions: probabilities over the vocabulary.
    """

    batch: Batch
    state: State
    tokens: Int[Tensor, "batch tail"]
    mask: Bool[Tensor, "batch tail"]
    index: list[int]
    wanted: tuple[Int[Tensor, "batch tail"], Bool[Tensor, "batch tail"]] | Float[Tensor, "batch d_vocab"]


@dataclass(frozen=True, eq=False)
class Problem:
    """The loss of D on training and on validation examples.

    Attributes:
        model: The model.
        sites: The full names of the hook points, one a layer.
        shape: Of D: (layers x heads, d_head), or (layers, d_model).
        everywhere: Whether D acts at generated tokens too.
        under: The intervention that D is learned under.
        training: The training examples.
        held_out: The validation examples.
        meta: Provenance.
    """

    model: Any
    sites: tuple[str, ...]
    shape: tuple[int, int]
    everywhere: bool
    under: Running
    training: list[Chunk]
    held_out: list[Chunk]
    meta: dict[str, str]

    @classmethod
    def of(
        cls,
        model: Any,
        examples: Sequence[tuple[PromptLike, Target]],
        *,
        layers: Sequence[int] | None,
        site: str,
        generated: str,
        n: int | None,
        validation: float,
        seed: int,
        batch_size: int,
        steer: Steering | None = None,
    ) -> "Problem":
        """Check everything, draw and split the examples, and compute what does not depend on D."""
        one_of("generated", generated, ("none", "all"))
        positive_int("batch_size", batch_size)
        sites, shape = _sites(model, site, layers)
        prompts, targets = checked(model, examples)
        kept, held_out = split(len(prompts), n, validation, seed)
        texts = [(prompts[i].text, targets[i]) for i in (*kept, *held_out)]
        meta = provenance(model) | {
            "examples": str(len(kept)),
            "validation_examples": str(len(held_out)),
            "examples_hash": digest(texts),
            "seed": str(seed),
            "generated": generated,
            "loss_kind": "nll" if isinstance(targets[0], str) else "kl",
        }
        under = run_under(steer, model, prompts)
        training, validating = (
            list(_chunks(model, under, prompts, targets, rows, batch_size)) for rows in (kept, held_out)
        )
        return cls(model, sites, shape, generated == "all", under, training, validating, meta)

    def zero(self) -> Groups:
        """D = 0."""
        return torch.zeros(self.shape, dtype=torch.float64)

    def smooth(self, delta: Groups) -> tuple[float, Groups]:
        """The mean loss of the training examples and its gradient."""
        total, gradient = 0.0, self.zero()
        for chunk in self.training:
            leaf = self._moved(delta).requires_grad_()
            with torch.enable_grad():
                losses = self._losses(chunk, leaf)
                (one,) = torch.autograd.grad(losses.sum(), leaf)
            bad = ~losses.isfinite()
            if bad.any() and not delta.any():  # steered, a smaller step may help
                raise not_finite(f"the loss at {', '.join(self.sites)}", chunk.index[int(bad.nonzero()[0])])
            total += float(losses.detach().double().sum())
            gradient += one.double().cpu()
        self.under.check_fired()
        count = sum(len(chunk.index) for chunk in self.training)
        return total / count, gradient / count

    def training_loss(self, delta: Groups) -> float:
        """The mean loss of the training examples."""
        return self._mean(self.training, delta)

    def validation_loss(self, delta: Groups) -> float:
        """The mean loss of the validation examples; there must be some."""
        return self._mean(self.held_out, delta)

    @torch.no_grad()
    def _mean(self, chunks: Sequence[Chunk], delta: Groups) -> float:
        moved = self._moved(delta)
        total = sum(float(self._losses(chunk, moved).double().sum()) for chunk in chunks)
        return total / sum(len(chunk.index) for chunk in chunks)

    def _moved(self, delta: Groups) -> Float[Tensor, "groups width"]:
        """A copy where the model is."""
        return delta.clone().to(self.model.cfg.dtype).to(model_device(self.model))

    def _losses(self, chunk: Chunk, delta: Float[Tensor, "groups width"]) -> Float[Tensor, "batch"]:
        """Each example's loss."""
        parts = dict(zip(self.sites, delta.chunk(len(self.sites)), strict=True))

        def edit(x: Tensor, hook: Any) -> Tensor:
            change = parts[hook.name] if x.ndim == 4 else parts[hook.name][0]
            if self.everywhere:
                return x + change
            return torch.cat([x[:, :1] + change, x[:, 1:]], dim=1)

        state = fork(chunk.state)
        with self.under.on(chunk.batch, chunk.index) as step, hooked(self.model, [(name, edit) for name in self.sites]):
            state.announce = step.begin
            logits = advance(self.model, state, chunk.tokens, chunk.mask, logits_at="all").float()
        logprobs = logits.log_softmax(-1)
        if isinstance(chunk.wanted, tuple):
            ids, real = chunk.wanted
            return -logprobs.gather(2, ids[..., None])[..., 0].masked_fill(~real, 0.0).sum(1)
        return (torch.xlogy(chunk.wanted, chunk.wanted) - chunk.wanted * logprobs[:, 0]).sum(1)


_site = site  # the parameter of the same name hides the function


def _sites(model: Any, kind: str, layers: Sequence[int] | None) -> tuple[tuple[str, ...], tuple[int, int]]:
    """The hook points and the shape of D."""
    chosen = range(predicting_stack(model)[1]) if layers is None else listed("layers", layers)
    if not chosen:
        raise MechsteerError("No layers were given.")
    names = tuple(_site(model, kind, layer) for layer in chosen)
    for name in names:
        parsed = parse(name)
        if parsed is None or parsed[0] == "encoder" or parsed[2] not in (*_HEADS, *_STREAMS):
            raise MechsteerError(
                f"A vector is learned at {', '.join((*_HEADS, *_STREAMS))} of the layers that predict, not at {name!r}."
            )
    if len(set(names)) < len(names):
        raise MechsteerError(f"The layers {list(chosen)} name a site twice: {', '.join(names)}.")
    cfg, count = model.cfg, len(names)
    at_heads = all((parsed := parse(name)) and parsed[2] in _HEADS for name in names)
    return names, (count * cfg.n_heads, cfg.d_head) if at_heads else (count, cfg.d_model)


@torch.no_grad()
def _chunks(
    model: Any,
    under: Running,
    prompts: Sequence[Prompt],
    targets: Sequence[Target],
    rows: Sequence[int],
    size: int,
) -> Iterator[Chunk]:
    """Batches of prompts of like length."""
    device = model_device(model)
    for padded, places in batches(model, [prompts[i] for i in rows], size):
        index = [rows[place] for place in places]
        with under.on(padded, index) as step:
            state, tokens, mask = begin(model, step)
            if tokens.shape[1] > 1:
                residual(model, state, tokens[:, :-1], mask[:, :-1])
        wanted = [targets[i] for i in index]
        said = [target for target in wanted if isinstance(target, str)]
        if said:
            ids, real = continuations(model, padded.prompts, said)
            tail = torch.cat([tokens[:, -1:], ids[:, :-1]], dim=1)
            seen = torch.cat([mask[:, -1:], real[:, :-1]], dim=1)
            yield Chunk(padded, state, tail, seen, index, (ids.to(device), real.to(device)))
        else:
            pairs = zip(padded.prompts, wanted, strict=True)
            shares = torch.stack([distribution(model, p, target) for p, target in pairs if not isinstance(target, str)])
            yield Chunk(padded, state, tokens[:, -1:], mask[:, -1:], index, shares.to(device))
