"""Pairs of ways to steer against one way alone at the same dose: does a second way add what more of the first does not?

Two ways at half strength are a larger dose than either. So each pair is compared, on the same prompts, with the better
of its two alone at

- twice the dose: twice the strength (of DIRECTER half the beta);
- equal divergence: as much stronger as moves the model as far as the pair does, by the axis of
  :mod:`mechsteer.decoding.divergence` on prompts that strengths are chosen on. A gate is far away in another sense than
  an intervention is (it takes one token), so that pairs with DIRECTER are matched less well.

Which one is better is decided at twice the dose on the prompts to choose on (best average), not on those reported.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mechsteer.decoding import generate
from mechsteer.decoding.divergence import TOKENS, Probe, probe, said
from mechsteer.studies.compose.methods import METHODS, Point, Ways, together
from mechsteer.studies.core.choose import best
from mechsteer.studies.directer.bench import Setup, Way, adjusted, difference, means
from mechsteer.tasks import Instructions, instructions

if TYPE_CHECKING:
    import pandas as pd

PROMPTS = 3
"""Prompts of each kind that divergence is measured on."""

MOST = 16.0
"""The largest factor on a strength that is tried to reach a pair's divergence; its inverse is the smallest."""

CLOSE, STEPS = 0.05, 7
"""How near, as a part of the pair's divergence, and after how many halvings the search ends."""


@dataclass(frozen=True)
class Scale:
    """How far ways move the model, each measured once.

    Attributes:
        setup: The bench.
        task: The prompts.
        probe: What ways are compared with.
    """

    setup: Setup
    task: Instructions
    probe: Probe

    def of(self, way: Way) -> float:
        """The divergence of a way for the prompts of the task, in nats."""
        import pandas as pd

        options = {"divergence of what is said": TOKENS, "steer": way.steer, "strategy": way.strategy}
        table = self.setup.bench.cell(
            lambda: pd.DataFrame({"divergence": [self.probe.divergence(way)]}), self.task, options
        )
        return float(table["divergence"].iloc[0])


def scale(setup: Setup) -> Scale:
    """Read what the unsteered model says on a few of the prompts to choose on."""
    count = min(PROMPTS, setup.n_validation)
    task = instructions(setup.kinds, notes=setup.notes, n=count, split="validation")
    prompts, size = task.prompts(setup.model), setup.bench.batch_size
    answers = said(generate(setup.model, prompts, max_new_tokens=TOKENS, batch_size=size))
    read = probe(setup.model, prompts, answers, count=len(prompts), batch_size=size)
    return Scale(setup, task, read)


def stronger(method: str, point: Point, factor: float) -> Point:
    """A way so many times as strong; a gate's beta is divided."""
    strength = point.strength / factor if method == "directer" else point.strength * factor
    return point._replace(strength=strength)


def matched(divergence: Callable[[float], float], target: float) -> float:
    """The factor on a strength, from 1 / MOST to MOST, with a divergence: by halving, as it grows with the strength."""
    low, high = 1 / MOST, MOST
    if divergence(high) <= target:
        return high
    factor = 1.0
    for _ in range(STEPS):
        found = divergence(factor)
        if abs(found - target) <= CLOSE * target:
            break
        low, high = (factor, high) if found < target else (low, factor)
        factor = (low * high) ** 0.5
    return factor


def controls(
    setup: Setup, made: Ways, setting: Mapping[str, Point], pairs: Sequence[tuple[str, str]]
) -> "pd.DataFrame":
    """Each pair minus its better single at the same dose.

    One row a pair, control and measure: single, factor and strength (of the single), both divergences, percent of pair
    and single, difference_pp with its interval by topic, p_by_topic, p_adjusted (Holm over the pairs) and verdict, by
    p_adjusted at 5 %.
    """
    import pandas as pd

    axis, doubled, rows = scale(setup), _doubled(setup, made, setting), []
    for names in pairs:
        single = best(names, doubled.__getitem__)
        assert single is not None

        def pair(task: Instructions, names: tuple[str, str] = names) -> Way:
            first, second = (made.make(name, setting[name], task) for name in names)
            return together(first, second)

        def alone(factor: float, task: Instructions, name: str = single) -> Way:
            return made.make(name, stronger(name, setting[name], factor), task)

        target, both = axis.of(pair(axis.task)), setup.samples(pair(setup.task()))
        equal = matched(lambda factor, alone=alone: axis.of(alone(factor, axis.task)), target)
        for control, factor in (("twice the dose", 2.0), ("equal divergence", equal)):
            about = {
                "first": names[0],
                "second": names[1],
                "control": control,
                "single": single,
                "factor": factor,
                "strength": stronger(single, setting[single], factor).strength,
                "pair_divergence": target,
                "single_divergence": axis.of(alone(factor, axis.task)),
            }
            rows += [about | row for row in _compared(setup.samples(alone(factor, setup.task())), both)]
    table = pd.DataFrame(rows)
    table["p_adjusted"] = adjusted(table, "p_by_topic", ["control", "measure"])
    return table.assign(verdict=[_verdict(row) for row in table.to_dict("records")])


def _doubled(setup: Setup, made: Ways, setting: Mapping[str, Point]) -> dict[str, float]:
    """The average of each way alone at twice the dose, on the prompts to choose on."""
    task = setup.validation()
    ways = {name: made.make(name, stronger(name, setting[name], 2.0), task) for name in METHODS}
    setup.prefetch(ways.values(), task)
    return {name: means(setup.samples(way, task))["average_percent"] for name, way in ways.items()}


def _compared(single: "pd.DataFrame", pair: "pd.DataFrame") -> list[dict[str, Any]]:
    """Differences on the same prompts, and both means."""
    kept = ("measure", "difference_pp", "low_pp", "high_pp", "p_by_topic", "n")
    return [
        {
            **{name: row[name] for name in kept},
            "pair_percent": 100 * float(pair[row["measure"]].mean()),
            "single_percent": 100 * float(single[row["measure"]].mean()),
        }
        for row in difference(single, pair)
    ]


def _verdict(row: Mapping[Any, Any]) -> str:
    if row["p_adjusted"] >= 0.05:
        return "not told apart"
    return "above" if row["difference_pp"] > 0 else "below"
