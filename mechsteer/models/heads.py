"""What attention does to heads: projections from and to the residual stream, and products with cached keys and values.

Copies of a row that stand side by side (:func:`mechsteer.models.state.repeat_rows`), and the query heads that share a
key-value head, are taken together as rows of one matrix product, so that keys and values are never repeated.
"""

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

POST_NORM = ("Olmo2ForCausalLM", "Olmo3ForCausalLM")
"""The architectures whose norms stand after attention and MLP, as the library's own block has it."""

FEW, VERY_FEW, SEVERAL = range(1, 9), range(1, 5), range(1, 129)
"""How many rows PyTorch's linear function is slow for on CPUs, and what to do about it: up to eight rows are multiplied
transposed (up to four, where the output is narrower than the input), up to 128 by oneDNN, which takes half to four
fifths of the time and sums in another order, with some three times the rounding error."""


Heads = Float[Tensor, "batch pos n_heads d_head"]
KvHeads = Float[Tensor, "batch pos n_kv_heads d_head"]


def has_hooks(*modules: Any) -> bool:
    """Whether torch has a hook of any kind on one of the modules. Every step asks this often, so it is quick."""
    for module in modules:
        if module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks:
            return True
    return False


def several(x: Float[Tensor, "*batch inner"]) -> bool:
    """Whether this is one position of so few rows that :func:`linear` may do better than PyTorch's own.

    Prompts are left to PyTorch however short they are: there is little to win, and rounding goes on through all layers.
    """
    shape = x.shape
    one = len(shape) < 3 or shape[-2] == 1
    return one and shape[:-1].numel() in SEVERAL and x.is_cpu and x.dtype == torch.float32


def linear(
    x: Float[Tensor, "*batch inner"], weight: Float[Tensor, "outer inner"], bias: Float[Tensor, "outer"] | None = None
) -> Float[Tensor, "*batch outer"]:
    """A linear function; of a few rows on a CPU, by a product that is up to three times as fast there as PyTorch's own.

    That holds for weights whose rows lie in memory one after the other, as a linear layer's do; GPT-2's are columns.
    """
    if not (several(x) and weight.stride(1) == 1):
        return F.linear(x, weight, bias)
    count = x.shape[:-1].numel()
    rows = x.reshape(count, x.shape[-1])
    if count in (FEW if weight.shape[0] >= weight.shape[1] else VERY_FEW):
        made = _transposed(rows, weight).view(*x.shape[:-1], -1)
        return made if bias is None else made + bias
    if _ONEDNN is None or (torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)):
        return F.linear(x, weight, bias)
    return _ONEDNN(rows, weight, bias, "none", [], "").view(*x.shape[:-1], -1)


def _transposed(
    rows: Float[Tensor, "count inner"], weight: Float[Tensor, "outer inner"]
) -> Float[Tensor, "count outer"]:
    """One row is taken twice: a product with one column runs in another kernel, slower than the one for two."""
    if rows.shape[0] == 1:
        return (weight @ rows.repeat(2, 1).T).T[:1].contiguous()
    return (weight @ rows.T).T.contiguous()


def _onednn() -> Any:
    """The linear function of oneDNN for weights as they are, which the compiler of PyTorch calls; None if not built."""
    built = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    return torch.ops.mkldnn._linear_pointwise if built else None


_ONEDNN = _onednn()


def project(
    x: Float[Tensor, "batch pos d_model"] | Float[Tensor, "batch pos heads d_model"],
    weight: Float[Tensor, "heads d_model d_head"],
    bias: Float[Tensor, "heads d_head"],
) -> Float[Tensor, "batch pos heads d_head"]:
    """From the stream to heads; an input of its own for each head is taken too."""
    if x.ndim == 4:
        return torch.einsum("bphm,hmd->bphd", x, weight) + bias
    flat = linear(x, weight.mT.reshape(-1, weight.shape[1]), bias.reshape(-1))
    return flat.view(*x.shape[:-1], *bias.shape)


def queries_keys_values(block: Any, resid_pre: Float[Tensor, "batch new d_model"]) -> tuple[Heads, KvHeads, KvHeads]:
    """What a block's self-attention works with, before a rotary embedding; hooks and norms included."""
    attention = block.attn
    grouped = "_" if "_W_K" in attention._parameters else ""
    weights = [(attention.W_Q, attention.b_Q)] + [
        (getattr(attention, f"{grouped}W_{letter}"), getattr(attention, f"{grouped}b_{letter}")) for letter in "KV"
    ]
    inputs = _inputs(block, resid_pre, [weight.shape[0] for weight, _ in weights])
    hooks = (attention.hook_q, attention.hook_k, attention.hook_v)
    q, k, v = (hook(project(x, *pair)) for hook, x, pair in zip(hooks, inputs, weights, strict=True))
    if attention.cfg.use_qk_norm:
        q, k = attention._apply_qk_norm(q, attention.q_norm), attention._apply_qk_norm(k, attention.k_norm)
    elif attention.q_norm is not None:  # OLMo 2 and 3: one norm over all heads together
        q = attention.q_norm(q.flatten(2)).view_as(q)
        k = attention.k_norm(k.flatten(2)).view_as(k)
    if attention.cfg.clip_qkv is not None:
        q, k, v = (x.clamp(-attention.cfg.clip_qkv, attention.cfg.clip_qkv) for x in (q, k, v))
    return q, k, v


def _inputs(block: Any, resid_pre: Float[Tensor, "batch new d_model"], heads: list[int]) -> list[Tensor]:
    """What queries, keys and values are made from: the normalised stream, or where it is split, one for each head."""
    norm = _unchanged if post_norm(block.cfg) else partial(normalised, block.ln1)
    if block.cfg.use_split_qkv_input:
        hooks = (block.hook_q_input, block.hook_k_input, block.hook_v_input)
        return [norm(hook(_each_head(resid_pre, n))) for hook, n in zip(hooks, heads, strict=True)]
    if block.cfg.use_attn_in:
        return [norm(block.hook_attn_in(_each_head(resid_pre, heads[0])))] * 3
    return [norm(resid_pre)] * 3


def _each_head(x: Float[Tensor, "batch new d_model"], heads: int) -> Float[Tensor, "batch new heads d_model"]:
    return x[:, :, None].repeat(1, 1, heads, 1)


def _unchanged(x: Tensor) -> Tensor:
    return x


def normalised(norm: Any, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
    """What the library's norm makes; in single precision, where no hook looks inside, as Hugging Face computes it.

    The library divides by the root mean square, Hugging Face multiplies by its inverse. That is a difference of
    rounding, but T5's scores are not divided, and make 1e-3 in a log-probability of it.
    """
    name = type(norm).__name__
    if name not in ("LayerNorm", "RMSNorm") or has_hooks(norm, *norm._modules.values()):
        return norm(x)
    weight = norm.w
    if not x.dtype == weight.dtype == torch.float32:
        return norm(x)
    if name == "LayerNorm":
        return F.layer_norm(x, weight.shape, weight, norm.b, norm.eps)
    return weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + norm.eps))


def post_norm(cfg: Any) -> bool:
    """Whether the norms stand after attention and MLP."""
    return cfg.original_architecture in POST_NORM


def output(attention: Any, z: Float[Tensor, "batch pos heads d_head"]) -> Float[Tensor, "batch pos d_model"]:
    """From the heads back to the stream; fires ``hook_result`` where the model is set to."""
    if attention.cfg.use_attn_result:
        result = attention.hook_result(torch.einsum("bphd,hdm->bphm", z, attention.W_O))
        return result.sum(2) + attention.b_O
    return linear(z.flatten(2), attention.W_O.permute(2, 0, 1).flatten(1), attention.b_O)


def product_with_shared(
    heads: Float[Tensor, "batch heads queries inner"],
    shared: Float[Tensor, "rows kv_heads inner outer"],
) -> Float[Tensor, "batch heads queries outer"]:
    """The matrix product of each head with its key-value head's matrix, of which one serves all copies of a row."""
    # A batched product wants as many matrices on the right as on the left, and expanding the shared one would read it
    # once a copy. Heads of a group and copies of a row are more rows of the left matrix instead, so that what is shared
    # is read once.
    batch, count, queries, _ = heads.shape
    rows, kv_heads = shared.shape[:2]
    copies, group = batch // rows, count // kv_heads
    if copies == 1:
        return (heads.reshape(batch, kv_heads, group * queries, -1) @ shared).view(batch, count, queries, -1)
    split = heads.reshape(rows, copies, kv_heads, group * queries, -1)
    together = split.transpose(1, 2).reshape(rows, kv_heads, copies * group * queries, -1) @ shared
    apart = together.view(rows, kv_heads, copies, group * queries, -1).transpose(1, 2)
    return apart.reshape(batch, count, queries, -1)
