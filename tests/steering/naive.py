"""Attention steering by definition, inside Hugging Face's models: their attention function replaced by a plain one."""

import math
from collections.abc import Callable
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

import mechsteer as ms
from mechsteer.models import is_encoder_decoder

INSTRUCTION = "answer in capitals"
TEXTS = ["the cat sat on mat", "write red blue house in the dog .", "one"]

Place = tuple[str, int]
"""Which attention (``"self"``, ``"encoder"``, ``"decoder"``, ``"cross"``) of which layer."""


def prompts_of(model: Any, texts: list[str] | None = None) -> list[ms.Prompt]:
    return [ms.prompt(model, text, instruction=INSTRUCTION) for text in texts or TEXTS]


class Rule:
    """What a method does to one attention; by default nothing. ``span`` and ``length`` are those of one prompt."""

    def __init__(self, prompt: ms.Prompt, span: str = "instruction") -> None:
        self.inside = prompt.positions(span)
        self.length = len(prompt)

    def keys(self, place: Place, keys: Tensor) -> Tensor:
        """[1, heads, key, d_head] -> the same."""
        return keys

    def weights(self, place: Place, weights: Tensor) -> Tensor:
        """[1, heads, query, key] -> the same, rows summing to 1."""
        return weights


class Multiply(Rule):
    """InstABoost, and GUIDE with M = e^delta: weights to the span times M, renormalised."""

    def __init__(self, prompt: ms.Prompt, factor: float, **options: Any) -> None:
        super().__init__(prompt)
        self.factor = factor
        self.places: tuple[str, ...] = options.get("places", ("self", "encoder", "cross"))
        self.layers: list[int] | None = options.get("layers")
        self.queries: str = options.get("queries", "all")

    def weights(self, place: Place, weights: Tensor) -> Tensor:
        if place[0] not in self.places or (self.layers is not None and place[1] not in self.layers):
            return weights
        out = weights.clone()
        for query in range(weights.shape[2]):
            if self.meant(place, query):
                out[:, :, query, self.inside] *= self.factor
                out[:, :, query] /= out[:, :, query].sum(-1, keepdim=True)
        return out

    def meant(self, place: Place, query: int) -> bool:
        boundary = 1 if place[0] == "cross" else self.length
        return {"all": True, "prompt": query < boundary, "generated": query >= boundary}[self.queries]


class Pasta(Rule):
    """Weights to everything else times alpha, renormalised, in some heads; ``released`` spares generated keys."""

    def __init__(self, prompt: ms.Prompt, alpha: float, heads: Any = None, *, released: bool = False) -> None:
        super().__init__(prompt)
        self.alpha, self.heads, self.released = alpha, heads, released

    def weights(self, place: Place, weights: Tensor) -> Tensor:
        if place[0] == "decoder":
            return weights
        out = weights.clone()
        for head in range(weights.shape[1]):
            if self.heads is not None and (place[1], head) not in self.heads:
                continue
            for key in range(weights.shape[3]):
                if key not in self.inside and not (self.released and key >= self.length):
                    out[:, head, :, key] *= self.alpha
            out[:, head] /= out[:, head].sum(-1, keepdim=True)
        return out


class Spotlight(Rule):
    """A query's share psi < tau on the span: its weights there times tau / psi, renormalised."""

    def __init__(self, prompt: ms.Prompt, target: float) -> None:
        super().__init__(prompt)
        self.target = target

    def weights(self, place: Place, weights: Tensor) -> Tensor:
        if place[0] == "decoder":
            return weights
        out = weights.clone()
        for head in range(weights.shape[1]):
            for query in range(weights.shape[2]):
                share = float(weights[0, head, query, self.inside].sum())
                if 0 < share < self.target:
                    out[0, head, query, self.inside] *= self.target / share
                    out[0, head, query] /= out[0, head, query].sum()
        return out


class SpotlightReleased(Rule):
    """One psi for all heads and queries of a layer; the bias goes onto ln(A + 1e-10) of all of them."""

    def __init__(self, prompt: ms.Prompt, target: float) -> None:
        super().__init__(prompt)
        self.target = target

    def weights(self, place: Place, weights: Tensor) -> Tensor:
        share = float(weights[..., self.inside].sum() / weights.sum())
        if place[0] == "decoder" or share >= self.target:
            return weights
        logits = (weights + 1e-10).log()
        logits[..., self.inside] += math.log(self.target / share)
        causal = place[0] == "self"
        if causal:  # the released code runs on weights whose masked entries are 0, which 1e-10 would let in
            logits = logits.masked_fill(torch.ones_like(logits, dtype=torch.bool).triu(1), -math.inf)
        return logits.softmax(-1)


class ScaleKeys(Rule):
    def __init__(self, prompt: ms.Prompt, alpha: float, **options: Any) -> None:
        super().__init__(prompt)
        self.alpha = alpha
        self.places: tuple[str, ...] = options.get("places", ("self", "encoder", "cross"))
        self.layers: list[int] | None = options.get("layers")

    def keys(self, place: Place, keys: Tensor) -> Tensor:
        if place[0] not in self.places or (self.layers is not None and place[1] not in self.layers):
            return keys
        out = keys.clone()
        out[:, :, self.inside] *= self.alpha
        return out


def places_of(hf: Any) -> dict[int, Place]:
    """Each attention module of a Hugging Face model, by id."""
    if hf.config.is_encoder_decoder:
        found = {id(block.layer[0].SelfAttention): ("encoder", i) for i, block in enumerate(hf.encoder.block)}
        found |= {id(block.layer[0].SelfAttention): ("decoder", i) for i, block in enumerate(hf.decoder.block)}
        return found | {id(block.layer[1].EncDecAttention): ("cross", i) for i, block in enumerate(hf.decoder.block)}
    layers = hf.transformer.h if hasattr(hf, "transformer") else hf.model.layers
    return {id(getattr(layer, "attn", None) or layer.self_attn): ("self", i) for i, layer in enumerate(layers)}


def attention(rule: Rule, places: dict[int, Place]) -> Callable[..., tuple[Tensor, Tensor]]:
    """An eager attention function for transformers, with a rule in it."""

    def forward(
        module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
    ) -> tuple[Tensor, Tensor]:
        place = places[id(module)]
        group = query.shape[1] // key.shape[1]
        key, value = rule.keys(place, key).repeat_interleave(group, 1), value.repeat_interleave(group, 1)
        scaling = options.get("scaling")
        scores = query @ key.transpose(2, 3) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
        if options.get("softcap"):
            scores = options["softcap"] * (scores / options["softcap"]).tanh()
        if options.get("position_bias") is not None:
            scores = scores + options["position_bias"]
        if attention_mask is not None:
            scores = scores + attention_mask
        weights = rule.weights(place, scores.double().softmax(-1)).to(value.dtype)  # float32 would lose small shares
        return (weights @ value).transpose(1, 2).contiguous(), weights

    return forward


@contextmanager
def replaced(hf: Any, rule: Rule) -> Any:
    import sys

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys.modules[type(hf).__module__], "eager_attention_forward", attention(rule, places_of(hf)))
        yield


@torch.no_grad()
def hf_probabilities(hf: Any, model: Any, prompt: ms.Prompt, continuation: list[int], rule: Rule) -> Tensor:
    """[continuation + 1, d_vocab] next-token probabilities after the prompt and each token of the continuation."""
    with replaced(hf, rule):
        if is_encoder_decoder(model):
            fed = torch.tensor([[model.cfg.decoder_start_token_id, *continuation]])
            return hf(input_ids=prompt.tokens[None], decoder_input_ids=fed).logits[0].softmax(-1)
        tokens = torch.cat([prompt.tokens, torch.tensor(continuation, dtype=torch.long)])[None]
        return hf(input_ids=tokens).logits[0, len(prompt) - 1 :].softmax(-1)


@torch.no_grad()
def our_probabilities(
    model: Any, prompt: ms.Prompt, continuation: list[int], steer: ms.Intervention, *, cached: bool
) -> Tensor:
    """The same of the hooked model: one pass of its own over everything, or prompt and tokens against a cache."""
    from mechsteer.models import advance, hooked, start
    from mechsteer.steering import Step, attach

    two = is_encoder_decoder(model)
    first = torch.tensor([[model.cfg.decoder_start_token_id]]) if two else prompt.tokens[None]
    if not cached:
        fed = torch.cat([first, torch.tensor([continuation], dtype=torch.long)], dim=1)
        arguments = (prompt.tokens[None], fed) if two else (fed,)
        mask = {} if two else {"attention_mask": torch.ones_like(fed), "prepend_bos": False}
        logits = model.run_with_hooks(*arguments, **mask, fwd_hooks=steer.hooks(prompt))[0]
        return logits[0 if two else len(prompt) - 1 :].softmax(-1)
    batch = ms.batch([prompt], side="right" if two else "left")
    step = Step(batch, decoder_prefix=int(two))
    with hooked(model, attach(steer.bind(model, step), model)):
        state = start(model, batch.tokens, batch.mask)
        state.announce, out = step.begin, []
        for fed in [first, *[torch.tensor([[token]]) for token in continuation]]:
            out.append(advance(model, state, fed, torch.ones_like(fed, dtype=torch.bool))[0, -1])
    return torch.stack(out).softmax(-1)
