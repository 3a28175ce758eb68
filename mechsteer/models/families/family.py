"""What a family of decoder-only models is to the loader: where its numbers and its weights are.

Each field that the configuration class of Hugging Face declares is in one of three places: it is represented
(:attr:`Family.fields` and :data:`SHARED`), it has no effect on the output (:data:`WITHOUT_EFFECT`), or a value other
than the default is refused by its name. So a field that a later version of transformers adds is never ignored.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from typing import Any

from torch import Tensor

StateDict = dict[str, Tensor]
Refusals = list[tuple[str, object, str]]
"""(feature, its value or a false one where there is nothing to refuse, what is expected)."""

SHARED = frozenset(
    "vocab_size hidden_size num_hidden_layers num_attention_heads intermediate_size max_position_embeddings "
    "tie_word_embeddings".split()
)
"""Fields that mean the same everywhere."""

WITHOUT_EFFECT = frozenset(
    "bos_token_id eos_token_id pad_token_id decoder_start_token_id use_cache initializer_range initializer_factor "
    "init_std attention_dropout attn_pdrop hidden_dropout resid_pdrop embd_pdrop resid_dropout embed_dropout "
    "residual_dropout embedding_dropout dropout dropout_rate layerdrop classifier_dropout pretraining_tp "
    "output_router_logits router_aux_loss_coef router_jitter_noise is_decoder summary_type summary_use_proj "
    "summary_activation summary_proj_to_labels summary_first_dropout reorder_and_upcast_attn".split()
)
"""Fields that matter in training, for other heads, or for numbers' precision alone."""

ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_new",
    "gelu_fast": "gelu_fast",
    "gelu_pytorch_tanh": "gelu_pytorch_tanh",
    "relu": "relu",
    "relu2": "relu2",
    "silu": "silu",
    "swish": "silu",
}
"""Hugging Face's name of an activation function -> the library's."""


@dataclass(frozen=True)
class Family:
    """How a ``model_type`` is made into a HookedTransformer.

    Attributes:
        state: From the Hugging Face model and the hooked configuration to every weight by its name in the hooked model.
        settings: From the configuration to entries of HookedTransformerConfig: what differs from Llama's, or all.
        like_llama: Whether Llama's settings come first, so that ``settings`` holds only what differs.
        fields: The represented fields of the configuration class, besides :data:`SHARED`.
        refuses: Represented fields of which not every value is.
    """

    state: Callable[[Any, Any], StateDict]
    settings: Callable[[Any], dict[str, Any]] = lambda config: {}
    like_llama: bool = True
    fields: frozenset[str] = frozenset()
    refuses: Callable[[Any], Refusals] = lambda config: []


def declared(config: Any) -> dict[str, Any]:
    """The fields that the configuration's own class declares, with their defaults."""
    from transformers import PreTrainedConfig

    shared = {field.name for field in fields(PreTrainedConfig)}
    return {field.name: field.default for field in fields(type(config)) if field.name not in shared}


def own(config: Any, name: str, default: Any = None) -> Any:
    """A field that the configuration's class declares; the default where the file alone has it.

    Hugging Face's model does not read what its class does not declare, but keeps it: a Llama that was a Mistral once
    may still have ``sliding_window``.
    """
    return getattr(config, name, default) if name in type(config).__dataclass_fields__ else default


def not_represented(config: Any, represented: Iterable[str]) -> Refusals:
    """The declared fields that nobody has classified and whose values are not the defaults."""
    known = SHARED | WITHOUT_EFFECT | set(represented) | set(type(config).attribute_map.values())
    return [
        (name, f"{value!r}", f"must be {default!r}: no other value is represented")
        for name, default in declared(config).items()
        if name not in known and (value := getattr(config, name)) != default
    ]


def must_be(config: Any, name: str, value: object, reason: str = "") -> tuple[str, object, str]:
    """A field of which one value is represented."""
    found = getattr(config, name, value)
    shown = str(found).lower() if isinstance(found, bool) and not found else found
    expected = str(value).lower() if isinstance(value, bool) else repr(value)
    return name, found != value and (shown if shown else repr(shown)), f"must be {expected}{reason and ': ' + reason}"
