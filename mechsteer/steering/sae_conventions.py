"""How an SAE's activations were made when it was trained, as SAELens writes it down, against how they are made here.

SAELens trains on ``HookedTransformer.from_pretrained_no_processing(name, **model_from_pretrained_kwargs)``. Models here
are unprocessed (or all is, with ``fold=True``), so where those arguments process the weights, an activation is another:

===============================  ==================================================================================
``center_writing_weights``       what is in the residual stream, or written to it, lacks its mean over ``d_model`` (of
                                 models with LayerNorm; with RMS norms TransformerLens leaves it out). Followed.
``fold_value_biases``            values and heads' outputs lack the values' biases. Refused at v and z.
``fold_ln``, ``center_unembed``  the input and the output of the unembedding. Refused there; the output of a norm, as
                                 ``hook_normalized`` has it, is the same, for its weights come later.
``refactor_...``                 queries, keys, values and heads' outputs. Refused there.
===============================  ==================================================================================
"""

from collections.abc import Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor

from mechsteer.errors import MechsteerError
from mechsteer.models import is_encoder_decoder, model_info, parse
from mechsteer.prompts import Prompt

CENTERED, VALUES = "center_writing_weights", "fold_value_biases"
READ_OUT = {"fold_ln": "unembed.hook_in", "center_unembed": "unembed.hook_out"}
FACTORED = "refactor_factored_attn_matrices"
PROCESSING = (CENTERED, VALUES, *READ_OUT, FACTORED)
HARMLESS = frozenset(
    "dtype torch_dtype device n_devices move_to_device device_map default_prepend_bos default_padding_side n_ctx "
    "first_n_layers trust_remote_code local_files_only attn_implementation cache_dir low_cpu_mem_usage token".split()
)
"""Other arguments of ``from_pretrained`` that do not change an activation, but for its precision."""

_WRITTEN = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "result")
_STREAM_NAMES = ("hook_embed", "hook_pos_embed", "hook_mlp_in", "hook_attn_in", "_input")
_OF_HEADS = ("q", "k", "v", "z", "rot_q", "rot_k")


def processing(sae: Any) -> dict[str, bool]:
    """How the weights of the model were processed that the SAE was trained on."""
    given = sae.cfg.metadata.model_from_pretrained_kwargs or {}
    return {name: bool(given.get(name)) for name in PROCESSING}


def as_trained(sae: Any, x: Float[Tensor, "*positions width"], site: str) -> Float[Tensor, "*positions width"]:
    """The activation as the SAE was trained on it: without its mean over ``d_model`` where that was taken out.

    The norms of the model take it out as well, so that what an edit adds means the same in both.
    """
    return x - x.mean(-1, keepdim=True) if processing(sae)[CENTERED] and _in_stream(site) else x


def check_processing(sae: Any, model: Any, site: str, *, transfer: bool) -> None:
    """Raise where the model's activations cannot be made into those that the SAE was trained on.

    Raises:
        MechsteerError: with the entry of the SAE's metadata, and its value.
    """
    data, there = sae.cfg.metadata, processing(sae)
    if data.hook_head_index is not None:
        raise MechsteerError(
            f"This SAE reads one head alone (hook_head_index={data.hook_head_index}); features of a single head are "
            "not edited here."
        )
    kind = model.cfg.normalization_type
    centres = kind in ("LN", "LNPre") and not is_encoder_decoder(model)
    if there[CENTERED] and not centres and _in_stream(site):
        raise MechsteerError(
            f"The SAE's metadata says {CENTERED}=True, which TransformerLens leaves out for models with RMS norms, as "
            "this one is: set sae.cfg.metadata.model_from_pretrained_kwargs to {} if it was trained on such a model."
        )
    if transfer:
        return
    folded = kind.endswith("Pre")
    here = {CENTERED: folded and centres, VALUES: folded, FACTORED: False} | dict.fromkeys(READ_OUT, folded)
    for name in PROCESSING:
        if here[name] != there[name] and _changes(name, model, site) and not (name == CENTERED and there[name]):
            raise MechsteerError(
                f"This SAE was trained on a model with {name}={there[name]}, and this one has {name}={here[name]}, so "
                f"that the activations at {site!r} are others{_fix(here[name])}."
            )
    _check_arguments(data.model_from_pretrained_kwargs or {}, model)


def _fix(folded: bool) -> str:
    return "; load it without fold=True" if folded else " and the SAE's features mean nothing here"


def _changes(name: str, model: Any, site: str) -> bool:
    """Whether a step of the processing changes the activation at a site."""
    parsed = parse(site)
    if name == CENTERED:
        return _in_stream(site) and model.cfg.normalization_type in ("LN", "LNPre")
    if name in READ_OUT:
        return site == READ_OUT[name]
    if parsed is None or parsed[2] not in _OF_HEADS:
        return False
    if name == FACTORED:
        return True
    if parsed[2] not in ("v", "z") or is_encoder_decoder(model):
        return False
    folded = model.cfg.normalization_type.endswith("Pre")  # what biases there were is not known
    return folded or any(bool(block.attn.b_V.any()) for block in model.blocks)


def _in_stream(site: str) -> bool:
    parsed = parse(site)
    return parsed[2] in _WRITTEN if parsed else site.endswith(_STREAM_NAMES)


def _check_arguments(given: dict[str, Any], model: Any) -> None:
    for name, value in given.items():
        if name in PROCESSING or name in HARMLESS or not value:
            continue
        if name == "revision" and value == model_info(model).revision:
            continue
        raise MechsteerError(
            f"This SAE was trained on a model loaded with {name}={value!r} (model_from_pretrained_kwargs), which may "
            "be another than this one. Pass transfer=True if crossing models is meant."
        )


def check_prompts(sae: Any, model: Any, prompts: Sequence[Prompt], *, transfer: bool) -> None:
    """Raise for prompts that are not like the texts which the SAE was trained on.

    Raises:
        MechsteerError: for one that does not begin with the start token where those did (``prepend_bos``), or is longer
            than they were (``context_size``).
    """
    data = sae.cfg.metadata
    if transfer or is_encoder_decoder(model):
        return
    start = model.tokenizer.bos_token_id
    for prompt in prompts:
        if data.prepend_bos and start is not None and prompt.tokens[:1].tolist() != [start]:
            raise MechsteerError(
                f"This SAE was trained on texts that begin with {model.tokenizer.bos_token!r} (prepend_bos=True), and "
                f"{prompt!r} does not: put it in front of the text, or pass transfer=True."
            )
        if data.context_size and len(prompt) > data.context_size:
            raise MechsteerError(
                f"This SAE was trained on texts of at most {data.context_size} tokens (context_size), and {prompt!r} "
                f"has {len(prompt)}. Pass transfer=True if longer ones are meant."
            )
