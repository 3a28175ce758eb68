"""The Hugging Face side of loading: model and tokenizer, read from safetensors in a local directory."""

import contextlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from mechsteer.errors import MechsteerError

_SHOW_PROGRESS_BYTES = 1 << 30


def load_hf(directory: Path, *, dtype: torch.dtype, device: torch.device) -> Any:
    """Read a checkpoint with transformers, eager attention, in evaluation mode.

    Raises:
        MechsteerError: if a weight file is damaged, or weights are missing from it (transformers would start those at
            random and go on).
    """
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

    from mechsteer.models.resolve import read_config, weight_files

    config = read_config(directory)
    if (getattr(config, "pad_token_id", None) or 0) >= getattr(config, "vocab_size", math.inf):
        config.pad_token_id = None  # a row that the embeddings lack; padding is masked
    auto = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    try:
        with _progress_bar(weight_files(directory)):
            loaded: Any = auto.from_pretrained(
                directory,
                config=config,
                dtype=dtype,
                local_files_only=True,
                use_safetensors=True,
                attn_implementation="eager",
                output_loading_info=True,
            )
    except (SafetensorError, OSError, RuntimeError, ValueError) as error:
        raise MechsteerError(
            f"Cannot read the weights in {str(directory)!r} (damaged or truncated?): {error}"
        ) from error
    model, report = loaded
    if report["missing_keys"] or report["mismatched_keys"]:
        keys = sorted(map(str, report["missing_keys"])) or sorted(map(str, report["mismatched_keys"]))
        raise MechsteerError(f"The checkpoint {str(directory)!r} lacks weights: {', '.join(keys[:5])}.")
    return _in_own_memory(model.to(device)).eval().requires_grad_(False)


def _in_own_memory(model: Any) -> Any:
    """The model with weights that do not follow their file, which transformers maps into memory and never copies."""
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.device.type == "cpu":
            tensor.data = tensor.data.clone()
    return model


@contextlib.contextmanager
def _progress_bar(files: list[Path]) -> Iterator[None]:
    """Show transformers' bar for models that take a while, and not for small ones."""
    from transformers.utils import logging

    small = sum(file.stat().st_size for file in files) < _SHOW_PROGRESS_BYTES
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

    try:
        tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise MechsteerError(f"{str(directory)!r} has no readable tokenizer: {error}") from error
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    return tokenizer
