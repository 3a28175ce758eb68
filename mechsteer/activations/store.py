"""``ActivationStore``: activations on disk, read row by row.

A folder with ``manifest.json`` and shards: ``shard-NUMBER.safetensors`` with one tensor a site, and
``shard-NUMBER.parquet`` with what its rows are. Any program that reads these formats can read a store. One store holds
the activations of one model, one choice of sites and positions and one intervention; prompts can be added at any time.
The analyses take a store in the place of a model, see :mod:`mechsteer.sources`.
"""

import math
import mmap
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from mechsteer.activations.manifest import NAME, Manifest, locked
from mechsteer.activations.reading import SiteRows
from mechsteer.activations.shards import FIX, PROMPT, map_shard, problem, read_index
from mechsteer.display import folded, rows_of, titled
from mechsteer.errors import MechsteerError, finite, listed, one_of
from mechsteer.files import is_there, remove, writable_dir
from mechsteer.prompts import Prompt
from mechsteer.sources import Recorded, prompt_id

if TYPE_CHECKING:
    import pandas as pd

SHARD_MB = 64
MOST_MB = 1_000_000


def is_store(path: str | os.PathLike[str]) -> bool:
    """Whether there is a store at the path."""
    return is_there(folder_of(path) / NAME)


def folder_of(path: str | os.PathLike[str]) -> Path:
    """The path of a store.

    Raises:
        MechsteerError: if it is no path.
    """
    if not isinstance(path, str | os.PathLike):
        raise MechsteerError(f"The path of a store must be a path, got {path!r}.")
    return Path(path)


class ActivationStore(Mapping[str, SiteRows]):
    """Activations on disk: a mapping from full site names to rows that are read when asked for.

    Made by :meth:`create` or :meth:`open`, filled by :func:`mechsteer.capture` with ``store=``. ``store[site][rows]``
    reads those rows only, as copies. A shard is verified against its checksum when it is first touched; it is read from
    the disk all the time, so its file must stay as it is while the store is open. A store that is being written to can
    be opened; it shows the shards that were finished then.

    Attributes:
        path: The folder.

    Example:
        >>> ms.capture(model, prompts, sites="resid_post", store="states")
        >>> store = ms.ActivationStore.open("states")
        >>> store[ms.site(model, "resid_post", 3)][[0]].shape
    """

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path = path
        self._manifest = manifest
        self._maps: dict[int, dict[str, np.ndarray]] = {}
        self._files: dict[int, mmap.mmap] = {}
        self._closed = False

    @classmethod
    def create(cls, path: str | os.PathLike[str], *, shard_mb: float = SHARD_MB) -> "ActivationStore":
        """Make an empty store.

        Args:
            path: A folder without a store; made if it is not there.
            shard_mb: A shard is written when it has this many MB; a capture that is killed loses less than one.

        Raises:
            MechsteerError: if there is a store already, or the folder cannot be written to.
        """
        size = finite("shard_mb", shard_mb)
        if not 0 < size <= MOST_MB:
            raise MechsteerError(f"shard_mb must be above 0 and at most {MOST_MB:,}, got {shard_mb}.")
        if is_store(path):
            raise MechsteerError(f"There is a store in {path}: open it with ActivationStore.open, or use another path.")
        folder = writable_dir(path)
        manifest = Manifest(shard_bytes=math.ceil(size * 10**6))
        manifest.write(folder)
        return cls(folder, manifest)

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, verify: bool = False) -> "ActivationStore":
        """Open a store for reading, and for adding prompts.

        Args:
            path: Its folder.
            verify: Compare the checksums of all files, which reads them whole; otherwise their sizes and headers.

        Raises:
            MechsteerError: if there is no store, or a file is missing, truncated, foreign or changed, naming it.
        """
        folder = folder_of(path)
        store = cls(folder, Manifest.read(folder))
        store._check(checksums=verify)
        return store

    @classmethod
    def repair(cls, path: str | os.PathLike[str]) -> list[str]:
        """Take bad shards out of a store and delete their files. A capture into it then computes their prompts again.

        Returns:
            What was wrong with each; empty when nothing was.

        Raises:
            MechsteerError: if there is no store, or it is being written to.
        """
        folder = folder_of(path)
        Manifest.read(folder)
        with locked(folder):
            manifest = Manifest.read(folder)
            found = {shard.number: problem(folder, shard, checksums=True) for shard in manifest.shards}
            bad = [shard for shard in manifest.shards if found[shard.number]]
            if bad:
                manifest.shards = [shard for shard in manifest.shards if not found[shard.number]]
                manifest.write(folder)
            for shard in bad:
                for file, _ in shard.files(folder):
                    remove(file)
        return [found[shard.number] for shard in bad]

    def verify(self) -> None:
        """Compare the checksum of every file with the manifest's.

        Raises:
            MechsteerError: naming each file that is missing, truncated, foreign or changed, and the fix.
        """
        self._check(checksums=True)

    def _check(self, *, checksums: bool) -> None:
        found = [wrong for shard in self._manifest.shards if (wrong := problem(self.path, shard, checksums=checksums))]
        if found:
            raise MechsteerError(f"{' '.join(found)} {FIX}")

    def reload(self) -> None:
        """Show what was written since the store was opened."""
        self._check_open()
        self._manifest = Manifest.read(self.path)
        self._let_go()

    @property
    def sites(self) -> list[str]:
        """The full names of the sites; empty before the first capture."""
        return list(self._manifest.widths)

    @property
    def key(self) -> dict[str, Any]:
        """What the activations are of: model fingerprint, dtype, sites, positions, intervention."""
        return dict(self._manifest.key)

    @property
    def index(self) -> "pd.DataFrame":
        """What the rows are: columns stack, row, prompt_id, text_hash, position, token, text, generated.

        Rows are counted within each stack; a site's are those of its own stack (see :meth:`index_of`).
        """
        import pandas as pd

        self._check_open()
        if not self._manifest.shards:
            columns = ["stack", "row", "prompt_id", "text_hash", "position", "token", "text", "generated"]
            return pd.DataFrame(columns=columns)
        shards = [read_index(self.path, shard).drop(columns=PROMPT, errors="ignore") for shard in self._manifest.shards]
        table = pd.concat(shards, ignore_index=True)
        table.insert(1, "row", table.groupby("stack").cumcount())
        return table

    def index_of(self, site: str) -> "pd.DataFrame":
        """The rows of :attr:`index` at a site: its row i is row i of ``store[site]``."""
        stack = self._manifest.stacks[one_of("site in this store", site, self.sites)]
        index = self.index
        return index[index["stack"] == stack].reset_index(drop=True)

    def __getitem__(self, site: str) -> SiteRows:
        self._check_open()
        one_of("site in this store", site, self.sites)
        shards = [(shard.number, shard.rows[self._manifest.stacks[site]]) for shard in self._manifest.shards]
        dtype = getattr(torch, self._manifest.key["dtype"])
        return SiteRows(site, tuple(self._manifest.widths[site]), dtype, shards, self._map)

    @property
    def groups(self) -> dict[str, list[str]]:
        """The prompts of each group, by their ids in :attr:`index`; those captured as one list are ``"prompts"``."""
        return {name: list(ids) for name, ids in self._manifest.groups.items()}

    def prompts(self, group: str | None = None) -> list[Prompt]:
        """The prompts of a group, or of all groups, in order.

        Raises:
            MechsteerError: for an unknown group, or a store of an earlier version, which did not keep them.
        """
        source = self.recorded() if group is None else self.group(group)
        return source.prompts(source.members)

    def group(self, name: str) -> Recorded:
        """One group's prompts, in the place of the whole store: ``ms.logit_lens(model, store.group("with"))``.

        Raises:
            MechsteerError: if there is no such group.
        """
        return self.recorded().group(name)

    def recorded(self) -> Recorded:
        """What the analyses read: see :class:`mechsteer.sources.Recorded`."""
        from mechsteer.activations.recorded import of_store

        return of_store(self)

    def __iter__(self) -> Iterator[str]:
        return iter(self.sites)

    def __len__(self) -> int:
        return len(self.sites)

    def __repr__(self) -> str:
        prompts = sum(shard.prompts for shard in self._manifest.shards)
        return f"ActivationStore({str(self.path)!r}, {len(self.sites)} sites, {prompts} prompts)"

    def _repr_html_(self) -> str:
        rows = [(site, len(self[site]), list(self[site].shape[1:]), str(self[site].dtype)) for site in self.sites]
        return titled(repr(self), folded("sites", rows_of(rows, ("site", "rows", "shape of each", "dtype"))))

    def of(self, site: str, prompts: Prompt | Sequence[Prompt]) -> Tensor:
        """The rows of some prompts at a site, in their order.

        Raises:
            MechsteerError: for a prompt that the store does not have.
        """
        rows = self.index_of(site).groupby("prompt_id")["row"].apply(list).to_dict()
        wanted = [prompts] if isinstance(prompts, Prompt) else listed("prompts", prompts)
        for p in wanted:
            if not isinstance(p, Prompt):
                raise MechsteerError(f"Give prompts made by mechsteer.prompt, got {p!r}.")
            if prompt_id(p) not in rows:
                raise MechsteerError(f"The store {self.path} does not have {p!r}.")
        return self[site][[row for p in wanted for row in rows[prompt_id(p)]]]

    # The methods below stand in modules of their own, which need this one: they are imported when they are called.

    def to_pandas(self, site: str) -> "pd.DataFrame":
        """A table with the columns of the index and one a dimension; see :mod:`mechsteer.activations.export`."""
        from mechsteer.activations.export import to_pandas

        return to_pandas(self, site)

    def to_numpy(self, site: str) -> np.ndarray:
        """All rows ``[rows, width...]``; bfloat16 becomes float32."""
        return self[site].numpy()

    def batches(self, site: str, batch_size: int, **options: Any) -> Iterator[Tensor]:
        """Shuffled batches ``[batch, d_in]`` for training; see :func:`mechsteer.activations.export.batches`."""
        from mechsteer.activations.export import batches

        return batches(self[site], batch_size, **options)

    def to_dataset(self, site: str) -> Any:
        """A ``datasets.IterableDataset`` of the rows; see :func:`mechsteer.activations.export.to_dataset`."""
        from mechsteer.activations.export import to_dataset

        return to_dataset(self, site)

    def close(self) -> None:
        """Let go of the files. Nothing can be read afterwards."""
        self._let_go()
        self._closed = True

    def _let_go(self) -> None:
        self._maps.clear()
        self._files.clear()

    def release(self) -> None:
        """Give the memory of what was read back to the system; what is read again comes from the disk again."""
        if hasattr(mmap, "MADV_DONTNEED"):
            for file in self._files.values():
                file.madvise(mmap.MADV_DONTNEED)

    def __enter__(self) -> "ActivationStore":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _check_open(self) -> None:
        if self._closed:
            raise MechsteerError(f"The store {self.path} was closed.")

    def _map(self, number: int, site: str) -> np.ndarray:
        """The rows of one shard at a site, memory-mapped."""
        self._check_open()
        if number not in self._maps:
            shard = next(s for s in self._manifest.shards if s.number == number)
            self._files[number], self._maps[number] = map_shard(self.path, shard)
        return self._maps[number][site]
