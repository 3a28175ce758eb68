"""Attention over cached keys and values, by torch's fused kernel wherever no hook reads scores and weights.

``hook_attn_scores`` and ``hook_pattern`` fire with the names and shapes that they have in the library when there is a
hook on them. Then scores and weights are made, as Hugging Face's eager attention makes them; otherwise
``scaled_dot_product_attention`` does the whole, in memory that does not grow with queries times keys.

A hook function may say that it does not need the tensors themselves: if it has a method ``fuse(fused, hook)``, it is
asked to put what it does into a :class:`Fused`. What it does is then made part of the kernel's own inputs:

- a bias b_i c_j on the scores: as one more column of the queries (b) and of the keys (c), so that no mask is made; of
  few queries, in the mask;
- a factor on a key's scores: on the key;
- a product of the weights with some columns: as more columns of the values.

If one function at a layer cannot (``fuse`` is missing or gives False), all of them get the tensors.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from mechsteer.models.heads import has_hooks, product_with_shared
from mechsteer.models.state import Part

SHORT = 128
"""Up to how many keys T5 goes by scores: its scores are not divided, so that the fused kernel's rounding, which depends
on the batch, shows; and there is no time to win."""

FEW_QUERIES = 8
"""Up to how many queries a bias goes into the mask: keys with one more column are copies of the whole cache."""

_WIDTHS = 8  # kernels want the size of a head to be a multiple of this


@dataclass(frozen=True)
class Mask:
    """What is added to the scores of a pass.

    Attributes:
        causal: Not 0: a pass of so many positions from the first on, each of which sees those up to itself. Then
            nothing else is added.
        added: A position bias, and -inf (T5: a very large negative number) where a key is hidden; None for nothing.
        blind: The queries that see no key, which are padding; None where there are none. They read 0.
        like: A tensor of the model's dtype on its device.
    """

    causal: int = 0
    added: Float[Tensor, "rows heads new total"] | None = None
    blind: Bool[Tensor, "rows 1 new 1"] | None = None
    like: Tensor | None = None

    @cached_property
    def additive(self) -> Float[Tensor, "rows heads new total"] | None:
        """:attr:`added`, also of a causal pass."""
        if not self.causal:
            return self.added
        hidden = torch.full((self.causal, self.causal), -torch.inf)
        return hidden.triu_(1)[None, None].to(self.like)


@dataclass
class Fused:
    """What hook functions do to the scores and read of the weights of one attention, for the fused kernel.

    Attributes:
        rows: Rows of the batch.
        queries: Queries of each.
        keys: Keys of each.
        like: A tensor with the dtype and device of the values.
        mask: What the queries see.
        factor: What the scores of each key are multiplied by.
        biases: Pairs b, c that add b_i c_j; no b for a bias on all queries.
        reads: Pairs of columns and what is to be called with the weights' product with them.
    """

    rows: int
    queries: int
    keys: int
    like: Tensor
    mask: Mask = field(default_factory=Mask)
    factor: Float[Tensor, "rows keys"] | None = None
    biases: list[tuple[Float[Tensor, "rows queries"] | None, Float[Tensor, "rows keys"]]] = field(default_factory=list)
    reads: list[tuple[Float[Tensor, "rows kv_heads keys columns"], Callable[[Tensor], None]]] = field(
        default_factory=list
    )

    def sees(self, columns: Bool[Tensor, "rows keys"]) -> Bool[Tensor, "rows queries"]:
        """Which queries see one of the keys."""
        if self.mask.causal:
            return columns.cumsum(1) > 0
        if self.mask.added is None:
            return columns.any(1, keepdim=True).expand(-1, self.queries)
        hidden = torch.finfo(self.like.dtype).min / 2
        return ((self.mask.added[:, 0] > hidden) & columns[:, None]).any(-1)

    def scale(self, factor: Float[Tensor, "rows keys"]) -> bool:
        """Multiply the scores of each key; False after a bias, which would have to be multiplied too."""
        if self.biases:
            return False
        self.factor = factor if self.factor is None else self.factor * factor
        return True

    def bias(self, queries: Float[Tensor, "rows queries"] | None, keys: Float[Tensor, "rows keys"]) -> bool:
        """Add to the scores the product of what a query and a key have; None: all queries have 1."""
        self.biases.append((queries, keys))
        return True

    def read(self, columns: Float[Tensor, "rows kv_heads keys columns"], take: Callable[[Tensor], None]) -> bool:
        """Call ``take`` with the weights' product with columns, ``[rows, heads, queries, columns]``."""
        self.reads.append((columns, take))
        return True


def attend(
    attention: Any,
    q: Float[Tensor, "batch heads new d_head"],
    parts: Sequence[Part],
    mask: Mask,
    *,
    fires: bool = True,
) -> Float[Tensor, "batch new heads d_head"]:
    """What each head reads.

    Args:
        attention: The library's attention: its hook points, scale and soft cap are used.
        q: The queries.
        parts: The keys and values, in one part; or in several, of which some hold each repeated row once.
        mask: What is added to the scores.
        fires: Whether the hook points are for these rows.
    """
    fused = _fused(attention, q, parts, mask, fires=fires)
    if fused is None:
        return _by_scores(attention, q, parts, mask, fires=fires).transpose(1, 2)
    ((keys, values),) = parts  # shared rows come in two parts, which the kernel cannot take
    keys = keys if fused.factor is None else keys * fused.factor[:, None, :, None].to(keys)
    z = _by_kernel(q, keys, values, mask, fused, 1 / attention.attn_scale)
    if q.shape[2] > 1:
        z = z + _lost(q, keys[:, :, -q.shape[2] :])
    return (z if mask.blind is None else z.masked_fill(mask.blind, 0.0)).transpose(1, 2)


def _lost(
    q: Float[Tensor, "batch heads new d_head"], keys: Float[Tensor, "batch kv_heads new d_head"]
) -> Float[Tensor, "batch 1 1 1"]:
    """0, but NaN in rows whose queries or keys are not finite: torch's kernel on the CPU reads 0 for some of these."""
    sums = q.sum((1, 2, 3), dtype=torch.float32) + keys.sum((1, 2, 3), dtype=torch.float32)
    return (sums - sums).to(q)[:, None, None, None]


def _fused(
    attention: Any, q: Float[Tensor, "batch heads new d_head"], parts: Sequence[Part], mask: Mask, *, fires: bool
) -> Fused | None:
    """What the hooks ask for; None if one of them needs scores or weights, or the kernel cannot do this attention."""
    keys, rows = parts[0][0], q.shape[0]
    if len(parts) > 1 or keys.shape[0] != rows or attention.cfg.attn_scores_soft_cap > 0 or _sharp(attention, keys):
        return None
    fused = Fused(rows, q.shape[2], keys.shape[2], parts[0][1], mask)
    for point in (attention.hook_attn_scores, attention.hook_pattern) if fires else ():
        if not (has_hooks(point) or point.fwd_hooks):
            continue
        if point._forward_pre_hooks or point._backward_hooks or point._backward_pre_hooks:
            return None
        if len(point._forward_hooks) != len(point.fwd_hooks):
            return None  # there are some that were not put on as the library does
        for handle in point.fwd_hooks:
            fuse = getattr(handle.user_hook, "fuse", None)
            if fuse is None or not fuse(fused, point):
                return None
    return fused


def _sharp(attention: Any, keys: Float[Tensor, "rows kv_heads total d_head"]) -> bool:
    """T5's scores are not divided, so their rounding decides; in half precision always as Hugging Face's eager does."""
    cfg = attention.cfg
    undivided = cfg.positional_embedding_type == "relative_positional_bias"
    return undivided and (cfg.dtype != torch.float32 or keys.shape[2] <= SHORT)


def _by_scores(
    attention: Any, q: Float[Tensor, "batch heads new d_head"], parts: Sequence[Part], mask: Mask, *, fires: bool
) -> Float[Tensor, "batch heads new d_head"]:
    """Scores, weights, product, with hooks. What is written in place are tensors of this function alone."""
    cap = attention.cfg.attn_scores_soft_cap
    divisor = attention.attn_scale * (cap if cap > 0 else 1.0)
    scaled = q if divisor == 1 else q / divisor
    # Copies of a row differ in the new token's keys alone. The part that they share is multiplied once for all of them;
    # scores are then joined along keys, for the softmax runs over both parts, and the weights are taken apart again.
    scores = _joined([product_with_shared(scaled, keys.mT) for keys, _ in parts])
    if cap > 0:
        scores = scores.tanh_() * cap
    if mask.additive is not None:
        scores += mask.additive
    if mask.blind is not None:
        scores.masked_fill_(mask.blind, -torch.inf)
    pattern = (attention.hook_attn_scores(scores) if fires else scores).softmax(-1)
    pattern = pattern if mask.blind is None else pattern.masked_fill(mask.blind, 0.0)
    pattern = (attention.hook_pattern(pattern) if fires else pattern).to(parts[0][1].dtype)
    pieces = pattern.split([keys.shape[2] for keys, _ in parts], dim=-1)
    z = [product_with_shared(piece, values) for piece, (_, values) in zip(pieces, parts, strict=True)]
    return sum(z[1:], start=z[0])


def _joined(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)


def _by_kernel(
    q: Float[Tensor, "batch heads new d_head"],
    keys: Float[Tensor, "batch kv_heads total d_head"],
    values: Float[Tensor, "batch kv_heads total d_head"],
    mask: Mask,
    fused: Fused,
    scale: float,
) -> Float[Tensor, "batch heads new d_head"]:
    """What the heads read, without scores and weights."""
    size, added = q.shape[-1], mask.added
    causal = bool(mask.causal)
    # A bias beyond what the dtype holds would be infinite, and NaN where it is multiplied by 0; half of that is as good
    # as infinite in a softmax.
    most = torch.finfo(q.dtype).max / 2 * min(1.0, scale)
    biases = [(None if b is None else b.to(q), c.clamp(-most, most).to(q)) for b, c in fused.biases]
    # The kernel takes a bias as a mask of all queries and keys. One of the form b_i c_j is cheaper as one more column
    # of both: [q, b] . [k, c / scale] times the scale is the scaled score plus b c. Likewise the weights' product with
    # some column is one more column of the values. For few queries the mask is small and the columns cost a copy of the
    # keys.
    if biases and fused.queries <= FEW_QUERIES:
        added, causal = mask.additive, False
        for b, c in biases:
            bias = c[:, None, None, :] if b is None else b[:, None, :, None] * c[:, None, None, :]
            added = bias if added is None else added + bias
        biases = []
    if biases or fused.reads:
        ones = q.new_ones(q.shape[0], q.shape[2])
        q = _widened(q, [(ones if b is None else b)[:, None, :, None] for b, _ in biases])
        keys = _widened(keys, [(c / scale)[:, None, :, None] for _, c in biases])
        values = _widened(values, [columns.to(values) for columns, _ in fused.reads])
        width = max(x.shape[-1] for x in (q, keys, values))
        width += -width % _WIDTHS  # the fast kernels want queries, keys and values of one width, a multiple of this
        q, keys, values = (F.pad(x, (0, width - x.shape[-1])) for x in (q, keys, values))
    read = _kernel(q, keys, values, added, causal, scale)
    start = size
    for columns, take in fused.reads:
        take(read[..., start : start + columns.shape[-1]])
        start += columns.shape[-1]
    return read[..., :size]


def _widened(x: Float[Tensor, "batch heads pos size"], columns: Sequence[Tensor]) -> Tensor:
    """More columns, which may be the same for all heads."""
    if not columns:
        return x
    return torch.cat([x, *(c.expand(*x.shape[:-1], c.shape[-1]) for c in columns)], dim=-1)


def _kernel(
    q: Float[Tensor, "batch heads new size"],
    keys: Float[Tensor, "batch kv_heads total size"],
    values: Float[Tensor, "batch kv_heads total size"],
    added: Tensor | None,
    causal: bool,
    scale: float,
) -> Float[Tensor, "batch heads new size"]:
    """Torch's kernel; query heads share their key-value head without copies of it where the kernel can do that."""
    heads, kv_heads, new = q.shape[1], keys.shape[1], q.shape[2]
    if heads == kv_heads:
        return F.scaled_dot_product_attention(q, keys, values, attn_mask=added, is_causal=causal, scale=scale)
    group = heads // kv_heads
    if new == 1:  # a group's heads are as good as queries
        by_head = added is not None and added.shape[1] > 1
        added = added.reshape(added.shape[0], kv_heads, group, -1) if added is not None and by_head else added
        grouped = q.reshape(q.shape[0], kv_heads, group, -1)
        read = F.scaled_dot_product_attention(grouped, keys, values, attn_mask=added, scale=scale)
        return read.reshape(q.shape[0], heads, 1, -1)
    if added is not None and q.device.type != "cpu":  # elsewhere no fast kernel takes both groups and a mask
        keys, values = (x.repeat_interleave(group, dim=1) for x in (keys, values))
    return F.scaled_dot_product_attention(
        q, keys, values, attn_mask=added, is_causal=causal, scale=scale, enable_gqa=keys.shape[1] != heads
    )
