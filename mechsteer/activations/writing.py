"""Capturing into a store: what is needed is said first, finished shards are kept, and what is there is skipped."""

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from mechsteer.activations.manifest import WRITING, Manifest, clean, locked
from mechsteer.activations.recorded import joined_groups, prompt_record
from mechsteer.activations.shards import PROMPT, read_index, write_shard
from mechsteer.activations.store import ActivationStore, is_store
from mechsteer.activations.streaming import BatchRows, Plan, check_prompts, stream
from mechsteer.decoding.strategies import Sample
from mechsteer.errors import MechsteerError
from mechsteer.files import digest, remove, versions
from mechsteer.identity import described
from mechsteer.models import is_encoder_decoder, loaded_info, model_identity, provenance, stacks
from mechsteer.prompts import Prompt
from mechsteer.prompts.vocabulary import token_pieces
from mechsteer.sources import prompt_id

if TYPE_CHECKING:
    import pandas as pd

MARGIN = 64 * 2**20
"""Bytes of the disk that a capture leaves free."""


def fill(
    where: ActivationStore | str | os.PathLike[str],
    model: Any,
    groups: Mapping[str, Sequence[Prompt]],
    plan: Plan,
    *,
    batch_size: int,
    progress: bool,
) -> ActivationStore:
    """Capture the prompts that the store does not have; see :func:`mechsteer.activations.capture`."""
    ids = {name: [prompt_id(p) for p in prompts] for name, prompts in groups.items()}
    asked = {pid: p for name, prompts in groups.items() for pid, p in zip(ids[name], prompts, strict=True)}
    key = key_of(model, plan)
    store = _opened(where)
    store.reload()
    with writing(store, key, plan) as writer:
        had = writer.prompts()
        missing = [p for pid, p in asked.items() if pid not in had]
        manifest, before = writer.manifest, writer.manifest.groups
        manifest.groups = joined_groups(str(store.path), before, ids)
        manifest.about = manifest.about or about(model)
        if missing:
            announce(store.path, plan, check_prompts(model, plan, missing), len(missing))
            writer.take_from(model, missing, plan, batch_size, progress)
        elif manifest.groups != before:
            manifest.write(store.path)
    store.reload()
    return store


def _opened(where: ActivationStore | str | os.PathLike[str]) -> ActivationStore:
    if isinstance(where, ActivationStore):
        return where
    if not isinstance(where, str | os.PathLike):
        raise MechsteerError(f"store must be an ActivationStore or a path, got {where!r}.")
    return ActivationStore.open(where) if is_store(where) else ActivationStore.create(where)


def about(model: Any) -> dict[str, Any]:
    """What artefacts made of activations say of their model, and how many layers its stacks have; JSON values."""
    known = provenance(model)
    found = {"provenance": known, "fingerprint": known["model_fingerprint"], "sizes": stacks(model)}
    if is_encoder_decoder(model):
        (found["start_token"],) = token_pieces(model.tokenizer, [model.cfg.decoder_start_token_id])
    return found


def key_of(model: Any, plan: Plan) -> dict[str, Any]:
    """All that decides the rows of a prompt, as JSON values.

    Raises:
        MechsteerError: for what depends on a prompt's place in the list, which a store does not keep.
    """
    if any(edit.scope.rows is not None for edit in plan.steer.edits):
        raise MechsteerError(
            "An intervention on some rows depends on the places of the prompts in the list, which a store does not "
            "keep: use one store for the steered prompts and one for the others."
        )
    if isinstance(plan.strategy, Sample):
        raise MechsteerError(
            "Sample draws by a prompt's place in the list, which a store does not keep: generate first, and capture "
            "the texts."
        )
    info = loaded_info(model)
    return {
        **{f"model {name}": value for name, value in model_identity(model).items()},
        "model revision": info.revision,
        "model dtype": info.dtype,
        "dtype": str(plan.dtype).removeprefix("torch."),
        "sites": list(plan.stacks),
        "positions": plan.where if isinstance(plan.where, str) else list(plan.where),
        "intervention": f"{plan.steer} {digest(described(plan.steer))}" if plan.steer.edits else "none",
        "generated tokens": plan.generate,
        "strategy": f"{plan.strategy} {digest(described(plan.strategy))}" if plan.generate else "none",
        **{f"version of {name}": version for name, version in versions().items()},
    }


def announce(folder: Path, plan: Plan, rows: dict[str, int], prompts: int) -> None:
    """Print what a capture will write.

    Raises:
        MechsteerError: if the disk does not have that much, and :data:`MARGIN`.
    """
    groups: dict[tuple[str, tuple[int, ...]], list[str]] = {}
    for site, stack in plan.stacks.items():
        groups.setdefault((stack, plan.widths[site]), []).append(site)
    most = "up to " if plan.generate > 1 else ""
    print(f"Capturing {prompts:,} prompts into {folder}:")
    need = 0
    for (stack, width), sites in groups.items():
        shape = " x ".join(map(str, width))
        size = rows[stack] * plan.dtype.itemsize
        for n in width:
            size *= n
        need += size * len(sites)
        named = sites[0] if len(sites) == 1 else f"{sites[0]} ... {sites[-1]} ({len(sites)} sites)"
        each = "" if len(sites) == 1 else " each"
        print(f"  {named}: {most}{rows[stack]:,} rows x {shape} x {plan.dtype.itemsize} bytes = {_size(size)}{each}")
    free = shutil.disk_usage(folder).free
    print(f"  {most}{_size(need)} in all; {_size(free)} are free.", flush=True)
    if need + MARGIN > free:
        raise MechsteerError(
            f"This capture needs {most}{_size(need)} (and {_size(MARGIN)} to spare), but {folder} has {_size(free)} "
            "free: capture fewer sites or positions, use a smaller dtype, or another disk."
        )


def _size(count: int) -> str:
    for unit, scale in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= scale:
            return f"{count / scale:.1f} {unit}"
    return f"{count} bytes"


@contextmanager
def writing(store: ActivationStore, key: dict[str, Any], plan: Plan) -> Iterator["Writer"]:
    """Be the one writer of a store whose key fits, after removing what a killed one left.

    Raises:
        MechsteerError: if there is another writer, or the store holds something else, naming both values.
    """
    with locked(store.path):
        manifest = Manifest.read(store.path)
        clean(store.path, manifest)
        if manifest.shards:
            _check_key(store.path, manifest.key, key)
        else:  # on the disk with the first shard: a capture that is refused before it leaves the store free
            manifest.key, manifest.stacks, manifest.versions = key, dict(plan.stacks), versions()
            manifest.widths = {site: list(width) for site, width in plan.widths.items()}
        yield Writer(store.path, manifest, plan)


def _check_key(folder: Path, has: dict[str, Any], wanted: dict[str, Any]) -> None:
    for name, value in wanted.items():
        if has.get(name) != value:
            raise MechsteerError(
                f"The store {folder} holds other activations: its {name} is {has.get(name)!r}, and this capture's "
                f"{value!r}. Use another store."
            )


class Writer:
    """Collects batches and writes a shard when there is enough for one."""

    def __init__(self, folder: Path, manifest: Manifest, plan: Plan) -> None:
        self.folder, self.manifest, self.plan = folder, manifest, plan
        self.batches: list[BatchRows] = []
        self.tables: list[pd.DataFrame] = []
        self.bytes = 0

    def prompts(self) -> set[str]:
        """The prompts that are in finished shards."""
        shards = self.manifest.shards
        return {pid for shard in shards for pid in read_index(self.folder, shard, ["prompt_id"])["prompt_id"].unique()}

    def take_from(self, model: Any, prompts: Sequence[Prompt], plan: Plan, batch_size: int, progress: bool) -> None:
        """Run the prompts. What was computed before an error or an interruption is written."""

        def take(batch: BatchRows) -> None:
            self.add(batch, prompts, model.tokenizer)

        try:
            stream(model, prompts, plan, take, batch_size=batch_size, progress="capturing" if progress else "")
        finally:
            self.flush()

    def add(self, batch: BatchRows, prompts: Sequence[Prompt], tokenizer: Any) -> None:
        """Take a batch of some of the prompts in a list."""
        self.batches.append(batch)
        self.tables.append(_table(batch, prompts, tokenizer))
        self.bytes += sum(_nbytes(values) for values in batch.values.values())
        if self.bytes >= self.manifest.shard_bytes:
            self.flush()

    def flush(self) -> None:
        """Write what was collected as a shard.

        Raises:
            MechsteerError: if it cannot be written; the store keeps what was finished before.
        """
        batches, tables = self.batches, self.tables
        self.batches, self.tables, self.bytes = [], [], 0
        if not batches:
            return
        shards = self.manifest.shards
        try:
            shard = write_shard(self.folder, self.manifest, batches, tables, self.plan.dtype)
            self.manifest.shards = [*shards, shard]
            self.manifest.write(self.folder)
            remove(self.folder / WRITING)
        except MechsteerError as error:
            kept = sum(s.prompts for s in shards)
            raise MechsteerError(
                f"{error} The store is whole and keeps the {kept} prompts of its {len(shards)} finished shards; make "
                "room and run the same capture again to add the others."
            ) from error


def _nbytes(values: Tensor) -> int:
    return values.numel() * values.element_size()


def _table(batch: BatchRows, prompts: Sequence[Prompt], tokenizer: Any) -> "pd.DataFrame":
    """The index of a batch: columns stack, prompt_id, text_hash, position, token, text, generated, prompt."""
    import pandas as pd

    here = {place for rows in batch.rows.values() for place in rows.prompt}
    ids, texts = {i: prompt_id(prompts[i]) for i in here}, {i: digest(prompts[i].text) for i in here}
    parts = [
        pd.DataFrame(
            {
                "stack": stack,
                "prompt_id": [ids[place] for place in rows.prompt],
                "text_hash": [texts[place] for place in rows.prompt],
                "position": rows.position,
                "token": rows.token,
                "text": token_pieces(tokenizer, rows.token),
                "generated": rows.generated,
            }
        )
        for stack, rows in batch.rows.items()
    ]
    table = pd.concat(parts, ignore_index=True)
    first = ~table["prompt_id"].duplicated()
    records = {ids[place]: prompt_record(prompts[place]) for place in here}
    table[PROMPT] = table["prompt_id"].map(records).where(first, None)
    return table
