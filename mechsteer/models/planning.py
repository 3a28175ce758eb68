"""What a study will need: memory from the sizes of what it holds, time from one batch of it.

Memory is counted where it is largest: in the pass over a batch's prompts (its cache so far, the widest tensors of one
block, scores where they are made), or at the last new token (the whole cache, and the logits). What Python and its
libraries take is not in it.
"""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from mechsteer.errors import MechsteerError, positive_int
from mechsteer.models.forward import advance, model_device, start
from mechsteer.models.info import is_encoder_decoder
from mechsteer.models.sites import predicting_stack

if TYPE_CHECKING:
    import pandas as pd

_MLP_TENSORS, _STREAM_TENSORS, _READ_OUT_TENSORS = 4, 6, 3  # alive together: in an MLP, around it, in the read-out
_STEPS = 4  # new tokens that are timed


@torch.no_grad()
def plan(
    model: Any, *, prompts: int = 100, length: int = 256, new_tokens: int = 64, batch_size: int = 32
) -> "pd.DataFrame":
    """Estimate the memory and the time that generating for a set of prompts takes.

    Args:
        model: A loaded model.
        prompts: How many.
        length: Tokens of each.
        new_tokens: Tokens generated after each.
        batch_size: Prompts computed together.

    Returns:
        One row a part: columns part, megabytes and seconds. ``weights``, ``cache`` (keys and values at the end),
        ``prompt pass``, ``new tokens``, and ``total``: the weights and the larger of the two passes with the cache that
        each of them has; the seconds of all batches. One batch is run to find them, of its new tokens a few.

    Raises:
        MechsteerError: for numbers below 1, or more positions than the context has.
    """
    import pandas as pd

    for name, value in (
        ("prompts", prompts),
        ("length", length),
        ("new_tokens", new_tokens),
        ("batch_size", batch_size),
    ):
        positive_int(name, value)
    if not is_encoder_decoder(model) and length + new_tokens > model.cfg.n_ctx:
        raise MechsteerError(
            f"{length} and {new_tokens} positions do not fit: this model's context has {model.cfg.n_ctx}."
        )
    rows = min(batch_size, prompts)
    weights = sum({p.untyped_storage().data_ptr(): p.untyped_storage().nbytes() for p in model.parameters()}.values())
    held = _memory(model, rows, length, new_tokens)
    pass_seconds, step_seconds = _times(model, rows, length, new_tokens)
    batches = prompts / rows
    seconds = {"prompt pass": batches * pass_seconds, "new tokens": batches * (new_tokens - 1) * step_seconds}
    largest = max(held["prompt pass"] + held["cache of the prompts"], held["new tokens"] + held["cache"])
    table = [
        ("weights", weights, None),
        ("cache", held["cache"], None),
        ("prompt pass", held["prompt pass"], seconds["prompt pass"]),
        ("new tokens", held["new tokens"], seconds["new tokens"]),
        ("total", weights + largest, sum(seconds.values())),
    ]
    return pd.DataFrame([(p, b / 1e6, s) for p, b, s in table], columns=["part", "megabytes", "seconds"])


def _memory(model: Any, rows: int, length: int, new: int) -> dict[str, int]:
    """Bytes of each part."""
    cfg, size = model.cfg, torch.empty((), dtype=model.cfg.dtype).element_size()
    layers, two = predicting_stack(model)[1], is_encoder_decoder(model)
    position = 2 * rows * layers * (cfg.n_key_value_heads or cfg.n_heads) * cfg.d_head * size
    widest = _MLP_TENSORS * cfg.d_mlp + _STREAM_TENSORS * cfg.d_model
    heads = cfg.n_heads * cfg.d_head
    square = length * length * size
    if two:  # a position bias by head, and by row where it is padded
        square *= cfg.n_heads * (rows if rows > 1 else 1)
    elif cfg.attn_scores_soft_cap > 0:
        square *= 3 * rows * cfg.n_heads
    else:
        square *= rows if rows > 1 else 0  # the mask of padding
    return {
        "cache": position * (length + new),
        "cache of the prompts": 0 if two else position * length,
        "prompt pass": rows * length * max(widest, 3 * heads + _STREAM_TENSORS * cfg.d_model) * size + square,
        "new tokens": rows * (_READ_OUT_TENSORS * cfg.d_vocab * 4 + widest * size),
    }


def _times(model: Any, rows: int, length: int, new: int) -> tuple[float, float]:
    """Seconds of the pass over one batch of random prompts, and of one new token in the middle of its answers.

    A step takes longer the more is cached, in proportion: the middle one takes what they take on average.
    """
    tokens = torch.randint(0, model.cfg.d_vocab, (rows, length), generator=torch.Generator().manual_seed(0))
    real = torch.ones_like(tokens, dtype=torch.bool)
    token = torch.full((rows, 1), int(getattr(model.cfg, "decoder_start_token_id", None) or 0))
    one = torch.ones_like(token, dtype=torch.bool)
    first = (token, one) if is_encoder_decoder(model) else (tokens, real)
    small = start(model, tokens[:1, :8], real[:1, :8])  # once before, so that nothing is timed that happens once
    advance(model, small, first[0][:1, :8], first[1][:1, :8])
    states: list[Any] = []

    def prompt_pass() -> None:
        states.append(start(model, tokens, real))
        advance(model, states[0], *first)

    took = _seconds(model, prompt_pass)
    steps = max(1, min(_STEPS, new - 1))
    if before := (new - 1 - steps) // 2:
        advance(model, states[0], token.expand(-1, before), one.expand(-1, before))
    return took, min(_seconds(model, lambda: advance(model, states[0], token, one)) for _ in range(steps))


def _seconds(model: Any, run: Callable[[], Any]) -> float:
    def wait() -> None:
        if model_device(model).type == "cuda":
            torch.cuda.synchronize()

    wait()
    began = time.perf_counter()
    run()
    wait()
    return time.perf_counter() - began
