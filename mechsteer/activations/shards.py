"""Shards: activations of some prompts at all sites as a safetensors file, and what its rows are as a parquet file.

The safetensors file is written part by part, so that nothing is copied together first, and hashed on the way. Its
header names the capture and the prompts; a file of another store does not fit even if its sizes do.
"""

import hashlib
import io
import json
import mmap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from mechsteer.activations.manifest import WRITING, Manifest, ShardRecord, next_number, write_file
from mechsteer.activations.streaming import BatchRows
from mechsteer.errors import MechsteerError
from mechsteer.files import atomic_path, digest

if TYPE_CHECKING:
    import pandas as pd

DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_RAW: dict[torch.dtype, Any] = {torch.bfloat16: np.int16}
_LONGEST_HEADER = 100_000_000  # the limit of the format
PROMPT = "prompt"
"""The column of the index with a prompt's record, in the first of its rows."""

FIX = "Remove it with ActivationStore.repair(path) and capture again, which computes only what is missing."


def header_of(manifest: Manifest, rows: dict[str, int], dtype: torch.dtype, prompts: str) -> bytes:
    """The head of a safetensors file: its length and a JSON text, padded so that tensors lie on 8 bytes."""
    entries: dict[str, Any] = {"__metadata__": {"capture": digest(manifest.key), "prompts": prompts}}
    offset = 0
    for site, width in manifest.widths.items():
        shape = [rows[manifest.stacks[site]], *width]
        end = offset + int(np.prod(shape)) * dtype.itemsize
        entries[site] = {"dtype": _NAMES[dtype], "shape": shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def write_shard(
    folder: Path, manifest: Manifest, batches: Sequence[BatchRows], tables: Sequence["pd.DataFrame"], dtype: torch.dtype
) -> ShardRecord:
    """Write one shard. It is part of the store when the manifest names it.

    Args:
        folder: The store.
        manifest: What it holds so far.
        batches: The batches.
        tables: Their index tables.
        dtype: Of the values.
    """
    import pandas as pd

    number = next_number(folder, manifest)
    index = pd.concat(tables, ignore_index=True)
    prompts = list(dict.fromkeys(index["prompt_id"]))
    rows = {
        stack: sum(len(batch.rows[stack]) for batch in batches) for stack in dict.fromkeys(manifest.stacks.values())
    }
    header = header_of(manifest, rows, dtype, digest(prompts))
    stem = folder / f"shard-{number:06d}"
    with atomic_path(folder / WRITING) as note:
        note.write_text(str(number), encoding="utf-8")

    def parts() -> Iterator[bytes | memoryview]:
        yield header
        for site in manifest.widths:
            for batch in batches:
                yield _bytes_of(batch.values[site])

    tensors = write_file(stem.with_suffix(".safetensors"), parts())
    buffer = io.BytesIO()
    index.to_parquet(buffer, index=False)
    table = write_file(stem.with_suffix(".parquet"), [buffer.getbuffer()])
    return ShardRecord(number, len(prompts), rows, hashlib.sha256(header).hexdigest(), tensors, table)


def _bytes_of(values: Tensor) -> memoryview:
    return values.contiguous().flatten().view(torch.uint8).numpy().data


def problem(folder: Path, shard: ShardRecord, *, checksums: bool) -> str:
    """What is wrong with a shard's files; empty where nothing is found.

    Args:
        folder: The store.
        shard: The shard.
        checksums: Read the whole files; otherwise only their sizes and the header.
    """
    for path, expected in shard.files(folder):
        try:
            size = path.stat().st_size
            if size < expected.bytes:
                return f"{path} is truncated: it has {size} bytes, not {expected.bytes}."
            with path.open("rb") as file:
                if path.suffix == ".safetensors" and _header_digest(file) != shard.header:
                    return f"{path} is foreign: its header names other activations than the manifest."
                if size > expected.bytes:
                    return f"{path} was changed: it has {size} bytes, not {expected.bytes}."
                file.seek(0)
                if checksums and hashlib.file_digest(file, "sha256").hexdigest() != expected.sha256:
                    return f"{path} was changed: its checksum is not the one in the manifest."
        except FileNotFoundError:
            return f"{path} is missing."
        except OSError as error:
            return f"{path} cannot be read: {error.strerror or error}."
    return ""


def _header_digest(file: BinaryIO) -> str:
    length = file.read(8)
    header = length + file.read(min(int.from_bytes(length, "little"), _LONGEST_HEADER))
    return hashlib.sha256(header).hexdigest()


def map_shard(folder: Path, shard: ShardRecord) -> tuple[mmap.mmap, dict[str, np.ndarray]]:
    """A shard, memory-mapped, and its tensors by site; bfloat16 as int16.

    The whole file is verified here, when it is first touched. The map follows the file: whoever writes to it afterwards
    changes what is read, until the store is opened again.

    Raises:
        MechsteerError: if the file is not, bit for bit, the one that was written.
    """
    path = shard.path(folder, "safetensors")
    if wrong := problem(folder, shard, checksums=True):
        raise MechsteerError(f"{wrong} {FIX}")
    with path.open("rb") as opened:
        file = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
    whole = np.frombuffer(file, dtype=np.uint8)
    start = 8 + int.from_bytes(whole[:8].tobytes(), "little")
    entries = json.loads(whole[8:start].tobytes())
    mapped = {}
    for site, entry in entries.items():
        if site == "__metadata__":
            continue
        a, b = entry["data_offsets"]
        raw = raw_dtype(DTYPES[entry["dtype"]])
        mapped[site] = whole[start + a : start + b].view(raw).reshape(entry["shape"])
    return file, mapped


def raw_dtype(dtype: torch.dtype) -> np.dtype:
    """The NumPy dtype that holds values of a PyTorch dtype bit by bit."""
    return np.dtype(_RAW.get(dtype) or str(dtype).removeprefix("torch."))


def read_index(folder: Path, shard: ShardRecord, columns: list[str] | None = None) -> "pd.DataFrame":
    """The table of what a shard's rows are.

    Raises:
        MechsteerError: if the file is not, bit for bit, the one that was written.
    """
    import pandas as pd

    path, expected = shard.files(folder)[1]
    content = path.read_bytes() if path.exists() else b""
    if hashlib.sha256(content).hexdigest() != expected.sha256:
        raise MechsteerError(f"{problem(folder, shard, checksums=True)} {FIX}")
    return pd.read_parquet(io.BytesIO(content), columns=columns)
