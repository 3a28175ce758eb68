"""A store, and what ``capture`` returns, as the analyses read them; and how a store keeps its prompts."""

import json
from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mechsteer.activations.shards import PROMPT, read_index
from mechsteer.errors import MechsteerError, whole_text
from mechsteer.prompts import Prompt
from mechsteer.sources import DEFAULT_GROUP, Member, Places, Recorded, member_of, members_of

if TYPE_CHECKING:
    import pandas as pd

    from mechsteer.activations.capture import Activations
    from mechsteer.activations.store import ActivationStore


def prompt_record(prompt: Prompt) -> str:
    """A prompt as JSON."""
    record = {**vars(prompt), "tokens": prompt.tokens.tolist()}
    record["template"] = None if prompt.template is None else dict(prompt.template)
    return json.dumps(record, ensure_ascii=False)


def prompt_of(record: str) -> Prompt:
    """The prompt of a record."""
    value = json.loads(record)
    value["tokens"] = torch.tensor(value["tokens"], dtype=torch.long)
    value["spans"] = {name: [(a, b) for a, b in ranges] for name, ranges in value["spans"].items()}
    value["str_tokens"] = tuple(value["str_tokens"])
    value["offsets"] = tuple((a, b) for a, b in value["offsets"])
    return Prompt(**value)


def of_store(store: "ActivationStore") -> Recorded:
    """A store as captured activations. Its prompts' texts are held, and the rows are read from the disk.

    Raises:
        MechsteerError: for a store of an earlier version, which kept no prompts.
    """
    manifest = store._manifest
    if manifest.shards and not manifest.groups:
        raise MechsteerError(
            f"The store {store.path} was made by an earlier version, which did not keep the prompts: capture them "
            "again into another store."
        )
    known: dict[str, Member] = {}
    for shard in manifest.shards:
        for record in read_index(store.path, shard, [PROMPT])[PROMPT].dropna():
            member = member_of(prompt_of(record))
            known[member.id] = member
    missing = {name: sum(i not in known for i in ids) for name, ids in manifest.groups.items()}
    if any(missing.values()):
        name, count = next((name, count) for name, count in missing.items() if count)
        raise MechsteerError(
            f"The store {store.path} lacks {count} of the {len(manifest.groups[name])} prompts of its group {name!r}: "
            "its capture was stopped. Run the same capture again, and it goes on."
        )

    def prompts(members: Sequence[Member]) -> list[Prompt]:
        wanted = {member.id for member in members}
        found: dict[str, Prompt] = {}
        for shard in manifest.shards:
            table = read_index(store.path, shard, ["prompt_id", PROMPT]).dropna()
            chosen = table[table["prompt_id"].isin(wanted)]
            found |= {i: prompt_of(record) for i, record in zip(chosen["prompt_id"], chosen[PROMPT], strict=True)}
        return [found[member.id] for member in members]

    def read(site: str, rows: np.ndarray) -> torch.Tensor:
        values = store[site][rows]
        store.release()
        return values

    return Recorded(
        f"The store {store.path}",
        dict(manifest.stacks),
        {name: [known[i] for i in ids] for name, ids in manifest.groups.items()},
        {**store.key, **manifest.about},
        cache(lambda stack: _places_of_store(store, stack)),
        read,
        prompts,
    )


def _places_of_store(store: "ActivationStore", stack: str) -> dict[str, Places]:
    """The rows of each prompt in a stack, one shard's table in memory at a time."""
    found: dict[str, Places] = {}
    first = 0
    for shard in store._manifest.shards:
        table = read_index(store.path, shard, ["stack", "prompt_id", "position", "generated"])
        here = table[table["stack"] == stack].reset_index(drop=True)
        found |= _places(here, "prompt_id", first)
        first += len(here)
    return found


def _places(table: "pd.DataFrame", by: str, first: int) -> dict[Any, Places]:
    positions, generated = table["position"].to_numpy(np.int32), table["generated"].to_numpy(bool)
    grouped = {key: np.asarray(rows) for key, rows in table.groupby(by, sort=False).indices.items()}
    return {key: Places(first + rows, positions[rows], generated[rows]) for key, rows in grouped.items()}


def of_activations(made: "Activations") -> Recorded:
    """What ``capture`` returned in memory."""
    members = members_of(made.prompts)
    whole = {member.id: prompt for member, prompt in zip(members, made.prompts, strict=True)}

    @cache
    def places(stack: str) -> dict[str, Places]:
        import pandas as pd

        rows = made.rows[stack]
        table = pd.DataFrame({"prompt": rows.prompt, "position": rows.position, "generated": rows.generated})
        return {members[place].id: found for place, found in _places(table, "prompt", 0).items()}

    return Recorded(
        "What was captured",
        made.stacks,
        {name: [members[place] for place in some] for name, some in made.groups.items()},
        made.about,
        places,
        lambda site, rows: made[site][torch.from_numpy(rows)],
        lambda some: [whole[member.id] for member in some],
    )


def grouped(prompts: Any) -> dict[str, Any]:
    """Prompts by group, as they were given; a list is the group ``"prompts"``.

    Raises:
        MechsteerError: for a group without a name, or no groups.
    """
    if not isinstance(prompts, Mapping):
        return {DEFAULT_GROUP: prompts}
    if not prompts or not all(isinstance(name, str) and name for name in prompts):
        raise MechsteerError(f"Groups are prompts by name, e.g. {{'with': [...]}}, got {sorted(map(str, prompts))}.")
    return {whole_text("A group's name", name): some for name, some in prompts.items()}


def joined_groups(where: str, has: Mapping[str, list[str]], new: Mapping[str, list[str]]) -> dict[str, list[str]]:
    """The groups of a store after another capture into it: a group may grow at its end.

    Raises:
        MechsteerError: for a group that would become another one.
    """
    found = {name: list(ids) for name, ids in has.items()}
    for name, ids in new.items():
        old = found.get(name, [])
        if name == DEFAULT_GROUP:  # not a row of pairs: whatever is new is added
            there = set(old)
            found[name] = [*old, *(i for i in ids if i not in there)]
        elif ids[: len(old)] == old:
            found[name] = list(ids)
        elif old[: len(ids)] != ids:
            raise MechsteerError(
                f"The group {name!r} of {where} has {len(old)} other prompts: give all of them, the old ones first, or "
                "the group another name."
            )
    return found
