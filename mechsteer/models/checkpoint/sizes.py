"""Do the sizes that a configuration states fit the weights? Asked before anything of these sizes is allocated.

A layer needs a tensor at least, and every width is a dimension of some tensor (or smaller than one, where projections
are joined). So a size that is larger than the largest dimension, or more layers than there are tensors, cannot be.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mechsteer.errors import MechsteerError, foreign, shown
from mechsteer.models.checkpoint.gguf_header import tensor_shapes

LAYERS = ("num_hidden_layers", "num_layers", "num_decoder_layers")
WIDTHS = (
    "vocab_size hidden_size d_model intermediate_size d_ff moe_intermediate_size num_attention_heads num_heads "
    "num_key_value_heads head_dim d_kv num_experts num_local_experts relative_attention_num_buckets".split()
)
LEARNED = ("gpt2", "gpt_neo", "opt")
"""Families whose positions have embeddings of their own, so that their number is a width too."""

LONGEST = {"gptj": 2**20}
"""The largest context of families that make a table of all its positions; 2**31 of the others."""

Shapes = Mapping[str, tuple[int, ...]]


def shapes_in(path: Path, what: str = "") -> dict[str, tuple[int, ...]]:
    """The shape of each tensor in a safetensors or GGUF file; only its header is read.

    Args:
        path: The file.
        what: What cannot be done where it cannot be read.

    Raises:
        MechsteerError: if it cannot be read.
    """
    from safetensors import safe_open

    if path.suffix == ".gguf":
        return tensor_shapes(path)
    what = what or f"Cannot read the weights in {str(path)!r} (damaged or truncated?)"
    with foreign(what), safe_open(path, "pt") as file:
        return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}


def check_config(config: Any, files: Iterable[Path], path: Path) -> None:
    """Refuse a model's configuration whose sizes its weight files do not have.

    Args:
        config: The configuration, as transformers reads it.
        files: The weight files.
        path: Where the configuration is, for the message.

    Raises:
        MechsteerError: with the name and the value.
    """
    text = config.get_text_config()
    context = getattr(text, "max_position_embeddings", None)
    if isinstance(context, int) and context > LONGEST.get(text.model_type, 2**31):
        raise MechsteerError(f"{path}: max_position_embeddings={shown(context)} is no length of a text.")
    safe = [file for file in files if file.suffix in (".safetensors", ".gguf")]
    if not safe:
        return
    shapes: dict[str, tuple[int, ...]] = {}
    for file in safe:
        shapes |= shapes_in(file)
    widths = [*WIDTHS, *(["max_position_embeddings"] if text.model_type in LEARNED else [])]
    stated = {name: getattr(text, name, None) for name in (*LAYERS, *widths)}
    check_sizes(stated, widths, shapes, path)
    for name in LAYERS:
        layers = stated[name]
        if isinstance(layers, int) and layers > len(shapes):
            raise MechsteerError(
                f"{path}: {name}={shown(layers)} does not fit the weights, which are {len(shapes)} tensors."
            )


def check_sizes(stated: Mapping[str, Any], names: Iterable[str], shapes: Shapes, path: Path) -> None:
    """Refuse sizes that are larger than every dimension of some tensors.

    Args:
        stated: Values by name.
        names: Which of them are sizes.
        shapes: The shapes of the tensors.
        path: Where the values are, for the message.

    Raises:
        MechsteerError: with the name and the value.
    """
    largest = max((size for shape in shapes.values() for size in shape), default=0)
    for name in names:
        size = stated.get(name)
        if isinstance(size, int) and size > largest:
            raise MechsteerError(
                f"{path}: {name}={shown(size)} does not fit the weights, whose largest dimension is {largest}."
            )
