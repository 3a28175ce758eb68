"""Two instructions at once: which way of steering follows both?

Prompts have neither instruction; scored is whether both strict checkers pass, times quality. For each pair of kinds, at
a layer and scope that is one of the two kinds' own, with strengths a and b in units of each kind's own step:

- ``sum``: a v1 + b v2;
- ``orthogonalised``: each without its projection on the other, as long as before;
- ``in turn``: the projection on v1 is set, then that on v2;
- ``compound vector``: the difference in means of prompts with both instructions and with none;
- ``sparse``: a vector at head outputs (:func:`mechsteer.sparse_direction`), learned on the model's own answers to
  prompts with both, where it follows both.

Place and strengths are chosen jointly on validation prompts. Beside them ``first`` and ``second`` alone (at their own
places), ``random`` (two random directions, as long and at the place of the best sum), ``unsteered``, and the ceiling:
both instructions in the prompt.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from typing import TYPE_CHECKING, Any, NamedTuple

from mechsteer.directions import Direction, random_direction
from mechsteer.directions.sparse import sparse_direction
from mechsteer.steering import Intervention, add, heads, project
from mechsteer.studies.core.choose import best
from mechsteer.studies.questions.bench import Place, Setup
from mechsteer.studies.questions.scores import differences, finding, scored, shares, with_ends
from mechsteer.tasks import Instructed, Instructions, instructions
from mechsteer.tasks.instructions import follows_strictly

if TYPE_CHECKING:
    import pandas as pd

NAME = "compound"
PAIRS = (("lower", "list"), ("lower", "json"), ("lower", "french"), ("upper", "list"))
SHARES = (0.5, 1.0, 1.5)
"""Of two vectors' strengths, in their kinds' own steps."""
LADDER = (0.5, 0.75, 1.0, 1.5, 2.0)
"""Of one vector's, in its norms."""
LESSONS, WEIGHT, STEPS = 16, 0.005, 60
"""Of the sparse vector: answers to learn from, both penalties' weight, and the most steps."""
TWO, ONE = ("sum", "orthogonalised", "in turn"), ("compound vector", "sparse")


class Option(NamedTuple):
    """A way to steer a pair: where (the first or the second kind's own layer and scope), and how strongly."""

    way: str
    spot: int
    a: float
    b: float


OPTIONS = (
    *(Option(way, spot, a, b) for way in TWO for spot in (0, 1) for a, b in product(SHARES, repeat=2)),
    *(Option(way, spot, s, s) for way in ONE for spot in (0, 1) for s in LADDER),
)


@dataclass(frozen=True)
class Both:
    """A pair of kinds, and what it is steered with.

    Attributes:
        setup: The setup.
        kinds: The two kinds.
        places: Each kind's own place.
    """

    setup: Setup
    kinds: tuple[str, str]
    places: Mapping[str, Place]

    @property
    def name(self) -> str:
        """The pair's name."""
        return "+".join(self.kinds)

    def samples(self, split: str, n: int | None) -> tuple[Instructed, ...]:
        """Questions with both instructions; the kind of the row is the first."""
        first, second = (instructions(kind, split=split, n=n).samples for kind in self.kinds)
        return tuple(
            replace(one, instruction=f"{one.instruction} {other.instruction}", limit=max(one.limit, other.limit))
            for one, other in zip(first, second, strict=True)
        )

    def place(self, spot: int) -> Place:
        """A kind's own place."""
        return self.places[self.kinds[spot]]

    def vectors(self, layer: int) -> list[Direction]:
        """The two kinds' vectors at a layer."""
        return [self.setup.vector(kind, layer) for kind in self.kinds]

    def steer(self, option: Option, rows: Sequence[int]) -> Intervention:
        """The intervention on some rows; nothing where a sparse vector could not be learned."""
        place = self.place(option.spot)
        if option.way == "sparse":
            learned = self.learned.get(place.layer)
            return Intervention() if learned is None else heads(learned, option.a, rows=rows)
        if option.way == "compound vector":
            whole = self.whole(place.layer)
            return add(whole, option.a * whole.norm, scope=place.scope, rows=rows)
        strengths = [share * self.place(spot).step for spot, share in enumerate((option.a, option.b))]
        return two(option.way, self.vectors(place.layer), strengths, place.scope, rows)

    def alone(self, spot: int, rows: Sequence[int]) -> Intervention:
        """One kind's vector at its own place."""
        place = self.place(spot)
        d = self.setup.vector(self.kinds[spot], place.layer)
        return place.steer(d, d.norm, rows)

    def random(self, like: Option, rows: Sequence[int]) -> Intervention:
        """Two random directions, as long as the sum's vectors and where they are."""
        place, made = self.place(like.spot), Intervention()
        for spot, d in enumerate(self.vectors(place.layer)):
            drawn = random_direction(self.setup.model, seed=spot, layer=place.layer)
            made += add(drawn, (like.a, like.b)[spot] * self.place(spot).step * d.norm, scope=place.scope, rows=rows)
        return made

    def whole(self, layer: int) -> Direction:
        """The vector of both instructions, from the questions of the first kind's own vector."""
        first, second = (self.setup.estimated(kind) for kind in self.kinds)
        told = [replace(a, instruction=f"{a.instruction} {b.instruction}") for a, b in zip(first, second, strict=True)]
        return self.setup.direction(*self.setup.both(told, layer), layer)

    @cached_property
    def learned(self) -> dict[int, Direction]:
        """Sparse vectors by layer; none where the model follows both instructions too rarely to learn from."""
        setup = self.setup
        task = Instructions("lessons", self.samples("validation", None)[setup.n_validation :][:LESSONS])
        table = score([(self, list(range(len(task.samples))))], task, setup.answers(task))
        kept = [place for place, ok in enumerate(table["followed"]) if ok]
        if len(kept) < 2:
            return {}
        bare = task.prompts(setup.model, with_instruction=False)
        examples = [(bare[place], table["output"].iloc[place]) for place in kept]
        options: dict[str, Any] = {"l1": WEIGHT, "group_l2": WEIGHT, "max_steps": STEPS}

        def learn(layers: Sequence[int]) -> dict[int, Direction]:
            return {at: sparse_direction(setup.model, examples, layer=at, **options) for at in layers}

        about = {**options, "examples": [(p.text, text) for p, text in examples]}
        layers = sorted({self.place(spot).layer for spot in (0, 1)})
        found: dict[int, Direction] = {}
        for layer in layers:
            found |= setup.bench.directions(f"sparse-{'-'.join(self.kinds)}-{layer}", [layer], about, learn)
        return found


Rows = Sequence[tuple[Both, list[int]]]
"""Pairs, and which rows of a task are theirs."""


def run(setup: Setup, places: Mapping[str, Place]) -> "dict[str, pd.DataFrame]":
    """The tables ``compound`` (a row a pair and way, and the mean over pairs) and ``compound_choice``."""
    import pandas as pd

    pairs = [Both(setup, pair, places) for pair in PAIRS if set(pair) <= set(setup.kinds)]
    choice = chosen(setup, pairs)
    answers = _answers(setup, pairs, choice)
    rows = []
    for pair in (*(both.name for both in pairs), "all"):
        found = {
            way: table if pair == "all" else table[table["pair"] == pair]
            for way, table in answers.items()
            if pair == "all" or pair in set(table["pair"])
        }
        for way, table in found.items():
            row = {"pair": pair, "way": way, "pairs": table["pair"].nunique(), **shares(table)}
            row |= {f"{name}_percent": 100 * float(table[name].mean()) for name in ("first", "second")}
            for suffix, other in (("gain", found["unsteered"]), ("over_sum", found["sum"])):
                row |= differences(table, other[other["pair"].isin(set(table["pair"]))], suffix)
            rows.append(row)
    return {"compound": pd.DataFrame(rows), "compound_choice": choice}


def tasked(pairs: Sequence[Both], split: str, n: int, *, instructed: bool = False) -> tuple[Instructions, Rows]:
    """The prompts of all pairs as one task, and whose they are."""
    samples: list[Instructed] = []
    rows = []
    for both in pairs:
        mine = both.samples(split, n)
        rows.append((both, list(range(len(samples), len(samples) + len(mine)))))
        samples += mine
    name = f"instructions[{','.join(both.name for both in pairs)},split={split}]"
    return Instructions(name, tuple(samples), with_instruction=instructed), rows


def score(pairs: Rows, task: Instructions, table: "pd.DataFrame") -> "pd.DataFrame":
    """The measures, ``followed`` being both; each alone (``first``, ``second``); and the pair."""
    made = scored(table, pairs[0][0].setup.knows)
    alone = {"first": [0.0] * len(made), "second": [0.0] * len(made)}
    names = [""] * len(made)
    for both, rows in pairs:
        for row in rows:
            names[row] = both.name
            for column, kind in zip(alone, both.kinds, strict=True):
                asked = replace(task.samples[row], kind=kind)
                alone[column][row] = float(follows_strictly(asked, made["output"].iloc[row]))
    made = made.assign(pair=names, **alone)
    made = made.assign(followed=made["first"] * made["second"])
    return made.assign(value=made["followed"] * made["quality"])


def chosen(setup: Setup, pairs: Sequence[Both]) -> "pd.DataFrame":
    """Every option on the validation prompts, all pairs at once; of each pair and way the best, of equals the first."""
    import pandas as pd

    task, rows = tasked(pairs, "validation", setup.n_validation)
    steers = [sum((both.steer(option, at) for both, at in rows), start=Intervention()) for option in OPTIONS]
    setup.prefetch(task, steers)
    found: list[dict[str, Any]] = []
    for option, steer in zip(OPTIONS, steers, strict=True):
        if not steer.edits:
            continue  # no pair has a sparse vector
        table = score(rows, task, setup.answers(task, steer))
        for both, at in rows:
            if option.way == "sparse" and not both.learned:
                continue
            place, means = both.place(option.spot), table.iloc[at][["followed", "quality", "value"]].mean().to_dict()
            where = {"layer": place.layer, "scope": "last_prompt" if option.way == "sparse" else place.scope}
            row = {"pair": both.name, **option._asdict(), **where, **means, "n": len(at)}
            found.append(row | {"chosen": False, "edge": False})
    for name, way in dict.fromkeys((row["pair"], row["way"]) for row in found):
        top = best([row for row in found if (row["pair"], row["way"]) == (name, way)], lambda row: row["value"])
        assert top is not None
        ends = (SHARES[0], SHARES[-1]) if way in TWO else (LADDER[0], LADDER[-1])
        top |= {"chosen": True, "edge": top["a"] in ends or top["b"] in ends}
    return pd.DataFrame(found)


def _answers(setup: Setup, pairs: Sequence[Both], choice: "pd.DataFrame") -> "dict[str, pd.DataFrame]":
    """The scored test rows of each way at its choice, and of what it is compared with."""
    kept = choice[choice["chosen"]].to_dict("records")
    top = {(row["pair"], row["way"]): Option(row["way"], row["spot"], row["a"], row["b"]) for row in kept}

    def together(pairs: Sequence[Both], make: Callable[[Both, list[int]], Intervention]) -> "pd.DataFrame":
        task, rows = tasked(pairs, "evaluation", setup.n)
        steer = sum((make(both, at) for both, at in rows), start=Intervention())
        return score(rows, task, setup.answers(task, steer if steer.edits else None))

    found = {"unsteered": together(pairs, lambda both, at: Intervention())}
    for spot, name in enumerate(("first", "second")):
        found[name] = together(pairs, lambda both, at, spot=spot: both.alone(spot, at))
    found["random"] = together(pairs, lambda both, at: both.random(top[both.name, "sum"], at))
    for way in (*TWO, *ONE):
        able = [both for both in pairs if (both.name, way) in top]
        if able:
            found[way] = together(able, lambda both, at, way=way: both.steer(top[both.name, way], at))
    told, rows = tasked(pairs, "evaluation", setup.n, instructed=True)
    return found | {"both in the prompt": score(rows, told, setup.answers(told))}


def two(
    way: str, vectors: Sequence[Direction], strengths: Sequence[float], scope: str, rows: Sequence[int] | None = None
) -> Intervention:
    """Two vectors with a strength each, in their norms."""
    if way == "in turn":
        made = [
            project(d, target=d.mean_projection + (s - 1) * d.norm, scope=scope, rows=rows)
            for d, s in zip(vectors, strengths, strict=True)
        ]
        return made[0] + made[1]
    used = orthogonalised(*vectors) if way == "orthogonalised" else vectors
    made = [add(u, s * d.norm, scope=scope, rows=rows) for u, d, s in zip(used, vectors, strengths, strict=True)]
    return made[0] + made[1]


def orthogonalised(first: Direction, second: Direction) -> list[Direction]:
    """Each vector without its projection on the other."""
    return [
        replace(one, vector=one.vector - (one.vector @ other.unit) * other.unit, mean_projection=float("nan"))
        for one, other in ((first, second), (second, first))
    ]


def findings(tables: "Mapping[str, pd.DataFrame]") -> list[dict[str, Any]]:
    """What was found, as claims with their numbers."""
    table = tables["compound"]
    if not len(table):
        return []
    rows = table[table["pair"] == "all"].set_index("way")
    top = rows.loc["both in the prompt"]
    made = []
    for way in [w for w in (*TWO, "compound vector", "sparse", "random") if w in rows.index]:
        row = rows.loc[way]
        note = f"both and good: {row['value_percent']:.1f} % (both in the prompt {top['value_percent']:.1f})"
        made.append(finding(NAME, f"{way}: gains over no steering", with_ends(row, "value_gain"), "points", note))
        if way not in ("sum", "random"):
            made.append(finding(NAME, f"{way}: differs from the sum", with_ends(row, "value_over_sum"), "points"))
    return made
