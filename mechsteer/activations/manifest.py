"""The manifest of a store: what it holds, shard by shard; and the lock that its writer holds.

``manifest.json`` is replaced as a whole after a shard's files lie complete on the disk, and holds a checksum of itself.
While a shard is written, ``.writing`` holds its number: what a killed writer left is known by it, and no other file is
ever removed.
"""

import hashlib
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mechsteer.errors import MechsteerError
from mechsteer.files import (
    LEFT,
    atomic_path,
    check_record,
    from_json,
    is_there,
    read_bytes,
    read_text,
    record_bytes,
    remove,
)

FORMAT = "mechsteer.activations/2"
_EARLIER = "mechsteer.activations/1"  # without groups and prompts
NAME = "manifest.json"
WRITING = ".writing"
_DTYPES = ("float64", "float32", "float16", "bfloat16")
_TEMPORARY = re.compile(rf"\.(.+)\.[a-z0-9_]{{8}}{re.escape(LEFT)}\.[a-z]+")
_SHARD = re.compile(r"shard-(\d{6,})\.(?:safetensors|parquet)")


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
        groups: The prompts of each group, by id, in order; also those that are still to be captured.
        about: What artefacts made of the activations say of the model, and how many layers its stacks have.
    """

    shard_bytes: int
    key: dict[str, Any] = field(default_factory=dict)
    widths: dict[str, list[int]] = field(default_factory=dict)
    stacks: dict[str, str] = field(default_factory=dict)
    shards: list[ShardRecord] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)
    groups: dict[str, list[str]] = field(default_factory=dict)
    about: dict[str, Any] = field(default_factory=dict)

    def write(self, folder: Path) -> None:
        """Replace the manifest file."""
        write_file(folder / NAME, [record_bytes({"format": FORMAT, **asdict(self)})])

    @classmethod
    def read(cls, folder: Path) -> "Manifest":
        """Read the manifest file.

        Raises:
            MechsteerError: if there is none, it is not one, or it is not bit for bit what was written.
        """
        path = folder / NAME
        if not is_there(path):
            raise MechsteerError(f"{folder} is not an activation store: it has no {NAME}.")
        content = read_bytes(path)
        value = from_json(path, content)
        if not isinstance(value, dict) or value.pop("format", None) not in (FORMAT, _EARLIER):
            raise MechsteerError(f"{path} is not the manifest of an activation store ({FORMAT}).")
        check_record(path, content, value, "manifest of an activation store")
        try:  # one of the first version, which has no checksum, may say anything
            shards = [
                ShardRecord(**{**s, "tensors": FileRecord(**s["tensors"]), "index": FileRecord(**s["index"])})
                for s in value.pop("shards")
            ]
            found = cls(**value, shards=shards)
            found.check_types()
        except (KeyError, TypeError, AttributeError) as error:
            raise MechsteerError(f"{path} is damaged: {error!r}.") from None
        return found

    def check_types(self) -> None:
        """Raise a TypeError for values that no manifest has."""
        counts = [self.shard_bytes]
        for shard in self.shards:
            counts += [shard.number, shard.prompts, *shard.rows.values(), shard.tensors.bytes, shard.index.bytes]
        for widths in self.widths.values():
            counts += widths
        if not all(isinstance(count, int) and count >= 0 for count in counts):
            raise TypeError("a number of bytes, rows or prompts is none")
        texts = [*self.widths, *self.stacks.values(), *self.groups]
        for ids in self.groups.values():
            texts += ids
        if not all(isinstance(text, str) for text in texts) or not isinstance(self.about, dict):
            raise TypeError("a name is no text")
        stacks = set(self.stacks.values())
        if self.widths.keys() != self.stacks.keys() or any(shard.rows.keys() != stacks for shard in self.shards):
            raise TypeError("the sites are not those of the rows")
        if self.widths and self.key.get("dtype") not in _DTYPES:
            raise TypeError("the dtype is none")


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


def next_number(folder: Path, manifest: Manifest) -> int:
    """The number of the next shard: beyond those of the manifest and of all files of such names, whoever made them."""
    there = [int(named[1]) for path in folder.glob("shard-*") if (named := _SHARD.fullmatch(path.name))]
    return max([*there, *(shard.number for shard in manifest.shards)], default=-1) + 1


def clean(folder: Path, manifest: Manifest) -> None:
    """Remove what a killed writer left: the files of the shard that it was writing, and temporary ones."""
    note = folder / WRITING
    if not note.exists():
        return
    text = read_text(note, "store's own")
    written = {NAME}
    if text.isdecimal() and int(text) not in {shard.number for shard in manifest.shards}:
        left = {f"shard-{int(text):06d}.{suffix}" for suffix in ("safetensors", "parquet")}
        for name in left:
            remove(folder / name)
        written |= left
    for path in folder.glob(f".*{LEFT}.*"):
        if (named := _TEMPORARY.fullmatch(path.name)) and named[1] in written:
            remove(path)
    remove(note)


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
