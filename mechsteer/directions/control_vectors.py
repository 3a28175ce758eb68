"""Directions as control vectors: GGUF files that llama.cpp and repeng read and write.

A file has the architecture ``controlvector``, the keys ``controlvector.model_hint`` and ``controlvector.layer_count``,
and one float32 tensor ``direction.N`` of d_model entries a layer. What N means:

    repeng:     ``ControlModel`` wraps block N (from 0) and adds coeff * direction.N to its output.
    llama.cpp:  ``build_cvec(cur, N)`` adds strength * direction.N after block N's last residual sum, at every position.
                It refuses ``direction.0``, so the output of block 0 cannot be steered.

So direction.N belongs to ``blocks.N.hook_resid_post``, which is also ``blocks.{N+1}.hook_resid_pre``. Checked on
tiny checkpoints with repeng 0.4 (GPT-2, Llama) and with llama.cpp's own loader, build 11549 (GPT-2, Llama, Qwen 2): the
logits under the file are those under :func:`mechsteer.add`, up to what the programs differ by without it. Not checked
for the other architectures of llama.cpp: there each model's graph adds the vector itself, and some do not.

Scale: the file holds ``scale`` times the unit vector (repeng's own are unit vectors as well). With the default 1,
``--control-vector-scaled FILE:8`` in llama.cpp and ``set_control(vector, 8)`` in repeng do what
``ms.add(direction, 8)`` does. Keys of our own, which other programs skip, keep length and provenance, and a checksum of
the whole file. Files of other programs have none: nothing can tell whether such a file is whole.
"""

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mechsteer.checksums import BLANK, check, has_checksum, sealed
from mechsteer.directions.direction import Direction, from_header, to_header
from mechsteer.directions.foreign import adopt, check_family
from mechsteer.errors import MechsteerError, finite, foreign, shown
from mechsteer.files import as_path, atomic_path, is_there, json_value, read_bytes
from mechsteer.models import parse
from mechsteer.models.checkpoint.gguf_header import tensor_shapes

ARCHITECTURE = "controlvector"
_OURS = "mechsteer.directions"
_CHECKSUM = "mechsteer.checksum"
_TENSOR = re.compile(r"direction\.(\d+)")


def to_gguf(
    directions: Direction | Sequence[Direction] | Mapping[int, Direction],
    path: str | os.PathLike[str],
    *,
    scale: float = 1.0,
) -> Path:
    """Write directions as a control vector of llama.cpp and repeng.

    Args:
        directions: One direction, or one for each of several layers of one model, e.g. the dictionary that
            :func:`mechsteer.differences_in_means` returns (its keys are not used: each direction knows its site).
            Decoder-only models, ``resid_post`` or ``resid_pre``.
        path: The file, ending in ``.gguf`` by custom.
        scale: What each unit vector is multiplied with, as in :func:`mechsteer.add`.

    Returns:
        The path. Tensor ``direction.N`` is what is added to the output of block N.

    Raises:
        MechsteerError: for a site that such files cannot express (another kind, an encoder-decoder, the output of block
            0 or the embedding), directions of several models, widths or twice at one place, a scale of 0, a file that
            cannot be written, or without the package ``gguf``.
    """
    gguf = _package()
    if finite("scale", scale) == 0:
        raise MechsteerError("scale is 0: the file would hold zeros.")
    placed = _placed(directions)
    tensors = {block: (one.unit * scale).float().contiguous().numpy() for block, one in placed.items()}
    ours = {str(block): to_header(one) | {"norm": one.norm} for block, one in placed.items()}
    hint = next(iter(placed.values())).meta.get("model_family", "unknown")
    with atomic_path(path) as temporary:
        writer = gguf.GGUFWriter(temporary, ARCHITECTURE)
        try:
            writer.add_string(f"{ARCHITECTURE}.model_hint", hint)
            writer.add_uint32(f"{ARCHITECTURE}.layer_count", len(tensors))
            writer.add_string(_CHECKSUM, BLANK)
            writer.add_string(_OURS, json.dumps({"scale": float(scale), "directions": ours}, sort_keys=True))
            for block, tensor in tensors.items():
                writer.add_tensor(f"direction.{block}", tensor)
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
        finally:
            writer.close()
        temporary.write_bytes(sealed(temporary.read_bytes()))
    return Path(path)


def from_gguf(path: str | os.PathLike[str], model: Any = None) -> dict[int, Direction]:
    """Read a control vector file of mechsteer, repeng or llama.cpp's ``cvector-generator``.

    Args:
        path: The file.
        model: The model that the vectors were made on, decoder-only. Without it the directions of other programs have
            no fingerprint, and steering with them needs ``transfer=True``. mechsteer's own files carry theirs.

    Returns:
        Directions by N of ``direction.N``. Those of other programs are at ``blocks.N.hook_resid_post`` with their
        vectors as stored; mechsteer's come back as they were saved, up to rounding.

    Raises:
        MechsteerError: for a file that is missing, truncated, of another architecture, without directions, or with
            values that are not finite; for a model whose layers or width do not fit; without the package ``gguf``.

    Warns:
        UserWarning: if the file names another architecture than the model's.
    """
    _package()
    source = as_path(path)
    content = b"" if is_there(source) and source.is_dir() else read_bytes(source)
    if sealed_by_us := has_checksum(content):
        check(content, path, "control vector")
    keys, vectors = _read(source)
    if _CHECKSUM in keys and not sealed_by_us:  # one flipped bit cannot hide both
        check(content, path, "control vector")
    if _OURS in keys:
        found = _ours(vectors, keys[_OURS], str(path))
        return found if model is None else adopt(model, found)
    hint = str(keys.get(f"{ARCHITECTURE}.model_hint", "unknown"))
    meta = {"model_family": hint, "source": f"GGUF file {source.name}"}
    found = {
        block: Direction(vector, f"blocks.{block}.hook_resid_post", "gguf", meta=meta)
        for block, vector in vectors.items()
    }
    if model is None:
        return found
    check_family(model, hint, str(path))
    return adopt(model, found)


def _package() -> Any:
    try:
        import gguf
    except ImportError:
        raise MechsteerError("GGUF files need the package gguf: pip install 'mechsteer[gguf]'.") from None
    return gguf


def _placed(directions: Direction | Sequence[Direction] | Mapping[int, Direction]) -> dict[int, Direction]:
    """The directions by the block that they are added after, checked."""
    placed: dict[int, Direction] = {}
    for one in _listed(directions):
        block = _block(one)
        if block in placed:
            raise MechsteerError(f"{placed[block]!r} and {one!r} are both added after block {block}; give one of them.")
        placed[block] = one
    if not placed:
        raise MechsteerError("No directions were given to write.")
    for what in ("width", "fingerprint"):
        values = {getattr(one, what) for one in placed.values()}
        if len(values) > 1:
            raise MechsteerError(f"A control vector is of one model; the {what}s differ: {sorted(values)}.")
    return dict(sorted(placed.items()))


def _listed(directions: Any) -> Iterable[Direction]:
    if isinstance(directions, Direction):
        return [directions]
    if not isinstance(directions, (Sequence, Mapping)):
        raise MechsteerError(f"Expected a direction, a list or a dictionary of them, got {directions!r}.")
    found = list(directions.values() if isinstance(directions, Mapping) else directions)
    wrong = [one for one in found if not isinstance(one, Direction)]
    if wrong:
        raise MechsteerError(f"Expected directions, got {wrong[0]!r}.")
    return found


def _block(direction: Direction) -> int:
    """The block after whose output the direction is added."""
    stack, layer, kind = parse(direction.site) or ("", 0, "")
    if stack != "blocks" or kind not in {"resid_post", "resid_pre"}:
        raise MechsteerError(
            f"{direction!r} cannot be a control vector: they are added to the residual stream of decoder-only models, "
            "at resid_post or resid_pre."
        )
    block = layer if kind == "resid_post" else layer - 1
    if block < 1:
        where = "the output of block 0" if block == 0 else "the embedding"
        raise MechsteerError(f"{direction!r} acts on {where}; llama.cpp's control vectors begin after block 1.")
    return block


def _read(path: Path) -> tuple[dict[str, Any], dict[int, Float[Tensor, "width"]]]:
    """The keys and the direction tensors of a control vector file."""
    gguf = _package()
    tensor_shapes(path)  # refuses what it claims and does not hold
    with foreign(f"{path} is not a readable GGUF file (truncated or foreign?)"):
        reader = gguf.GGUFReader(path)
        keys = {name: field.contents() for name, field in reader.fields.items()}
        tensors = {tensor.name: (tensor.tensor_type.name, tensor.data.copy()) for tensor in reader.tensors}
    architecture = keys.get("general.architecture")
    if architecture != ARCHITECTURE:
        raise MechsteerError(f"{path} holds {architecture!r}, not a control vector ({ARCHITECTURE!r}).")
    if not tensors:
        raise MechsteerError(f"{path} has no direction tensors.")
    return keys, {
        block: vector for block, vector in sorted(_vector(path, name, *held) for name, held in tensors.items())
    }


def _vector(path: Path, name: str, dtype: str, data: Any) -> tuple[int, Float[Tensor, "width"]]:
    """One tensor of the file, checked as llama.cpp checks it (which also refuses layer 0; repeng writes it)."""
    numbered = _TENSOR.fullmatch(name)
    if numbered is None or dtype != "F32" or data.ndim != 1:
        raise MechsteerError(
            f"{path}: expected 1-D F32 tensors direction.N, got {name!r} ({dtype}, shape {list(data.shape)})."
        )
    vector = torch.from_numpy(data.astype("float32"))
    if not torch.isfinite(vector).all() or not vector.any():
        raise MechsteerError(f"{path}: {name} is zero or has NaN or infinite entries.")
    return int(numbered[1]), vector


def _ours(vectors: Mapping[int, Tensor], text: Any, path: str) -> dict[int, Direction]:
    """The directions of a file that :func:`to_gguf` wrote."""
    try:
        record = json_value(text)
        scale, headers = float(record["scale"]), record["directions"]
        factors = {block: float(headers[str(block)]["norm"]) / scale for block in vectors}
        found = {block: from_header(v * factors[block], headers[str(block)], path) for block, v in vectors.items()}
        if any(_block(one) != block for block, one in found.items()):
            raise ValueError("a site is not the one of its tensor")
    except (KeyError, TypeError, ValueError, ZeroDivisionError, AttributeError) as error:
        if isinstance(error, MechsteerError):
            raise
        raise MechsteerError(f"{path} has a damaged record of its directions: {shown(error)}.") from error
    return found
