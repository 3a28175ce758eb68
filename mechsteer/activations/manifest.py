"""The manifest of a store: what it holds, shard by shard; and the lock that its writer holds.

``manifest.json`` is replaced as a whole after a shard's files lie complete on the disk. A file that it does not name is
what a killed writer left.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mechsteer.errors import MechsteerError
from mechsteer.files import atomic_path, read_json

FORMAT = "mechsteer.activations/1"
NAME = "manifest.json"


@dataclass(frozen=True)
class FileRecord:
    """A finished file: its size in bytes and the SHA-256 of its content."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class ShardRecord:
    """A finished shard.

    Attributes:
        number: Its number; the files are ``shard-NUMBER.safetensors`` and ``shard-NUMBER.parquet``.
        prompts: How many prompts it holds.
        rows: For each stack, how many rows.
        header: The SHA-256 of the safetensors header, which names what is in the shard.
        tensors: The safetensors file.
        index: The parquet file.
    """

    number: int
    prompts: int
    rows: dict[str, int]
    header: str
    tensors: FileRecord
    index: FileRecord

    def path(self, folder: Path, suffix: str) -> Path:
        """Where one of its files is."""
        return folder / f"shard-{self.number:06d}.{suffix}"

    def files(self, folder: Path) -> list[tuple[Path, FileRecord]]:
        """Its files and what they should be."""
        return [(self.path(folder, "safetensors"), self.tensors), (self.path(folder, "parquet"), self.index)]


@dataclass
class Manifest:
    """What a store holds.

    Attributes:
        shard_bytes: A shard is written when it has at least this many bytes.
        key: What the activations are of: model, dtype, sites, positions, steering; empty before the first capture.
        widths: For each site, the sizes of its dimensions after the row.
        stacks: For each site, whose positions its rows are.
        shards: The finished shards, in order.
        versions: Of the packages that made the first of them.
    """

    shard_bytes: int
    key: dict[str, Any] = field(default_factory=dict)
    widths: dict[str, list[int]] = field(default_factory=dict)
    stacks: dict[str, str] = field(default_factory=dict)
    shards: list[ShardRecord] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)

    def write(self, folder: Path) -> None:
        """Replace the manifest file."""
        text = json.dumps({"format": FORMAT, **asdict(self)}, indent=1, ensure_ascii=False)
        write_file(folder / NAME, [text.encode()])

    @classmethod
    def read(cls, folder: Path) -> "Manifest":
        """Read the manifest file.

        Raises:
            MechsteerError: if there is none or it is not one.
        """
        path = folder / NAME
        if not path.exists():
            raise MechsteerError(f"{folder} is not an activation store: it has no {NAME}.")
        value = read_json(path)
        if not isinstance(value, dict) or value.pop("format", None) != FORMAT:
            raise MechsteerError(f"{path} is not the manifest of an activation store ({FORMAT}).")
        try:
            shards = [
                ShardRecord(**{**s, "tensors": FileRecord(**s["tensors"]), "index": FileRecord(**s["index"])})
                for s in value.pop("shards")
            ]
            return cls(**value, shards=shards)
        except (KeyError, TypeError) as error:
            raise MechsteerError(f"{path} is damaged: {error!r}.") from None


def write_file(path: Path, parts: Iterable[bytes | memoryview]) -> FileRecord:
    """Write a file so that it is either complete, on the disk, or not there; return its size and checksum.

    Raises:
        MechsteerError: if it cannot be written, e.g. because the disk is full.
    """
    size, checksum = 0, hashlib.sha256()
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        for part in parts:
            file.write(part)
            checksum.update(part)
            size += len(part)
        file.flush()
        os.fsync(file.fileno())
    return FileRecord(size, checksum.hexdigest())


def clean(folder: Path, manifest: Manifest) -> None:
    """Remove what a killed writer left: temporary files and shards that are not in the manifest."""
    known = {path.name for shard in manifest.shards for path, _ in shard.files(folder)}
    for path in [*folder.glob(".shard-*.tmp*"), *folder.glob(f".{NAME}.*.tmp*"), *folder.glob("shard-*")]:
        if path.name not in known:
            path.unlink(missing_ok=True)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Be the one process that writes to the store. The system releases the lock of a process that dies.

    Raises:
        MechsteerError: if another writer has it, or where the system has no file locks.
    """
    try:
        import fcntl
    except ImportError:
        raise MechsteerError("Writing to an activation store needs a system with fcntl (Linux, macOS).") from None
    try:
        file = (folder / ".lock").open("a+", encoding="utf-8")
    except OSError as error:
        raise MechsteerError(f"Cannot write to {folder}: {error.strerror or error}.") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise MechsteerError(
                f"{folder} is being written to by another process ({file.read().strip() or 'unknown'}): wait for it, "
                "or use another store."
            ) from None
        file.truncate(0)
        with suppress(OSError):  # only a hint for people
            file.write(f"pid {os.getpid()}")
            file.flush()
        yield
