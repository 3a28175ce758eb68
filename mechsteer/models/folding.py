"""Weights processed by TransformerLens: norms folded into the layers that read them, and what else it centres.

A norm multiplies by its weights; the layers after it can do that as well (``fold_ln``), so that the norm has none and
every contribution to the residual stream can be projected onto the unembedding as it is. Where norms are LayerNorms,
what is written to the stream can have its mean taken out (``center_writing_weights``); and the logits of a position can
have theirs (``center_unembed``). Biases of values become biases of outputs (``fold_value_biases``), because the weights
of attention sum to 1. None of it changes a probability; what is not exact for a model is refused.
"""

from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

from mechsteer.errors import MechsteerError
from mechsteer.models.heads import post_norm
from mechsteer.models.info import is_encoder_decoder


def check_foldable(model: Any) -> None:
    """Raise for a model whose norms cannot be folded.

    Raises:
        MechsteerError: for an encoder-decoder, norms that come after their sublayers, or norms with biases before MLPs
            with gates.
    """
    architecture = model.cfg.original_architecture
    if is_encoder_decoder(model):
        raise MechsteerError(f"fold=True is for decoder-only models; TransformerLens cannot fold {architecture}.")
    if post_norm(model.cfg):
        raise MechsteerError(
            f"The norms of {architecture} cannot be folded (fold=True, fold_ln=True): they come after attention and "
            "MLP, so that there is no layer to fold them into."
        )
    if model.cfg.gated_mlp and any(bool(getattr(block.ln2, "b", torch.zeros(1)).any()) for block in model.blocks):
        raise MechsteerError(
            f"The norms of {architecture} cannot be folded (fold=True, fold_ln=True): they have biases, and "
            "TransformerLens' MLP with a gate has no bias to fold them into."
        )


def refuse_folded(model: Any, what: str) -> None:
    """Raise if the model's norms are folded.

    Raises:
        MechsteerError: saying what needs them.
    """
    if model.cfg.normalization_type.endswith("Pre"):
        raise MechsteerError(f"{what}: this model's norms are folded into other weights. Load it without fold=True.")


def fold(model: Any) -> None:
    """Process the weights as :meth:`HookedTransformer.from_pretrained` does by default, as far as that is exact.

    The weights are copied first, so that those of Hugging Face's model stay as they are.
    """
    for name, parameter in list(model.named_parameters()):
        owner, _, last = name.rpartition(".")
        setattr(model.get_submodule(owner), last, nn.Parameter(parameter.detach().clone(), requires_grad=False))
    model.load_and_process_state_dict(
        model.state_dict(),
        fold_ln=True,
        center_writing_weights=model.cfg.normalization_type == "LN",
        center_unembed=not _capped(model),
        fold_value_biases=True,
    )
    model.eval().requires_grad_(False)


def make_processing_exact(model: Any) -> None:
    """Let the library's in-place processing change no probability: ``process_weights_``, ``load_state_dict``, ...

    Tied models share the memory of embedding and unembedding until one of them is written.
    """
    model.register_load_state_dict_pre_hook(_untie)
    if not is_encoder_decoder(model):
        model.load_and_process_state_dict = MethodType(load_and_process_state_dict, model)


def load_and_process_state_dict(
    model: Any, state_dict: Any, fold_ln: bool = True, center_writing_weights: bool = True, center_unembed: bool = True,
    fold_value_biases: bool = True, refactor_factored_attn_matrices: bool = False,
) -> None:  # fmt: skip
    """The library's method, without the steps that are not exact for the model.

    Raises:
        MechsteerError: for a step that would change probabilities.
    """
    if fold_ln:
        check_foldable(model)
    if center_unembed and _capped(model):
        raise MechsteerError(
            "center_unembed=True would change the probabilities of this model, whose logits are capped; pass "
            "center_unembed=False."
        )
    state = dict(state_dict)
    _untie(model, state, "", {})
    with torch.no_grad():
        type(model).load_and_process_state_dict(
            model,
            state,
            fold_ln=fold_ln,
            center_writing_weights=center_writing_weights,
            center_unembed=center_unembed,
            fold_value_biases=fold_value_biases,
            refactor_factored_attn_matrices=refactor_factored_attn_matrices,
        )


def _capped(model: Any) -> bool:
    """Whether a constant that is added to all logits does not cancel."""
    return model.cfg.output_logits_soft_cap > 0


def _untie(model: Any, state: dict[str, Tensor], prefix: str, metadata: dict[str, Any], *_: Any) -> None:
    """Before weights are written in place, give the unembedding memory of its own, and what is written as well.

    What is written may be the model's own state, whose unembedding would follow the embedding that is written first.
    """
    if metadata.get("assign_to_params_buffers"):
        return
    embedding, unembedding = model.embed.W_E, model.unembed.W_U
    if embedding.untyped_storage().data_ptr() != unembedding.untyped_storage().data_ptr():
        return
    model.unembed.W_U = nn.Parameter(unembedding.detach().clone(), requires_grad=unembedding.requires_grad)
    for name in (f"{prefix}embed.W_E", f"{prefix}unembed.W_U"):
        if name in state:
            state[name] = state[name].clone()
