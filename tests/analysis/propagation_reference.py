"""Rollout and Influence the plain way: everything kept from one whole pass, then loops over positions and heads."""

from typing import Any

import torch
from torch import Tensor

import mechsteer as ms
from mechsteer.models import is_encoder_decoder, stacks

Kept = dict[str, Tensor]


@torch.no_grad()
def keep_everything(model: Any, prompt: ms.Prompt, continuation: list[int], steer: Any = None) -> Kept:
    """Every activation of the library's own forward on the whole sequence, without cache, chunks or padding."""
    kept: Kept = {}
    names = [name for name in model.hook_dict if name.startswith(("blocks", "encoder.", "decoder."))]
    edits = [] if steer is None else steer.hooks(prompt)
    hooks = [*edits, *((name, lambda x, hook: kept.__setitem__(hook.name, x.clone())) for name in names)]
    if is_encoder_decoder(model):
        decoder = torch.tensor([[model.cfg.decoder_start_token_id, *continuation]])
        model.run_with_hooks(prompt.tokens[None], decoder, fwd_hooks=hooks)
    else:
        tokens = torch.cat([prompt.tokens, torch.tensor(continuation, dtype=torch.long)])
        model.run_with_hooks(tokens[None], fwd_hooks=hooks, prepend_bos=False)
    return kept


def naive(
    model: Any,
    prompt: ms.Prompt,
    span: str,
    *,
    continuation: str | None = None,
    steer: Any = None,
    **options: Any,
) -> dict[str, list[list[float]]]:
    """stack -> layer -> position: rollout if ``residual`` is among the options, else Influence."""
    ids = [] if continuation is None else model.tokenizer(continuation, add_special_tokens=False)["input_ids"]
    kept = keep_everything(model, prompt, ids, steer)
    tables: dict[str, list[list[float]]] = {}
    for stack, layers in stacks(model).items():
        if stack == "decoder":
            now = [0.0] * (1 + len(ids))
        else:
            inside = prompt.positions(span)
            now = [1.0 if i in inside else 0.0 for i in range(len(prompt))] + [0.0] * (stack == "blocks") * len(ids)
        tables[stack] = []
        for layer in range(layers):
            now = _sublayer(model, kept, f"{stack}.{layer}", "attn", now, now, **options)
            if stack == "decoder":
                now = _sublayer(model, kept, f"{stack}.{layer}", "cross_attn", now, tables["encoder"][-1], **options)
            tables[stack].append(now)
    return tables


def _sublayer(
    model: Any, kept: Kept, block: str, name: str, before: list[float], keys: list[float], **options: Any
) -> list[float]:
    stack, layer = block.split(".")
    module = getattr(getattr(model, stack)[int(layer)], name)
    pattern, out = kept[f"{block}.{name}.hook_pattern"][0], []
    for k in range(pattern.shape[1]):
        by_head = [_arriving(kept, block, name, head, k, pattern, keys, **options) for head in range(len(pattern))]
        weights = [1.0] * len(by_head)
        if options.get("heads") == "weighted":
            z = kept[f"{block}.{name}.hook_z"][0, k]
            weights = [float((z[head] @ module.W_O[head]).norm()) for head in range(len(by_head))]
        arriving = sum(w * j for w, j in zip(weights, by_head, strict=True)) / sum(weights)
        stream, update = _norms(model, kept, stack, int(layer), name, k, **options)
        out.append((stream * before[k] + update * arriving) / (stream + update))
    return out


def _arriving(
    kept: Kept, block: str, name: str, head: int, k: int, pattern: Tensor, keys: list[float], **options: Any
) -> float:
    top = bottom = 0.0
    values = kept[f"{block}.{name}.hook_v"][0]
    group = len(pattern) // values.shape[1]
    for i, has in enumerate(keys[: pattern.shape[2]]):
        size = _norm(values[i, head // group], options["norm"]) if options.get("values") else 1.0
        top += float(pattern[head, k, i]) * size * has
        bottom += float(pattern[head, k, i]) * size
    return top / bottom


def _norms(model: Any, kept: Kept, stack: str, layer: int, name: str, k: int, **options: Any) -> tuple[float, float]:
    if "residual" in options:
        return options["residual"], 1 - options["residual"]
    block, norm, source = f"{stack}.{layer}", options["norm"], options["source"]
    cross = name == "cross_attn"
    update = kept[f"{block}.hook_cross_attn_out" if cross else f"{block}.hook_attn_out"]
    if source == "residual":
        stream = kept[f"{block}.hook_resid_mid" if cross else f"{block}.hook_resid_pre"]
        return _norm(stream[0, k], norm), _norm(update[0, k], norm)
    module = getattr(model, stack)[layer]
    if hasattr(module, "ln1_post"):  # Gemma 2: the attention block's own output is sum_h z_h W_O^h
        update = torch.einsum("bphd,hdm->bpm", kept[f"{block}.attn.hook_z"], module.attn.W_O) + module.attn.b_O
    if source == "ln_input_lagged":
        layer = max(layer - 1, 0)
    before = getattr(model, stack)[layer]
    stream = kept[f"{stack}.{layer}.{'hook_resid_mid' if cross else 'hook_resid_pre'}"]
    read = (before.ln2 if cross else before.ln1)(stream)
    return _norm(read[0, k], norm), _norm(update[0, k], norm)


def _norm(x: Tensor, p: float) -> float:
    x = x.double().abs()
    return float(x.max() if p == float("inf") else (x**p).sum() ** (1 / p))


def assert_equal(table: Any, expected: dict[str, list[list[float]]], quantity: str, atol: float = 1e-5) -> None:
    """Every row of one prompt, span and delta against the loops."""
    count = 0
    for stack, layers in expected.items():
        for layer, row in enumerate(layers):
            part = table[(table["stack"] == stack) & (table["layer"] == layer)]
            assert part["position"].tolist() == list(range(len(row)))
            torch.testing.assert_close(torch.tensor(part[quantity].tolist()), torch.tensor(row), atol=atol, rtol=0)
            count += len(row)
    assert count == len(table)
