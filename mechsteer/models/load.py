"""``load``: a hooked model from a name, equal to Hugging Face's."""

import os
from pathlib import Path
from typing import Any

import torch

from mechsteer.errors import MechsteerError, foreign, shown, unknown
from mechsteer.models import parity
from mechsteer.models.checkpoint import resolve
from mechsteer.models.checkpoint.generation_config import check_tokens, read_settings, say_unread
from mechsteer.models.checkpoint.hf import load_hf, load_tokenizer
from mechsteer.models.checkpoint.sizes import check_config
from mechsteer.models.digest import weights_digest
from mechsteer.models.families import check_supported, context_note
from mechsteer.models.families.llama import multipliers
from mechsteer.models.folding import check_foldable
from mechsteer.models.folding import fold as fold_weights
from mechsteer.models.identity import remember_settings
from mechsteer.models.info import ModelInfo, is_encoder_decoder, set_info
from mechsteer.models.weights.decoder_only import hooked_transformer
from mechsteer.models.weights.encoder_decoder import hooked_encoder_decoder
from mechsteer.prompts.offsets import encode

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@torch.inference_mode(False)  # weights made in inference mode could never take part in a backward pass
def load(
    name_or_path: str | os.PathLike[str],
    *,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    revision: str | None = None,
    check: bool = True,
    fold: bool = False,
) -> Any:
    """Load a model with every activation hooked.

    Args:
        name_or_path: ``"organism:trap-t5"`` (bundled), a local checkpoint directory or ``.gguf`` file (dequantised; it
            needs the extra ``gguf``), or an id on the Hugging Face hub such as ``"google/flan-t5-base"``. Families:
            :data:`mechsteer.models.families.DECODERS` (Llama, Mistral, Qwen, Gemma, Phi, OLMo, Granite, GPT-NeoX...),
            T5, mT5. Of multimodal Gemma 3 the text part. No network is used unless it is a hub id, and no code of a
            repository is ever run.
        device: ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"``; default: cuda where there is one, else cpu.
        dtype: ``"float32"`` (default), ``"bfloat16"`` or ``"float16"``.
        revision: Branch, tag or commit of a hub model.
        check: Run two rows of 64 or more tokens through both models and refuse the hooked one if it differs
            (:mod:`mechsteer.models.parity`).
        fold: Process the weights as TransformerLens' ``from_pretrained`` does by default: norms folded into the layers
            after them, biases of values into those of outputs, writing weights (of models with LayerNorm) and logits
            (where they are not capped) centred. For decoder-only models; probabilities stay Hugging Face's, and
            ``ActivationCache.logit_attrs`` becomes exact. The weights are copied once, and the fingerprint ends in
            ``-folded``: what was made on the model as it is does not fit without ``transfer=True``.

    Returns:
        A TransformerLens HookedTransformer or, for T5, HookedEncoderDecoder: evaluation mode, no gradients on the
        weights, weights unprocessed and shared with no second copy, ``tokenizer`` set.

    Raises:
        MechsteerError: for names, files, families and configuration features that cannot be loaded; with ``fold``, for
            T5, models whose norms come after their sublayers (OLMo 2), and norms with biases before gates (StableLM).
        ParityError: if the hooked model is not Hugging Face's.

    Example:
        >>> model = ms.load("organism:instruct-llama")  # or "gpt2", "/a/folder", "model.gguf"
    """
    torch_dtype, torch_device = _dtype(dtype), _device(device)
    if not isinstance(name_or_path, str | os.PathLike):
        raise MechsteerError(f"A model has a name: a folder, a file, or an id of the hub; got {shown(name_or_path)}.")
    name = os.fspath(name_or_path)
    directory, commit = resolve.locate(name, revision=revision)
    config = resolve.read_config(directory)
    with foreign(f"No model can be made of the values in {resolve.config_file(directory)}"):
        check_supported(config)
        check_config(config, resolve.weight_files(directory), resolve.config_file(directory))
    tokenizer = load_tokenizer(directory)
    hf_model = load_hf(directory, dtype=torch_dtype, device=torch_device)
    convert = hooked_encoder_decoder if config.is_encoder_decoder else hooked_transformer
    with foreign(f"No hooked model can be made of the values in {resolve.config_file(directory)}"):
        model = convert(hf_model)
    if fold:
        check_foldable(model)
        fold_weights(model)
    check_tokens(hf_model.generation_config, model.cfg.d_vocab, directory)
    say_unread(hf_model.generation_config, directory)
    _set_tokenizer(model, tokenizer)
    _set_decoder_start(model, hf_model.generation_config, directory)
    info = ModelInfo(
        name=name,
        path=str(directory),
        family=hf_model.config.model_type,
        revision=commit,
        fingerprint=resolve.fingerprint(directory) + ("-folded" if fold else ""),
        dtype=str(torch_dtype).removeprefix("torch."),
        context_note=context_note(hf_model.config),
        eos_ids=_eos_ids(hf_model, tokenizer, directory),
        generation_config=read_settings(hf_model.generation_config),
        digest=weights_digest(model),
        multipliers=multipliers(hf_model.config),
    )
    set_info(model, info)
    remember_settings(model)
    if check:
        with foreign(f"The model in {str(directory)!r} cannot be run"):
            parity.gate(model, hf_model)
    return model


def _set_tokenizer(model: Any, tokenizer: Any) -> None:
    """Give the model Hugging Face's tokenizer unchanged; the library would load another one that adds a BOS."""
    bos = tokenizer.bos_token_id
    prepends_bos = bos is not None and encode(tokenizer, "a", special=True)[0][:1] == [bos]
    model.tokenizer = tokenizer
    model.cfg.tokenizer_prepends_bos = prepends_bos
    model.cfg.default_prepend_bos = prepends_bos


def _eos_ids(hf_model: Any, tokenizer: Any, directory: Path) -> tuple[int, ...]:
    """The ids that end a generation, as Hugging Face's ``generate`` uses them.

    A ``generation_config.json`` without one lets Hugging Face write on to the last new token, and so it is here. Where
    there is no such file and the configuration names none either, the tokenizer's end token is taken.
    """
    found = hf_model.generation_config.eos_token_id
    if found is None and not (directory / "generation_config.json").exists():
        found = tokenizer.eos_token_id
    if found is None:
        return ()
    return tuple(found) if isinstance(found, list) else (int(found),)


def _set_decoder_start(model: Any, generation_config: Any, directory: Path) -> None:
    """What Hugging Face's ``generate`` starts a decoder with: the generation configuration's say comes first."""
    if not is_encoder_decoder(model):
        return
    said = (generation_config.decoder_start_token_id, generation_config.bos_token_id, model.cfg.decoder_start_token_id)
    start = next((one for one in said if one is not None), None)
    if start is None:
        raise MechsteerError(
            f"{str(directory)!r} does not say what a decoder begins with: it needs decoder_start_token_id in its "
            "config.json or generation_config.json (T5's is 0)."
        )
    model.cfg.decoder_start_token_id = int(start)


def _dtype(dtype: str | torch.dtype | None) -> torch.dtype:
    if dtype is None:
        return torch.float32
    name = str(dtype).removeprefix("torch.")
    if name not in DTYPES:
        raise unknown("dtype", name, DTYPES)
    return DTYPES[name]


def _device(device: str | torch.device | None) -> torch.device:
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
    except RuntimeError:
        raise unknown("device", str(device), ("cpu", "cuda", "mps")) from None
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not available.get(found.type, False):
        raise MechsteerError(f"Device {str(device)!r} is not available here; use device='cpu'.")
    return found
