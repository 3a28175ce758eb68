"""One prompt, one uncached run of Hugging Face's model, everything kept: what the measurements are compared with."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import mechsteer as ms

TEXTS = ["the cat sat on mat", "one", "write red blue house in the dog .", "quote : ends in"]
FAMILIES = ["gpt2", "llama-gqa", "gemma2", "t5", "t5-gated", "t5-uneven"]


def hugging_face(path: Path) -> Any:
    from mechsteer.models.checkpoint.hf import load_hf

    return load_hf(path, dtype=torch.float32, device=torch.device("cpu"))


@torch.no_grad()
def hf_run(hf: Any, prompt: ms.Prompt, continuation: Sequence[int] = ()) -> Any:
    """Hidden states and logits; of T5, the decoder's."""
    if hf.config.is_encoder_decoder:
        decoder = torch.tensor([[hf.config.decoder_start_token_id, *continuation]])
        return hf(input_ids=prompt.tokens[None], decoder_input_ids=decoder, output_hidden_states=True)
    ids = torch.cat([prompt.tokens, torch.tensor(list(continuation), dtype=torch.long)])
    return hf(input_ids=ids[None], output_hidden_states=True)


@torch.no_grad()
def hf_exits(hf: Any, prompt: ms.Prompt, continuation: Sequence[int] = (), *, normalise: bool = True) -> list[Tensor]:
    """The logits ``[pos, d_vocab]`` of each exit; the last ones are the model's own."""
    out = hf_run(hf, prompt, continuation)
    t5 = hf.config.is_encoder_decoder
    states = out.decoder_hidden_states if t5 else out.hidden_states
    found = []
    for state in states[:-1]:  # the last one has been through the final norm already
        x = state[0]
        if normalise:
            x = (hf.decoder.final_layer_norm if t5 else hf.model.norm if hasattr(hf, "model") else hf.transformer.ln_f)(
                x
            )
        if getattr(hf.config, "scale_decoder_outputs", False):
            x = x * hf.config.d_model**-0.5
        logits = hf.lm_head(x)
        cap = getattr(hf.config, "final_logit_softcapping", None)
        found.append(cap * torch.tanh(logits / cap) if cap else logits)
    return [*found, out.logits[0]]


def plain_jsd(p: Sequence[float], q: Sequence[float]) -> float:
    """Jensen-Shannon divergence, term by term."""
    total = 0.0
    for a, b in zip(p, q, strict=True):
        m = (a + b) / 2
        total += sum(x * math.log(x / m) for x in (a, b) if x > 0) / 2
    return total
