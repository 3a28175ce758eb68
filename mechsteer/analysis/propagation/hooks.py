"""The recursion of :mod:`mechsteer.analysis.propagation` while a model runs, one attention sublayer at a time.

Each sublayer reads what its keys have of the spans and writes what its queries then have, from hooks that see one
pattern at a time and keep none; in single precision they need only its product with what the keys have, so that none is
made. Passes may bring the positions in pieces, as the key-value cache allows.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mechsteer.analysis.propagation import mix, p_norm, stream_share
from mechsteer.errors import MechsteerError, not_finite
from mechsteer.models import Fused, multiplier, post_norm, stacks

Hook = tuple[str, Callable[[Tensor, Any], None]]


@dataclass(frozen=True)
class Weighing:
    """How the parts of a sublayer are weighed.

    Attributes:
        residual: A fixed share of the residual stream; None: by norms.
        norm: p of the norms.
        source: What the stream's norm is taken of: ``"residual"``, ``"ln_input"`` or ``"ln_input_lagged"``.
        values: Weigh keys by the norms of their values.
        heads: ``"mean"``, or ``"weighted"`` by the norms of the heads' outputs.
        skip_first: Weigh the keys but the first alone; rollout only.
    """

    residual: float | None = None
    norm: float = 1.0
    source: str = "residual"
    values: bool = False
    heads: str = "mean"
    skip_first: bool = False


@dataclass(eq=False, repr=False)  # TransformerLens writes out the repr of every hook that it is given
class Sublayer:
    """One attention sublayer, for one prompt.

    Attributes:
        layer: Its block's name, e.g. ``"decoder.3"``.
        block: Its block.
        cross: Whether it is a decoder's cross-attention.
        weighing: How its parts are weighed.
        keys: What each key's position has of each span.
        before: The same of the queries' positions.
        after: Where to write what they have after it.
        lag: The sublayer whose stream norm counts in place of its own; None for its own.
        prompt: The prompt's place in the caller's list, for errors.
        done: How many positions have passed.
        scale: What the update is multiplied by before its norm is taken: as the released code has it, it is not yet
            normalised (Gemma 2) or scaled (Granite).
    """

    layer: str
    block: Any
    cross: bool
    weighing: Weighing
    keys: Float[Tensor, "keys spans"]
    before: Float[Tensor, "pos spans"]
    after: Float[Tensor, "pos spans"]
    lag: "Sublayer | None" = None
    prompt: int = 0
    done: int = 0
    _stream: Tensor | None = field(default=None, repr=False)
    _arriving: Tensor | None = field(default=None, repr=False)
    _values: list[Tensor] = field(default_factory=list, repr=False)
    scale: Tensor | float = field(default=1.0, repr=False)

    def hooks(self) -> list[Hook]:
        """What to put on the model."""
        attention = f"{self.layer}.{'cross_attn' if self.cross else 'attn'}"
        found: list[Hook] = [
            (f"{attention}.hook_attn_scores", _Scores(self)),
            (f"{attention}.hook_pattern", _Weights(self)),
        ]
        if self.weighing.values:
            found.append((f"{attention}.hook_v", self.keep_values))
        if self.weighing.heads == "weighted":
            found.append((f"{attention}.hook_z", self.weigh_heads))
        if self.weighing.residual is None:
            found.append((self._stream_site(), self.measure_stream))
        return found + self._update_hooks()

    def _stream_site(self) -> str:
        if self.weighing.source == "residual":
            return f"{self.layer}.{'hook_resid_mid' if self.cross else 'hook_resid_pre'}"
        if post_norm(self.block.cfg):
            raise MechsteerError(
                f"source={self.weighing.source!r} is the normalised input of attention, which a model whose norms come "
                "after the sublayers (OLMo 2 and 3) does not have; take source='residual'."
            )
        return f"{self.layer}.{self._norm_name()}.hook_normalized"

    def _norm_name(self) -> str:
        return "ln2" if self.cross else "ln1"

    def _update_hooks(self) -> list[Hook]:
        """Where the update is seen: as it is added, or as the released code does before the norm that Gemma 2 has."""
        if self.weighing.source != "residual" and hasattr(self.block, "ln1_post"):
            norm = f"{self.layer}.ln1_post"
            return [(f"{norm}.hook_scale", self.keep_scale), (f"{norm}.hook_normalized", self.finish)]
        return [(f"{self.layer}.{'hook_cross_attn_out' if self.cross else 'hook_attn_out'}", self.finish)]

    def measure_stream(self, x: Float[Tensor, "1 new d_model"], hook: Any) -> None:
        """||e_k||."""
        if self.weighing.source != "residual":
            norm = getattr(self.block, self._norm_name())
            x = x * norm.w + getattr(norm, "b", 0.0)
        self._stream = self.finite(p_norm(x[0], self.weighing.norm), hook.name)

    def keep_values(self, x: Float[Tensor, "1 new kv_heads d_head"], hook: Any) -> None:
        """||v_i|| of each key-value head."""
        self._values.append(self.finite(p_norm(x[0], self.weighing.norm), hook.name))

    def columns(self, count: int) -> Float[Tensor, "kv_heads keys columns"]:
        """What the weights are multiplied with, of the first ``count`` keys; one for all heads where they share it."""
        seen = self.keys[:count]
        if self.weighing.skip_first:
            others = torch.ones_like(seen[:, :1])
            others[0] = 0.0
            return torch.cat([others * seen, others], dim=1)[None]
        if not self.weighing.values:
            return seen[None]
        sizes = torch.cat(self._values).T[:, :, None]
        return torch.cat([sizes * seen, sizes], dim=2)

    def gather(self, sums: Float[Tensor, "heads new columns"]) -> None:
        """J_k of each head, from the weights' product with the columns."""
        # Weights times ||v_i|| must add up to 1 again; their sum came along as the last column.
        if self.weighing.values:
            sums = sums[..., :-1] / sums[..., -1:].clamp(min=torch.finfo(sums.dtype).tiny)
        if self.weighing.skip_first:  # of the mean over heads; a query that sees the first key alone reads that
            sums = sums.mean(0, keepdim=True)
            sums = torch.where(sums[..., -1:] > 0, sums[..., :-1] / sums[..., -1:], self.keys[0])
        self._arriving = sums

    def weigh_heads(self, z: Float[Tensor, "1 new heads d_head"], hook: Any) -> None:
        """The mean of J_k over heads, weighed by ||o_k||_2 of the head's output."""
        assert self._arriving is not None
        attention = self.block.cross_attn if self.cross else self.block.attn
        outputs = (z[0, :, head] @ attention.W_O[head] for head in range(z.shape[2]))
        sizes = self.finite(torch.stack([p_norm(o, 2.0) for o in outputs]), hook.name)[..., None]
        total = sizes.sum(0)
        equal = torch.full_like(sizes, 1 / len(sizes))
        shares = torch.where(total > 0, sizes / total, equal)
        self._arriving = (shares * self._arriving).sum(0, keepdim=True)

    def keep_scale(self, x: Float[Tensor, "1 new 1"], hook: Any) -> None:
        """What the norm divides the update by."""
        self.scale = x

    def finish(self, x: Float[Tensor, "1 new d_model"], hook: Any) -> None:
        """Mix what arrives into what was there."""
        assert self._arriving is not None
        share: Tensor | float
        if self.weighing.residual is None:
            stream = (self.lag or self)._stream
            assert stream is not None
            share = stream_share(stream, self.finite(p_norm((x * self.scale)[0], self.weighing.norm), hook.name))
        else:
            share = self.weighing.residual
        # Causal attention makes pieces exact: what the keys before have was written by the passes before, and the keys
        # of this pass were written by the sublayer below, which has run. So the table itself is the recursion's memory.
        rows = slice(self.done, self.done + x.shape[1])
        self.after[rows] = mix(self.before[rows], self._arriving.mean(0), share)
        self.done = rows.stop
        self._arriving = None

    def finite(self, values: Tensor, site: str) -> Tensor:
        """The values.

        Raises:
            MechsteerError: if there is NaN or infinity among them, with the site.
        """
        if not bool(torch.isfinite(values).all()):
            raise not_finite(site, self.prompt)
        return values


@dataclass(eq=False, repr=False)
class _Scores:
    """Refuses NaN in the scores: the library turns them into weights of 0."""

    sublayer: Sublayer

    def __call__(self, x: Float[Tensor, "1 heads new keys"], hook: Any) -> None:
        self.sublayer.finite(x.amax(), hook.name)

    def fuse(self, fused: Fused, hook: Any) -> bool:
        """Without scores NaN shows in what is gathered."""
        return True


@dataclass(eq=False, repr=False)
class _Weights:
    """Gathers what the weights bring, which is their product with a few columns."""

    sublayer: Sublayer

    def __call__(self, x: Float[Tensor, "1 heads new keys"], hook: Any) -> None:
        columns = self.sublayer.columns(x.shape[3])
        columns = columns.repeat_interleave(x.shape[1] // len(columns), dim=0)
        self.sublayer.gather(x[0].to(columns.dtype) @ columns)

    def fuse(self, fused: Fused, hook: Any) -> bool:
        """In half precision the weights are wanted: their sums would be rounded."""
        # All that is wanted of the weights is their product with a few columns, and the kernel gives products with
        # columns: so T x T weights need not be made at all.
        columns = self.sublayer.columns(fused.keys)
        if fused.like.dtype != columns.dtype:
            return False
        scores = hook.name.replace("hook_pattern", "hook_attn_scores")
        return fused.read(columns[None], lambda sums: self.sublayer.gather(self.sublayer.finite(sums[0], scores)))


def track(
    model: Any,
    starts: Bool[Tensor, "prompt_pos spans"],
    weighing: Weighing,
    *,
    lengths: Mapping[str, int],
    prompt: int = 0,
) -> tuple[dict[str, Float[Tensor, "layers _ spans"]], list[Hook]]:
    """The hooks that measure one prompt, and the tables that they fill: for each stack what its positions have.

    Args:
        model: A loaded model.
        starts: True where a position of the prompt is in a span.
        weighing: How sublayers are weighed.
        lengths: How many positions each stack will have.
        prompt: The prompt's place in the caller's list, for errors.
    """
    tables: dict[str, Tensor] = {}
    hooks: list[Hook] = []
    encoded: Tensor | None = None
    for stack, layers in stacks(model).items():
        kinds = (False, True) if stack == "decoder" else (False,)
        stages = torch.zeros((1 + len(kinds) * layers, lengths[stack], starts.shape[1]), device=starts.device)
        if stack != "decoder":
            stages[0, : len(starts)] = starts
        for sublayer in _sublayers(model, stack, kinds, stages, encoded, weighing):
            sublayer.prompt = prompt
            if weighing.source != "residual":
                sublayer.scale = 1 / multiplier(model, "residual")
            hooks += sublayer.hooks()
        tables[stack] = stages[len(kinds) :: len(kinds)]
        encoded = stages[-1]
    return tables, hooks


def _sublayers(
    model: Any, stack: str, kinds: Sequence[bool], stages: Tensor, encoded: Tensor | None, weighing: Weighing
) -> list[Sublayer]:
    """The attention sublayers of a stack, each reading one stage of its table and writing the next."""
    made: list[Sublayer] = []
    for layer, block in enumerate(getattr(model, stack)):
        for cross in kinds:
            stage = len(made)
            lag = made[-len(kinds)] if weighing.source == "ln_input_lagged" and layer else None
            keys = encoded if cross and encoded is not None else stages[stage]
            before, after = stages[stage], stages[stage + 1]
            made.append(Sublayer(f"{stack}.{layer}", block, cross, weighing, keys, before, after, lag))
    return made
