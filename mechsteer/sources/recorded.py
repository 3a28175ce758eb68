"""Captured activations as the analyses read them, whoever keeps them: a store, memory, or the library's cache.

Whatever keeps activations has a method ``recorded()`` that gives a :class:`Recorded`. Of all its prompts only texts and
places are held; activations are read when they are needed, some rows at a time.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from mechsteer.errors import MechsteerError, listed, one_of, shown, whole
from mechsteer.models.sites import KINDS, check_layer, parse
from mechsteer.prompts import Batch, Prompt

ROWS = 32
"""Pairs of prompts whose rows are read at once."""

DEFAULT_GROUP = "prompts"
"""The group of prompts that were captured as one list."""


def prompt_id(prompt: Prompt) -> str:
    """What a prompt is known by: a hash of its tokens and spans (which decide where steering by span acts)."""
    spans = {name: [list(ends) for ends in ranges] for name, ranges in sorted(prompt.spans.items())}
    text = json.dumps([prompt.tokens.tolist(), spans])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class Member(NamedTuple):
    """A prompt of a group, without its tokens.

    Attributes:
        id: Its :func:`prompt_id`.
        text: Its whole text.
        length: How many tokens it has.
        instruction: The text of its span ``instruction``; empty where it has none.
    """

    id: str
    text: str
    length: int
    instruction: str


def member_of(prompt: Prompt) -> Member:
    """A prompt without its tokens."""
    # Not its tokens: the first word is another token at the beginning of a text than behind a space.
    instruction = prompt.span_text("instruction") if "instruction" in prompt.spans else ""
    return Member(prompt_id(prompt), prompt.text, len(prompt), instruction)


def members_of(prompts: Sequence[Prompt]) -> list[Member]:
    """Prompts without their tokens. One that is there again has an id of its own, for its rows may be others.

    Sampled answers differ, and so does what an intervention on some of the rows leaves.
    """
    seen: Counter[str] = Counter()
    found = []
    for member in map(member_of, prompts):
        seen[member.id] += 1
        again = "" if seen[member.id] == 1 else f" {seen[member.id]}"
        found.append(member._replace(id=member.id + again))
    return found


class Places(NamedTuple):
    """Which rows of a stack are a prompt's.

    Attributes:
        rows: Their numbers.
        positions: The position that each stands for.
        generated: Whether each is of a generated token.
    """

    rows: np.ndarray
    positions: np.ndarray
    generated: np.ndarray


@dataclass(frozen=True, eq=False)
class Recorded:
    """Captured activations.

    Attributes:
        name: What to call them in a message.
        stacks: For each site, whose positions its rows are: ``"blocks"``, ``"encoder"`` or ``"decoder"``.
        groups: The prompts, by group.
        about: What they are of: ``positions``, ``intervention``, ``fingerprint``, and ``provenance`` as artefacts have
            it; what is not known is missing.
        places: For a stack, the rows of each prompt, by its id.
        read: Rows of a site, by number.
        prompts: The whole prompts of members.
        raw: Where whole tensors are there: that of a prompt at any site, as if it had been run alone.
        model: Where it is known: what made them.
    """

    name: str
    stacks: Mapping[str, str]
    groups: Mapping[str, Sequence[Member]]
    about: Mapping[str, Any]
    places: Callable[[str], Mapping[str, Places]]
    read: Callable[[str, np.ndarray], Tensor]
    prompts: Callable[[Sequence[Member]], list[Prompt]]
    raw: Callable[[Member, str], Tensor] | None = None
    model: Any = None

    def recorded(self) -> "Recorded":
        """Itself."""
        return self

    def __repr__(self) -> str:
        sizes = ", ".join(f"{name!r} {len(members)}" for name, members in self.groups.items())
        return f"Recorded({self.name}: {len(self.stacks)} sites; prompts by group: {sizes})"

    def group(self, name: str) -> "Recorded":
        """The same of one group's prompts alone.

        Raises:
            MechsteerError: if there is no such group, naming those that there are.
        """
        if name not in self.groups:
            raise MechsteerError(
                f"{self.name} has no group {shown(name)}, only {', '.join(map(repr, self.groups)) or 'none'}: capture "
                f"the prompts by group, ms.capture(model, {{{name!r}: prompts, ...}}, ...), or give them here."
            )
        return replace(self, groups={name: self.groups[name]})

    @property
    def members(self) -> list[Member]:
        """The prompts of all groups, in order."""
        found = [member for members in self.groups.values() for member in members]
        if not found:
            raise MechsteerError(f"{self.name} has no prompts yet.")
        return found

    def chosen(self, prompts: Any) -> list[Member]:
        """Some prompts, in their order.

        Raises:
            MechsteerError: for what is no prompt, or one that was not captured.
        """
        many = prompts.prompts if isinstance(prompts, Batch) else prompts
        known = {member.id: member for members in self.groups.values() for member in members}
        found = []
        for p in [many] if isinstance(many, Prompt) else listed("prompts", many):
            if not isinstance(p, Prompt):
                raise MechsteerError(
                    f"Prompts of captured activations are what mechsteer.prompt makes, got {shown(p)}."
                )
            if prompt_id(p) not in known:
                raise MechsteerError(f"{self.name} does not have {p!r}.")
            found.append(known[prompt_id(p)])
        return found

    def predicting(self) -> str:
        """The stack that predicts."""
        return "blocks" if all(stack == "blocks" for stack in self.stacks.values()) else "decoder"

    def layers(self, kind: str, layers: Sequence[int] | None = None, stack: str | None = None) -> dict[int, str]:
        """The site of a kind in each of the layers; default: all that were captured.

        Raises:
            MechsteerError: for an unknown kind, or layers or a kind that were not captured, saying what to capture.
        """
        if not isinstance(kind, str):
            raise MechsteerError(f"A site is a name, e.g. 'resid_post', got {shown(kind)}.")
        short = one_of("site", kind.removeprefix("hook_"), KINDS)
        of = self.predicting() if stack is None else stack
        here = {p[1]: name for name in self.stacks if (p := parse(name)) and (p[0], p[2]) == (of, short)}
        asked = short if of == self.predicting() else f"{of}.{short}"
        if not here:
            kinds = {".".join((p[0], p[2])) if p else name for name in self.stacks for p in [parse(name)]}
            raise self.lacks(f"{short!r} of the {of}", f"sites={asked!r}", f"it has {', '.join(sorted(kinds))}")
        if layers is None:
            return dict(sorted(here.items()))
        wanted = listed("layers", layers)
        if not wanted:
            raise MechsteerError("No layers were given; None is all of them.")
        count = self.about.get("sizes", {}).get(of, 0)  # what negative ones count back from
        found = {}
        for layer in wanted:
            number = whole(layer)
            if number is None:
                raise MechsteerError(f"layer must be an integer, got {shown(layer)}.")
            number = number + count if number < 0 else number
            if number not in here:
                has = f"it has those of {', '.join(map(str, sorted(here)))}"
                raise self.lacks(f"{short!r} of layer {shown(layer)} of the {of}", f"sites={asked!r}", has)
            found[layer] = here[number]
        return found

    def site(self, name: str, layer: int | None = None) -> str:
        """A site by its full name.

        Args:
            name: The name.
            layer: The layer that is asked for beside it; None for its own.

        Raises:
            MechsteerError: if it was not captured, saying what to capture, or is in another layer.
        """
        if name not in self.stacks:
            some = list(self.stacks)
            has = f"it has {', '.join(some[:3])}{' ...' if len(some) > 3 else ''} ({len(some)} sites)"
            raise self.lacks(repr(name), f"sites={name!r}", has)
        check_layer(name, layer, None, self.about.get("sizes", {}))
        return name

    def lacks(self, what: str, fix: str, has: str = "") -> MechsteerError:
        """The error for what was not captured."""
        return MechsteerError(f"{self.name} lacks {what}{has and f' ({has})'}: capture it with {fix}.")

    def last(self, site: str, members: Sequence[Member], places: Mapping[str, Places]) -> Tensor:
        """The state of prompts at their last position, of a decoder at its start token; float32.

        Args:
            site: The full name.
            members: The prompts.
            places: Of the site's stack.

        Raises:
            MechsteerError: if that position of a prompt was not captured.
        """
        decoder = self.stacks[site] == "decoder"
        rows = [self.row(site, member, 0 if decoder else member.length - 1, places) for member in members]
        return self.read(site, np.array(rows)).float()

    def rows(self, site: str, member: Member, places: Mapping[str, Places]) -> np.ndarray:
        """The rows of all positions of a prompt and, of a decoder, of what it wrote.

        Raises:
            MechsteerError: if some positions were not captured.
        """
        decoder = self.stacks[site] == "decoder"
        for position in range(1 if decoder else member.length):
            self.row(site, member, position, places)
        rows, positions, generated = places[member.id]
        chosen = np.ones(len(rows), dtype=bool) if decoder else ~generated
        return rows[chosen][np.argsort(positions[chosen], kind="stable")]

    def row(self, site: str, member: Member, position: int, places: Mapping[str, Places]) -> int:
        """The row of one position of a prompt.

        Raises:
            MechsteerError: if it was not captured.
        """
        if member.id not in places:
            raise MechsteerError(
                f"{self.name} has not finished {shown(member.text)}: its capture was stopped. Run it again, and it "
                "goes on."
            )
        rows, positions, _ = places[member.id]
        found = (positions == position).nonzero()[0]
        if not len(found):
            last = position == member.length - 1
            where = f"the last position ({position})" if last else f"position {position}"
            had = f"it was captured at positions={self.about.get('positions')!r}"
            raise self.lacks(f"{where} of {shown(member.text)} at {site!r}", _positions_for(last), had)
        return int(rows[found[0]])


def _positions_for(last: bool) -> str:
    return 'positions="last" or "all"' if last else 'positions="all"'
