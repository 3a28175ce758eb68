"""The Hugging Face side of loading: model and tokenizer, read from safetensors in a local directory."""

import contextlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from mechsteer.errors import MechsteerError, foreign, shown
from mechsteer.files import read_json

_SHOW_PROGRESS_BYTES = 1 << 30


def load_hf(directory: Path, *, dtype: torch.dtype, device: torch.device) -> Any:
    """Read a checkpoint with transformers, eager attention, in evaluation mode.

    Raises:
        MechsteerError: if a weight file is damaged, or weights are missing from it (transformers would start those at
            random and go on).
    """
    from mechsteer.models.checkpoint.resolve import read_config, source

    config = read_config(directory)
    if (getattr(config, "pad_token_id", None) or 0) >= getattr(config, "vocab_size", math.inf):
        config.pad_token_id = None  # a row that the embeddings lack; padding is masked
    folder, arguments = source(directory)
    check_generation_config(directory)
    what = f"Cannot read the weights in {str(directory)!r} (damaged or truncated, or not those of its configuration?)"
    with foreign(what), _progress_bar(directory):
        model, report = _auto(config).from_pretrained(
            folder,
            config=config,
            dtype=dtype,
            use_safetensors=True,
            attn_implementation="eager",
            output_loading_info=True,
            **arguments,
        )
    if report["missing_keys"] or report["mismatched_keys"]:
        keys = sorted(map(str, report["missing_keys"])) or sorted(map(str, report["mismatched_keys"]))
        raise MechsteerError(f"The checkpoint {str(directory)!r} lacks weights: {', '.join(keys[:5])}.")
    with foreign(what):
        return _in_own_memory(_text_part(model).to(device)).eval().requires_grad_(False)


def check_generation_config(directory: Path) -> None:
    """Refuse a ``generation_config.json`` that cannot be read: transformers would go on without it.

    Raises:
        MechsteerError: naming the file.
    """
    from transformers import GenerationConfig

    path = directory / "generation_config.json"
    if not path.is_file():
        return
    if not isinstance(read_json(path), dict):
        raise MechsteerError(f"{path} is no JSON object.")
    with foreign(f"transformers cannot read {path}"):
        GenerationConfig.from_pretrained(directory, local_files_only=True)


def _in_own_memory(model: Any) -> Any:
    """The model with weights that do not follow their file, which transformers maps into memory and never copies."""
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.device.type == "cpu":
            tensor.data = tensor.data.clone()
    return model


def _auto(config: Any) -> Any:
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

    return AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM


def _text_part(model: Any) -> Any:
    """The model itself; of a multimodal one, its text part with its head, as the family's text model."""
    text = model.config.get_text_config()
    if text is model.config:
        return model
    from torch.nn import Module
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        alone: Module = AutoModelForCausalLM.from_config(text, attn_implementation="eager")
    alone.model, alone.lm_head = model.model.language_model, model.lm_head
    alone.generation_config = model.generation_config
    return alone


@contextlib.contextmanager
def _progress_bar(directory: Path) -> Iterator[None]:
    """Show transformers' bar for models that take a while, and not for small ones."""
    from transformers.utils import logging

    from mechsteer.models.checkpoint.resolve import weight_files

    small = sum(file.stat().st_size for file in weight_files(directory)) < _SHOW_PROGRESS_BYTES
    hide = small and logging.is_progress_bar_enabled()
    if hide:
        logging.disable_progress_bar()
    try:
        yield
    finally:
        if hide:
            logging.enable_progress_bar()


def load_tokenizer(directory: Path) -> Any:
    """Read the checkpoint's tokenizer; a pad token is set where it has none.

    Raises:
        MechsteerError: if there is none.
    """
    from transformers import AutoTokenizer

    from mechsteer.models.checkpoint.resolve import source

    folder, arguments = source(directory)
    with foreign(f"{str(directory)!r} has no readable tokenizer"):
        tokenizer = AutoTokenizer.from_pretrained(folder, **arguments)
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
        for name in ("bos", "eos", "pad", "unk"):  # every caller reads these
            number = getattr(tokenizer, f"{name}_token_id")
            if number is not None and not isinstance(number, int):
                raise MechsteerError(f"{str(directory)!r} has the {name} token {shown(number)}; a token has a number.")
        _ = tokenizer.all_special_tokens, tokenizer.chat_template
    return tokenizer
