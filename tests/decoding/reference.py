"""Slow and plain ways to generate and to score, to compare the fast ones with."""

from typing import Any

import torch
from torch import Tensor

import mechsteer as ms
from mechsteer.models import is_encoder_decoder

TEXTS = ["the cat sat on mat", "one", "write red blue house in the dog .", "quote : ends in"]


def prompts_of(model: Any, texts: list[str] = TEXTS) -> list[ms.Prompt]:
    return [ms.prompt(model, text, instruction="answer in capitals") for text in texts]


@torch.no_grad()
def next_logprobs(model: Any, prompt: ms.Prompt, continuation: list[int], steer: Any = None) -> Tensor:
    """[pos, d_vocab] log-probabilities from the library's own forward on the whole sequence, without any cache."""
    hooks = steer.hooks(prompt) if steer is not None else []
    if is_encoder_decoder(model):
        decoder = torch.tensor([[model.cfg.decoder_start_token_id, *continuation]])
        logits = model.run_with_hooks(prompt.tokens[None], decoder, fwd_hooks=hooks)
        return logits[0].log_softmax(-1)
    tokens = torch.cat([prompt.tokens, torch.tensor(continuation, dtype=torch.long)])[None]
    logits = model.run_with_hooks(tokens, fwd_hooks=hooks, prepend_bos=False)
    return logits[0, len(prompt) - 1 :].log_softmax(-1)


def greedy(model: Any, prompt: ms.Prompt, steer: Any, new: int) -> tuple[list[int], list[float]]:
    """One prompt, the whole sequence again for every token."""
    tokens: list[int] = []
    logprobs: list[float] = []
    ends = ms.model_info(model).eos_ids
    for _ in range(new):
        row = next_logprobs(model, prompt, tokens, steer)[-1]
        tokens.append(int(row.argmax()))
        logprobs.append(float(row.max()))
        if tokens[-1] in ends:
            break
    return tokens, logprobs


def rows(out: ms.Generation) -> list[list[int]]:
    return [out.tokens[i, :length].tolist() for i, length in enumerate(out.lengths)]


def row_logprobs(out: ms.Generation) -> list[list[float]]:
    return [out.logprobs[i, :length].tolist() for i, length in enumerate(out.lengths)]
