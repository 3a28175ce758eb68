"""States of prompts with and without an instruction, of a model that is run for them or from what was captured."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from jaxtyping import Float
from torch import Tensor

from mechsteer.errors import MechsteerError, listed, one_of, positive_int, shown
from mechsteer.models import as_prompts, check_model, model_info, parse, predicting_stack, provenance, stacks
from mechsteer.models import site as site_name
from mechsteer.prompts import Batch, Prompt, PromptLike
from mechsteer.sources.cache import as_recorded
from mechsteer.sources.live import Steering, last_states
from mechsteer.sources.recorded import ROWS, Member, Recorded, member_of

Pair = tuple[PromptLike, PromptLike]
GROUPS = ("with", "without")
"""The groups that pairs are read from."""


@dataclass(frozen=True, eq=False)
class Paired:
    """States at the last position of prompts with an instruction and of the same without; row i of both is pair i.

    Attributes:
        first: The prompts with it.
        second: Those without.
        sites: For each layer that was asked for, the site.
        read: The states of one side at a site: ``read(site, 0 or 1, from, to)``, float32.
        prompts: The whole prompts of one side: ``prompts(0 or 1, from, to)``.
        rows: How many pairs to read at once.
        provenance: Of the model, as artefacts have it.
    """

    first: Sequence[Member]
    second: Sequence[Member]
    sites: Mapping[int, str]
    read: Callable[[str, int, int, int], Float[Tensor, "rows *width"]] = field(repr=False)
    prompts: Callable[[int, int, int], list[Prompt]] = field(repr=False)
    rows: int
    provenance: Mapping[str, str]

    def __len__(self) -> int:
        return len(self.first)

    def by_layer(self) -> list[tuple[int, str]]:
        """The layers as they count from 0, each once, with their sites: those asked for may count from the end."""
        return [(found[1], name) for name in dict.fromkeys(self.sites.values()) if (found := parse(name))]

    def blocks(self) -> list[tuple[int, int]]:
        """Stretches of pairs that are read at once."""
        return [(at, min(at + self.rows, len(self))) for at in range(0, len(self), self.rows)]

    def side(self, site: str, side: int) -> Iterator[Float[Tensor, "rows *width"]]:
        """The states of one side at a site, block by block."""
        return (self.read(site, side, *block) for block in self.blocks())

    def states(self, site: str) -> Iterator[tuple[Float[Tensor, "rows *width"], Float[Tensor, "rows *width"]]]:
        """The states with and without at a site, block by block."""
        return zip(self.side(site, 0), self.side(site, 1), strict=True)


def paired(
    source: Any,
    pairs: Any,
    *,
    sites: Callable[[Any], dict[int, str]],
    recorded_sites: Callable[[Recorded], dict[int, str]],
    groups: Sequence[str] = GROUPS,
    at_least: int = 1,
    steer: Steering | None = None,
    batch_size: int = 32,
    in_order: bool = False,
    progress: bool = False,
) -> Paired:
    """Pairs of prompts and their states.

    Args:
        source: A loaded model, or captured activations (see :func:`mechsteer.sources.as_recorded`), for each group its
            own or one that has both.
        pairs: ``(with, without)`` pairs, or prompts by group; of captured activations None for all of the groups. After
            a model: captured activations of it.
        sites: The site of each layer in a model.
        recorded_sites: The same in captured activations.
        groups: The names of the groups with and without.
        at_least: How many pairs are needed.
        steer: An intervention; of a model that is run.
        batch_size: Prompts in one pass of the model.
        in_order: Batch each side's prompts in the order given; otherwise all of them by length, which is faster.
        progress: Show a bar.

    Raises:
        MechsteerError: for too few pairs, groups of different sizes, ``steer`` with captured activations or ones of
            another model, and as :func:`mechsteer.sources.last_states` does.
    """
    given = _recorded_sides(source, groups)
    if given is None and (after := _recorded_sides(pairs, groups)) is not None:
        check_made_by(source, after)
        given, pairs = after, None
    if given is None:
        check_model(source)
        first, second = pair_prompts(source, pairs, at_least=at_least, groups=groups)
        names = sites(source)
        positive_int("batch_size", batch_size)
        options: dict[str, Any] = {"steer": steer, "batch_size": batch_size, "progress": progress}

        @cache
        def states() -> list[dict[str, Tensor]]:
            wanted = list(names.values())
            if in_order:
                return [last_states(source, side, wanted, by_length=False, **options) for side in (first, second)]
            both = last_states(source, [*first, *second], wanted, **options)
            return [
                {name: x[: len(first)] for name, x in both.items()},
                {name: x[len(first) :] for name, x in both.items()},
            ]

        def prompts(side: int, start: int, end: int) -> list[Prompt]:
            return (first, second)[side][start:end]

        def live(site: str, side: int, start: int, end: int) -> Tensor:
            return states()[side][site][start:end]

        on, off = [member_of(p) for p in first], [member_of(p) for p in second]
        return Paired(on, off, names, live, prompts, max(len(first), 1), provenance(source))
    refuse_steer(given[0], steer)
    return _of_recorded(given, pairs, recorded_sites, groups, at_least)


def _of_recorded(
    sides: tuple[Recorded, Recorded],
    pairs: Any,
    recorded_sites: Callable[[Recorded], dict[int, str]],
    groups: Sequence[str],
    at_least: int,
) -> Paired:
    members = _members(sides, pairs, groups)
    _enough([len(side) for side in members], groups, at_least)
    names = recorded_sites(sides[0])
    places = [
        {stack: side.places(stack) for stack in {side.stacks[side.site(n)] for n in names.values()}} for side in sides
    ]

    def stored(site: str, side: int, start: int, end: int) -> Tensor:
        of = sides[side]
        return of.last(site, members[side][start:end], places[side][of.stacks[site]])

    def prompts(side: int, start: int, end: int) -> list[Prompt]:
        return sides[side].prompts(members[side][start:end])

    return Paired(members[0], members[1], names, stored, prompts, ROWS, sides[0].about.get("provenance", {}))


def _recorded_sides(value: Any, groups: Sequence[str]) -> tuple[Recorded, Recorded] | None:
    """Captured activations of each of the two groups; None for a model or prompts."""
    one = as_recorded(value)
    if one is not None:
        return one, one
    if not isinstance(value, Mapping):
        return None
    several = {name: as_recorded(part) for name, part in value.items()}
    if not several or any(part is None for part in several.values()):
        return None
    found = [several[one_of("group", name, several)] for name in groups]
    return found[0], found[1]  # pyright: ignore[reportReturnType]  # none is None


def _members(sides: tuple[Recorded, Recorded], pairs: Any, groups: Sequence[str]) -> list[list[Member]]:
    """The prompts of each side."""
    if pairs is None:
        alone = sides[0] is not sides[1]  # each with its own prompts, which need not be a group of that name
        own = [
            side if alone and len(side.groups) == 1 else side.group(g) for side, g in zip(sides, groups, strict=True)
        ]
        return [side.members for side in own]
    if isinstance(pairs, Mapping):
        given = [pairs[one_of("group", name, pairs)] for name in groups]
    else:
        many = _listed_pairs(pairs)
        given = [[pair[0] for pair in many], [pair[1] for pair in many]]
    return [side.chosen(prompts) for side, prompts in zip(sides, given, strict=True)]


def refuse_steer(source: Recorded, steer: Any) -> None:
    """Raise where an intervention is given for activations that are captured already."""
    if steer is not None:
        raise MechsteerError(
            f"{source.name} was captured under the intervention {source.about.get('intervention', 'none')!r}; steer= "
            "is for a model that is run: give it to capture."
        )


def check_made_by(model: Any, sides: Sequence[Recorded]) -> None:
    """Raise if captured activations are of another model."""
    check_model(model)
    for side in sides:
        stated = side.about.get("fingerprint", "unknown")
        own = model_info(model).fingerprint
        if "unknown" not in (stated, own) and stated != own:
            raise MechsteerError(f"{side.name} is of another model: its fingerprint is {stated}, this model's {own}.")


def pair_prompts(
    model: Any, pairs: Any, *, at_least: int = 1, groups: Sequence[str] = GROUPS
) -> tuple[list[Prompt], list[Prompt]]:
    """The prompts with and those without the instruction.

    Raises:
        MechsteerError: for fewer pairs than are needed, or what is no pair.
    """
    check_model(model)
    if isinstance(pairs, Mapping):
        given = [pairs[one_of("group", name, pairs)] for name in groups]
        made = [as_prompts(model, p.prompts if isinstance(p, Batch) else p) for p in given]
    else:
        many = _listed_pairs(pairs)
        _enough([len(many)] * 2, groups, at_least)
        made = [as_prompts(model, [pair[side] for pair in many]) for side in (0, 1)]
    _enough([len(side) for side in made], groups, at_least)
    return made[0], made[1]


def _listed_pairs(pairs: Any) -> list[Any]:
    given = listed("pairs", pairs)
    wrong = [
        pair
        for pair in given
        if not isinstance(pair, Sequence) or isinstance(pair, str) or len(pair) != 2 or isinstance(pair[0], Mapping)
    ]
    if wrong:
        raise MechsteerError(f"A pair is (with instruction, without instruction), got {shown(wrong[0])}.")
    return given


def _enough(sizes: Sequence[int], groups: Sequence[str], at_least: int) -> None:
    if sizes[0] != sizes[1]:
        raise MechsteerError(
            f"The groups {groups[0]!r} and {groups[1]!r} have {sizes[0]} and {sizes[1]} prompts: a pair is one of "
            "each, in order."
        )
    if not sizes[0]:
        raise MechsteerError("No pairs of prompts were given.")
    if sizes[0] < at_least:
        raise MechsteerError(f"At least {at_least} pairs of prompts are needed, got {sizes[0]}.")


def pair_sites(model: Any, kind: str, layers: Sequence[int] | None, stack: str | None) -> dict[int, str]:
    """The site of a kind in each of the layers (default: all of the stack).

    Raises:
        MechsteerError: for a full name in place of a kind, an unknown kind, stack or layer, or no layers.
    """
    if isinstance(kind, str) and "." in kind:
        raise MechsteerError(
            f"site is a kind here, e.g. 'resid_post', and layers and stack say where; got {shown(kind)}."
        )
    sizes = stacks(model)
    count = sizes[predicting_stack(model)[0] if stack is None else one_of("stack", stack, sizes)]
    chosen = range(count) if layers is None else listed("layers", layers)
    if not chosen:
        raise MechsteerError("No layers were given; None is all of them.")
    return {layer: site_name(model, kind, layer, stack) for layer in chosen}


def pairs_at_layers(
    source: Any, pairs: Any, *, kind: str, layers: Sequence[int] | None, stack: str | None, **options: Any
) -> Paired:
    """:func:`paired` at one kind of site in some layers (default: all)."""
    return paired(
        source,
        pairs,
        sites=lambda model: pair_sites(model, kind, layers, stack),
        recorded_sites=lambda recorded: recorded.layers(kind, layers, stack),
        **options,
    )
