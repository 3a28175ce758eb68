"""Rotary tables from the Hugging Face model itself, as long as they are needed.

Whatever the type of rotary embedding (linear, dynamic, YaRN, Llama 3's, longrope; of a part of each head; of some
layers only; different for kinds of layers), the cosines and sines are Hugging Face's own, so none of its formulas is
written again here. Layers of one kind share one table. It starts short, and grows when a longer text comes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechsteer.models.digest import FIRST_ROWS
from mechsteer.models.families.family import own
from mechsteer.models.families.rope import by_kind

NO_ROTATION = "none"

Tables = dict[str, tuple[Float[Tensor, "pos rotary"], Float[Tensor, "pos rotary"]]]


@dataclass(eq=False)
class Rotary:
    """The tables of a model.

    Attributes:
        tables: From positions to cosines and sines by kind of layer.
        kinds: The kind of each layer.
        attentions: The hooked attention modules, which hold the tables.
    """

    tables: Callable[[Int[Tensor, "1 pos"]], Tables]
    kinds: list[str]
    attentions: list[Any]

    def extend(self, rows: int) -> None:
        """Give all layers tables of that many rows. Takes the place of the library's method of one layer."""
        device = self.attentions[0].W_O.device
        made = self.tables(torch.arange(rows, device=device)[None])
        some_cos, some_sin = next(iter(made.values()))
        made[NO_ROTATION] = (torch.ones_like(some_cos), torch.zeros_like(some_sin))
        for attention, kind in zip(self.attentions, self.kinds, strict=True):
            attention.rotary_cos, attention.rotary_sin = made[kind]


def set_tables(model: Any, hf_model: Any) -> None:
    """Give a hooked model Hugging Face's rotary embeddings.

    Args:
        model: The hooked model.
        hf_model: The model it was made from.
    """
    tables = _tables(hf_model, neighbours=model.cfg.rotary_adjacent_pairs)
    rotary = Rotary(tables, _kinds(hf_model.config), [block.attn for block in model.blocks])
    for attention in rotary.attentions:
        attention._extend_rotary_embeddings = rotary.extend
    rotary.extend(min(model.cfg.n_ctx, FIRST_ROWS))


def rotary_dim(hf_model: Any) -> int:
    """How many dimensions of each head are rotated."""
    made = _tables(hf_model)(torch.zeros((1, 1), dtype=torch.long, device=hf_model.device))
    return next(iter(made.values()))[0].shape[-1]


def _kinds(config: Any) -> list[str]:
    layers = config.num_hidden_layers
    kinds = list(config.layer_types) if "" not in by_kind(config) else [""] * layers
    rotated = own(config, "no_rope_layers") or [1] * layers  # despite its name, 1 where there is one
    return [kind if used else NO_ROTATION for kind, used in zip(kinds, rotated, strict=True)]


def _tables(hf_model: Any, *, neighbours: bool = False) -> Callable[[Int[Tensor, "1 pos"]], Tables]:
    if hf_model.config.model_type == "gptj":
        return _gptj_tables(hf_model.transformer.h[0].attn.embed_positions, hf_model.dtype)
    rotary, like = hf_model.base_model.rotary_emb, torch.empty(1, dtype=hf_model.dtype)
    kinds = sorted(set(_kinds(hf_model.config)) - {NO_ROTATION}) or list(by_kind(hf_model.config))

    @torch.no_grad()
    def make(positions: Int[Tensor, "1 pos"]) -> Tables:
        x = like.to(positions.device)
        found = {kind: rotary(x, positions, *([kind] if kind else [])) for kind in kinds}
        if neighbours:
            found = {kind: (_of_pairs(cos), _of_pairs(sin)) for kind, (cos, sin) in found.items()}
        return {kind: (cos[0], sin[0]) for kind, (cos, sin) in found.items()}

    return make


def _of_pairs(table: Float[Tensor, "1 pos rotary"]) -> Float[Tensor, "1 pos rotary"]:
    """From a table whose second half repeats the first to one for attention that turns neighbouring dimensions."""
    return table[..., : table.shape[-1] // 2].repeat_interleave(2, dim=-1)


def _gptj_tables(
    sines_and_cosines: Float[Tensor, "pos rotary"], dtype: torch.dtype
) -> Callable[[Int[Tensor, "1 pos"]], Tables]:
    """GPT-J's table has the sines and then the cosines of each pair; here both dimensions of a pair have theirs."""
    sin, cos = (half.repeat_interleave(2, dim=1).to(dtype) for half in sines_and_cosines.chunk(2, dim=1))

    def make(positions: Int[Tensor, "1 pos"]) -> Tables:
        at = positions[0].to(cos.device)
        return {"": (cos[at].to(positions.device), sin[at].to(positions.device))}

    return make
