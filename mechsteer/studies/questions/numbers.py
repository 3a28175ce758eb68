"""How many pairs does an instruction vector need, and how diverse?

Vectors v from n pairs of three pools, each draw with two sides that share no prompt:

- ``repeat``: the cosine of the two sides' vectors. What a pool has one of (a topic, a wording) is another one on the
  other side: would a second person's vector be the same?
- ``reference``: the cosine with the vector of the evaluation topics, many topics and wordings.

If the difference of a pair is a vector common to all, plus what a pool shares, plus noise that is its own, the expected
cosine is about

    c(n) = C n / (n + k),

C < 1 for what no number of pairs mends, k the noise in pairs. C and k are fitted by least squares to ``repeat``, with
95 % intervals from resampled kinds and draws; ``expected_k`` is tr(S) / |m|^2 of the single differences of the widest
pool (mean m, covariance S), with no fit.

Controls: ``shuffled`` (in one of every two pairs, by a coin's toss, the prompts have changed places) and ``unpaired``
(the prompts without the instruction are about other topics). Steering uses the directions alone: every vector is as
long as the kind's own, at the kind's place.
"""

import random
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from mechsteer.directions import Direction
from mechsteer.steering import Intervention
from mechsteer.studies.questions import pools
from mechsteer.studies.questions.bench import Place, Setup, steered
from mechsteer.studies.questions.fits import fit_of
from mechsteer.studies.questions.scores import averaged, differences, finding, scored, shares, with_ends

if TYPE_CHECKING:
    import pandas as pd

NAME = "numbers"
SIZES = (1, 2, 4, 8, 16, 32, 64)
STEERED = (1, 8, 64)
STEERED_DRAWS = 2
SHUFFLED, UNPAIRED = "shuffled", "unpaired"

Vector = Float[Tensor, "width"]


def run(setup: Setup, places: Mapping[str, Place]) -> "dict[str, pd.DataFrame]":
    """The tables ``numbers_cosine``, ``numbers_fit`` and ``numbers_steering``."""
    import pandas as pd

    about = {"draws": setup.draws, "pairs": setup.pairs, "topics": setup.topics, "shuffled": "halves"}
    parts = []
    for kind in setup.kinds:
        options = {"numbers": about, "kind": kind, "layer": places[kind].layer}
        parts.append(setup.bench.cell(lambda kind=kind: _cosines(setup, kind, places[kind].layer), None, options))
    cosine = pd.concat(parts, ignore_index=True)
    return {"numbers_cosine": cosine, "numbers_fit": fits(cosine), "numbers_steering": steering(setup, places)}


def sizes(largest: int) -> list[int]:
    """Numbers of pairs up to the largest."""
    return [n for n in SIZES if n <= largest]


def vectors(with_it: Tensor, without: Tensor, n: int, signs: Tensor | None = None) -> Vector:
    """The difference in means of the first n pairs; with signs, of pairs whose sides may have changed places."""
    change = (with_it - without)[:n]
    return (change if signs is None else change * signs[:n, None]).mean(0)


def coin(kind: str, draw: int, count: int) -> Float[Tensor, "pairs"]:
    """1 or -1 for each pair, of every two one each: what is left of any even number is noise."""
    rng = random.Random(f"{kind} {draw}")
    tossed = [sign for _ in range((count + 1) // 2) for sign in rng.choice(((1.0, -1.0), (-1.0, 1.0)))]
    return torch.tensor(tossed[:count])


def _sides(setup: Setup, kind: str, pool: str, draw: int, layer: int) -> list[tuple[Tensor, Tensor]]:
    about = {"draw": draw, "topics": setup.topics}
    return [setup.both(pools.drawn(kind, pool, setup.pairs, side=side, **about), layer) for side in (0, 1)]


def _cosines(setup: Setup, kind: str, layer: int) -> "pd.DataFrame":
    """One row a pool, draw and n: repeat and reference; ``expected_k`` of the widest pool."""
    import pandas as pd

    far = pools.drawn(kind, pools.WIDE, 2 * setup.pairs, draw=0, topics=pools.topics_of("evaluation"))
    goal = vectors(*setup.both(far, layer), len(far))
    rows: list[dict[str, Any]] = []
    for draw in range(setup.draws):
        sides = {pool: _sides(setup, kind, pool, draw, layer) for pool in pools.POOLS}
        wide = sides[pools.WIDE]
        expected = noise_in_pairs(torch.cat([a - b for a, b in wide]))
        signs = [coin(kind, 2 * draw + side, setup.pairs) for side in (0, 1)]
        crossed = [(wide[0][0], wide[1][1]), (wide[1][0], wide[0][1])]
        for n in sizes(setup.pairs):
            found = {pool: [vectors(*side, n) for side in both] for pool, both in sides.items()}
            found[SHUFFLED] = [vectors(*side, n, s) for side, s in zip(wide, signs, strict=True)]
            found[UNPAIRED] = [vectors(*side, n) for side in crossed]
            for pool, (one, other) in found.items():
                row = {"kind": kind, "layer": layer, "pool": pool, "draw": draw, "pairs": n, "expected_k": expected}
                # the two sides of unpaired vectors share states, so they do not repeat each other
                repeat = float("nan") if pool == UNPAIRED else cosine(one, other)
                rows.append(row | {"repeat": repeat, "reference": cosine(one, goal), "norm": float(one.norm())})
    return pd.DataFrame(rows)


def cosine(a: Vector, b: Vector) -> float:
    """The cosine of two vectors."""
    return float(torch.nn.functional.cosine_similarity(a.double(), b.double(), dim=0))


def noise_in_pairs(changes: Float[Tensor, "pairs width"]) -> float:
    """tr(S) / |m|^2, the |m|^2 without the part that noise has in it; infinite where nothing is left."""
    x = changes.double()
    spread = float(x.var(0).sum())
    size = float(x.mean(0).square().sum()) - spread / len(x)
    return spread / size if size > 0 else float("inf")


def fits(table: "pd.DataFrame") -> "pd.DataFrame":
    """The fit of each pool, of all kinds together and of each: ceiling, k, r2, with intervals, and expected_k."""
    import pandas as pd

    rows = []
    for pool in (*pools.POOLS, SHUFFLED):
        part = table[table["pool"] == pool]
        for kind, some in [("all", part), *part.groupby("kind", sort=False)]:
            expected = float(some["expected_k"].median()) if pool == pools.WIDE else float("nan")
            rows.append({"pool": pool, "kind": kind, **fit_of(some), "expected_k": expected})
    return pd.DataFrame(rows)


def steering(setup: Setup, places: Mapping[str, Place]) -> "pd.DataFrame":
    """One row a pool and n: the measures of answers, and what they are apart from the widest pool's largest n.

    The first row is the unsteered model's.
    """
    import pandas as pd

    task, knows = setup.task(), setup.knows
    known = [n for n in STEERED if n <= setup.pairs]
    draws = range(min(setup.draws, STEERED_DRAWS))
    keys = [(pool, n, draw) for pool in (*pools.POOLS, SHUFFLED) for n in known for draw in draws]
    steers = {key: _steer(setup, places, *key) for key in keys}
    setup.prefetch(task, steers.values())
    answers = {key: scored(setup.answers(task, steer), knows) for key, steer in steers.items()}
    plain = scored(setup.answers(task), knows)
    found = {
        (pool, n): averaged([answers[pool, n, draw] for draw in draws])
        for pool, n in dict.fromkeys((pool, n) for pool, n, _ in keys)
    }
    most = found[pools.WIDE, known[-1]]
    rows = [{"pool": "unsteered", "pairs": 0, "draws": 0, **shares(plain), **differences(plain, most, "apart")}]
    for (pool, n), table in found.items():
        row = {"pool": pool, "pairs": n, "draws": len(draws), **shares(table)}
        rows.append(row | differences(table, most, "apart") | differences(table, plain, "gain"))
    return pd.DataFrame(rows)


def _steer(setup: Setup, places: Mapping[str, Place], pool: str, n: int, draw: int) -> Intervention:
    def vector(kind: str) -> Direction:
        layer = places[kind].layer
        with_it, without = _sides(setup, kind, pools.WIDE if pool == SHUFFLED else pool, draw, layer)[0]
        if pool == SHUFFLED:
            kept = coin(kind, 2 * draw, setup.pairs)[:, None] > 0
            with_it, without = torch.where(kept, with_it, without), torch.where(kept, without, with_it)
        return setup.direction(with_it[:n], without[:n], layer)

    own = {kind: setup.vector(kind, places[kind].layer).norm for kind in setup.kinds}
    return steered(setup.task(), places, {kind: vector(kind) for kind in setup.kinds}, own)


def findings(tables: "Mapping[str, pd.DataFrame]") -> list[dict[str, Any]]:
    """What was found, as claims with their numbers."""
    every = tables["numbers_fit"].query("kind == 'all'").set_index("pool")
    rows = {(row["pool"], row["pairs"]): row for row in tables["numbers_steering"].to_dict("records")}
    most = int(tables["numbers_steering"]["pairs"].max())
    made = []
    for pool in (*pools.POOLS, SHUFFLED):
        row = every.loc[pool]
        low, high = (row[name] for name in ("k_low", "k_high"))
        note = f"c(n) = C n / (n + k) with k = {row['k']:.2g} [{low:.2g}, {high:.2g}] pairs, r2 {row['r2']:.2f}"
        if pool == pools.WIDE:
            note += f"; single differences let expect k = {row['expected_k']:.2g}"
        claim = f"Vectors from {pool} have a ceiling C below 1 that more pairs do not pass"
        made.append(finding(NAME, claim, with_ends(row, "ceiling"), "cosine", note, reference=1.0))
    for pool, n, claim in (
        (pools.WIDE, 1, f"One pair steers otherwise than {most}"),
        (pools.NARROW, most, f"{most} pairs of one topic and wording steer otherwise than {most} of many"),
        (SHUFFLED, most, f"{most} shuffled pairs steer otherwise than {most} right ones"),
    ):
        row = rows[pool, n]
        note = f"followed and good: {row['value_percent']:.1f} %"
        made.append(finding(NAME, claim, with_ends(row, "value_apart"), "points", note))
    return made
