"""Is a text still a text? Two filters of collapsed outputs, and the perplexity that one of them needs.

Steering that is too strong ends in repetition, and a repeated phrase can satisfy a checker. The paper "Improving
Instruction-Following in Language Models through Activation Steering" (arXiv 2410.12877) calls a response bad if its
perplexity under a second language model (GPT-2; of the response alone, its last 1024 tokens) is below 2.5: what repeats
itself is easy to predict. :func:`perplexities` measures that with any causal language model.

:func:`repeated_share` is ours and needs no model: the share of a text's runs of ten characters that have occurred
before in it. Prose, lists and JSON objects have little of it, a loop nearly 1. A text is bad above one half.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch

from mechsteer.models.checkpoint.hf import load_hf, load_tokenizer
from mechsteer.models.checkpoint.resolve import locate

LOW_PERPLEXITY = 2.5
"""The paper's threshold."""

MUCH_REPEATED = 0.5
"""Ours, for :func:`repeated_share`."""

RUN = 10
LAST_TOKENS = 1024


def repeated_share(text: str) -> float:
    """The share of the runs of ten characters that stand earlier in the text too; 0 for shorter texts."""
    runs = [text[i : i + RUN] for i in range(len(text) - RUN + 1)]
    return 1 - len(set(runs)) / len(runs) if runs else 0.0


@torch.no_grad()
def perplexities(name_or_path: str, texts: Sequence[str]) -> list[float]:
    """The perplexity of each text alone under a causal language model.

    Args:
        name_or_path: A Hugging Face model: an id on the hub, a local directory, or ``organism:NAME``. It is read with
            transformers, so it may be of any architecture.
        texts: The texts; of long ones the last 1024 tokens count, or as many as the model can read.

    Returns:
        exp of the mean negative log-probability of all tokens but the first; NaN for texts of fewer than two tokens,
        which have none.

    Raises:
        MechsteerError: if the model cannot be found or read.
    """
    model, tokenizer = _language_model(name_or_path)
    longest = min(LAST_TOKENS, getattr(model.config, "max_position_embeddings", LAST_TOKENS))
    return [_perplexity(model, tokenizer, text, longest) for text in texts]


@lru_cache(maxsize=1)  # one that filters a study is asked hundreds of times
def _language_model(name_or_path: str) -> tuple[Any, Any]:
    directory, _ = locate(name_or_path)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return load_hf(directory, dtype=torch.float32, device=device), load_tokenizer(directory)


def _perplexity(model: Any, tokenizer: Any, text: str, longest: int) -> float:
    ids = torch.tensor([tokenizer(text)["input_ids"][-longest:]], device=model.device)
    if ids.shape[1] < 2:
        return math.nan
    logprobs = model(input_ids=ids).logits[:, :-1].float().log_softmax(-1)
    return math.exp(-float(logprobs.gather(2, ids[:, 1:, None]).mean()))
