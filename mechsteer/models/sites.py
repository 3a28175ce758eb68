"""Names of hook points: what can be read and edited, and where.

A *site* is the full TransformerLens name of a hook point, e.g. ``decoder.3.hook_resid_post``. A *kind* is the short
name of what is there in every layer, e.g. ``resid_post``.
"""

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from mechsteer.errors import MechsteerError, shown, unknown, whole
from mechsteer.models.info import check_model, is_encoder_decoder

if TYPE_CHECKING:
    import pandas as pd

_STREAM, _MLP, _LOGITS, _SCALE = (f"batch pos {last}" for last in ("d_model", "d_mlp", "d_vocab", "scale"))
_HEADS, _KV_HEADS = "batch pos n_heads d_head", "batch pos n_kv_heads d_head"
_SCORES, _CROSS_SCORES = "batch n_heads query_pos key_pos", "batch n_heads query_pos encoder_pos"

KINDS: dict[str, tuple[str, str]] = {
    "resid_pre": ("hook_resid_pre", _STREAM),
    "resid_mid": ("hook_resid_mid", _STREAM),
    "resid_mid_cross": ("hook_resid_mid_cross", _STREAM),
    "resid_post": ("hook_resid_post", _STREAM),
    "attn_out": ("hook_attn_out", _STREAM),
    "cross_attn_out": ("hook_cross_attn_out", _STREAM),
    "mlp_out": ("hook_mlp_out", _STREAM),
    "q": ("attn.hook_q", _HEADS),
    "k": ("attn.hook_k", _KV_HEADS),
    "v": ("attn.hook_v", _KV_HEADS),
    "rot_q": ("attn.hook_rot_q", _HEADS),
    "rot_k": ("attn.hook_rot_k", "batch key_pos n_kv_heads d_head"),
    "attn_scores": ("attn.hook_attn_scores", _SCORES),
    "pattern": ("attn.hook_pattern", _SCORES),
    "z": ("attn.hook_z", _HEADS),
    "result": ("attn.hook_result", "batch pos n_heads d_model"),
    "cross_q": ("cross_attn.hook_q", _HEADS),
    "cross_k": ("cross_attn.hook_k", "batch encoder_pos n_heads d_head"),
    "cross_v": ("cross_attn.hook_v", "batch encoder_pos n_heads d_head"),
    "cross_attn_scores": ("cross_attn.hook_attn_scores", _CROSS_SCORES),
    "cross_pattern": ("cross_attn.hook_pattern", _CROSS_SCORES),
    "cross_z": ("cross_attn.hook_z", _HEADS),
    "cross_result": ("cross_attn.hook_result", "batch pos n_heads d_model"),
    "mlp_pre": ("mlp.hook_pre", _MLP),
    "mlp_pre_linear": ("mlp.hook_pre_linear", _MLP),
    "mlp_post": ("mlp.hook_post", _MLP),
}
"""Kind -> (hook name below the layer, shape by name)."""

_OF_HOOK = {hook: kind for kind, (hook, _) in KINDS.items()}
_NAME = re.compile(r"^(blocks|encoder|decoder)\.(\d+)\.(.+)$")


def stacks(model: Any) -> dict[str, int]:
    """The model's stacks and how many layers each has."""
    check_model(model)
    if is_encoder_decoder(model):
        return {"encoder": len(model.encoder), "decoder": len(model.decoder)}
    return {"blocks": len(model.blocks)}


def predicting_stack(model: Any) -> tuple[str, int]:
    """The stack that predicts tokens and how many layers it has: T5's decoder, or the only one."""
    name = "decoder" if is_encoder_decoder(model) else "blocks"
    return name, stacks(model)[name]


def site(model: Any, kind: str, layer: int | None = None, stack: str | None = None) -> str:
    """The full name of a hook point.

    Args:
        model: A loaded model.
        kind: What to hook, e.g. ``"resid_post"`` (see :data:`KINDS`), with its stack before it where that is not the
            default, ``"encoder.resid_post"``; or a full name, which is checked and returned. A layer or stack beside it
            must be its own.
        layer: The layer, from 0; negative counts from the end.
        stack: ``"encoder"`` or ``"decoder"``, for encoder-decoders only (default: ``"decoder"``).

    Raises:
        MechsteerError: for an unknown kind, stack or layer, or a hook point that this model does not have.

    Example:
        >>> ms.site(model, "resid_post", 3)
    """
    check_model(model)
    if not isinstance(kind, str):
        raise MechsteerError(f"A site is a name, e.g. 'resid_post', got {shown(kind)}.")
    sizes = stacks(model)
    if kind in model.hook_dict:
        check_layer(kind, layer, stack, sizes)
        return kind
    before, dot, last = kind.rpartition(".")
    short = last.removeprefix("hook_")
    if short not in KINDS or before not in ("", *sizes) or (dot and stack not in (None, before)):
        raise unknown("site", kind, list(model.hook_dict) if dot else KINDS)
    stack = before or stack
    if stack is None:
        stack, _ = predicting_stack(model)
    elif stack not in list(sizes):
        raise unknown("stack", stack, sizes)
    if layer is None:
        raise MechsteerError(f"Site kind {kind!r} needs a layer: 0 to {sizes[stack] - 1} of the {stack}.")
    number = whole(layer)
    if number is None:
        raise MechsteerError(f"layer must be an integer, got {shown(layer)}.")
    index = number + sizes[stack] if number < 0 else number
    if not 0 <= index < sizes[stack]:
        raise MechsteerError(f"Layer {layer} is out of range: the {stack} has layers 0 to {sizes[stack] - 1}.")
    name = f"{stack}.{index}.{KINDS[short][0]}"
    if name not in model.hook_dict:
        if short == "resid_mid":
            raise MechsteerError(
                "This model has no resid_mid: its attention and MLP read the same stream side by side. It has "
                "resid_pre, attn_out, mlp_out and resid_post."
            )
        here = [k for k, (hook, _) in KINDS.items() if f"{stack}.{index}.{hook}" in model.hook_dict]
        raise unknown(f"kind of site (in the {stack})", short, here)
    return name


def check_layer(name: str, layer: int | None, stack: str | None, sizes: Mapping[str, int]) -> None:
    """Raise if a layer or a stack is asked for beside the full name of a hook point in another one.

    Args:
        name: The full name.
        layer: The layer, from 0, or counted from the end; None for the name's own.
        stack: The stack; None for the name's own.
        sizes: How many layers the stacks have, for layers that are counted from the end.

    Raises:
        MechsteerError: with both.
    """
    found = _NAME.match(name)
    if found is None:
        return
    own = int(found[2])
    if layer not in (None, own, own - sizes.get(found[1], 0)) or stack not in (None, found[1]):
        asked = f"layer={shown(layer)}" if stack in (None, found[1]) else f"stack={shown(stack)}"
        raise MechsteerError(
            f"{name!r} is in layer {own} of the {found[1]}, but {asked} is asked for beside it: give a kind such as "
            "'resid_post' with it, or the name's own."
        )


@lru_cache(maxsize=2**14)
def parse(name: str) -> tuple[str, int, str] | None:
    """Split a full name into (stack, layer, kind); None for hook points outside the layers or without a kind."""
    found = _NAME.match(name)
    if found is None or found[3] not in _OF_HOOK:
        return None
    return found[1], int(found[2]), _OF_HOOK[found[3]]


def fires(model: Any, name: str) -> bool:
    """Whether the hook point is reached with the model's current settings (``hook_result`` needs use_attn_result).

    The norms of queries and keys (Qwen 3) count as not reached: their hooks see all positions and heads as one list.
    """
    parsed = parse(name)
    if parsed is None:
        norm = name.endswith((".hook_scale", ".hook_normalized")) and ".attn." not in name
        return norm or name in {"hook_embed", "hook_pos_embed", "unembed.hook_in", "unembed.hook_out"}
    return not parsed[2].endswith("result") or bool(model.cfg.use_attn_result)


def switched_on(name: str) -> str:
    """How a hook point that does not fire is made to, for the end of an error's message; empty where nothing does."""
    return " model.set_use_attn_result(True) switches it on." if name.endswith(".hook_result") else ""


def shape_of(model: Any, name: str) -> tuple[str, ...]:
    """The named dimensions at a site, sizes filled in where the model fixes them: ``("batch", "pos", "d_model=8")``."""
    parsed = parse(name)
    outside = {"hook_scale": _SCALE, "hook_out": _LOGITS}.get(name.rpartition(".")[2], _STREAM)
    spec = KINDS[parsed[2]][1] if parsed else outside
    cfg = model.cfg
    sizes = {
        "d_model": cfg.d_model,
        "d_vocab": cfg.d_vocab,
        "scale": 1,
        "d_mlp": cfg.d_mlp,
        "n_heads": cfg.n_heads,
        "n_kv_heads": cfg.n_key_value_heads or cfg.n_heads,
        "d_head": cfg.d_head,
    }
    return tuple(f"{dim}={sizes[dim]}" if dim in sizes else dim for dim in spec.split())


def width(model: Any, name: str) -> int | None:
    """The size of the last dimension at a site; None where it depends on the prompt (attention scores)."""
    last = shape_of(model, name)[-1]
    return int(last.split("=")[1]) if "=" in last else None


def sites(model: Any) -> "pd.DataFrame":
    """All hook points of the model's layers that fire: columns site, stack, layer, kind, shape.

    Example:
        >>> ms.sites(model).query("layer == 0")
    """
    import pandas as pd

    check_model(model)
    rows = []
    for name in model.hook_dict:
        parsed = parse(name)
        if parsed is not None and fires(model, name):
            rows.append((name, *parsed, " ".join(shape_of(model, name))))
    return pd.DataFrame(rows, columns=["site", "stack", "layer", "kind", "shape"])


def position_stack(name: str, *, two_stacks: bool) -> str:
    """Whose positions the tensor at a site has: ``"encoder"``, ``"decoder"`` or, in decoder-only models, ``"blocks"``.

    The keys and values of cross-attention are computed from the encoder's output, so theirs are encoder positions.
    """
    if not two_stacks:
        return "blocks"
    parsed = parse(name)
    if parsed is not None and parsed[2] in {"cross_k", "cross_v"}:
        return "encoder"
    return "encoder" if name.startswith(("encoder", "hook_embed")) else "decoder"
