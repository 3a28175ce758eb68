"""What the study of DIRECTER measures: cells of prompts, their means, and differences on the same prompts."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from mechsteer.analysis.bootstrap import interval_columns
from mechsteer.analysis.mcnemar import mcnemar
from mechsteer.decoding import Strategy, generate
from mechsteer.errors import MechsteerError
from mechsteer.models import predicting_stack
from mechsteer.prompts import Prompt
from mechsteer.stats import cluster_interval, holm, paired_interval, paired_p
from mechsteer.steering import Intervention
from mechsteer.studies.core.bench import Bench, Wanted
from mechsteer.tasks import Instructed, Instructions, instructions
from mechsteer.tasks.instructions import follows, is_true

if TYPE_CHECKING:
    import pandas as pd

MEASURES = ("adherence", "fidelity", "average")


@dataclass(frozen=True)
class Way:
    """One way to decode.

    Attributes:
        steer: An intervention in every pass, or None.
        strategy: The strategy; None for greedy decoding.
        elsewhere: A seed; then the span to steer is as many tokens somewhere else, drawn with it.
    """

    steer: Intervention | None = None
    strategy: Strategy | None = None
    elsewhere: int | None = None


ZERO_SHOT = Way()


@dataclass(frozen=True)
class Setup:
    """The bench, and the prompts of the study.

    Attributes:
        bench: The model, and where what was measured lies.
        kinds: Kinds of instructions.
        notes: How many notes stand between instruction and question.
        n: Prompts of each kind.
        n_validation: Prompts of each kind to choose strengths and layers on; other topics than the others.
    """

    bench: Bench
    kinds: tuple[str, ...]
    notes: int
    n: int
    n_validation: int

    @property
    def model(self) -> Any:
        """The model."""
        return self.bench.model

    @property
    def layers(self) -> int:
        """How many layers have keys to scale."""
        return predicting_stack(self.model)[1]

    def task(self, notes: int | None = None) -> Instructions:
        """The test prompts."""
        return instructions(self.kinds, notes=self.notes if notes is None else notes, n=self.n)

    def validation(self) -> Instructions:
        """The prompts to choose on."""
        return instructions(self.kinds, notes=self.notes, n=self.n_validation, split="validation")

    def samples(self, way: Way, task: Instructions | None = None) -> "pd.DataFrame":
        """One row a prompt, computed once: see :func:`answers`; and its topic. Default: the test prompts."""
        wanted = self._wanted(way, task)
        return self.bench.rows(wanted).assign(topic=[sample.topic for sample in wanted.task.samples])

    def prefetch(self, ways: Iterable[Way], task: Instructions | None = None) -> None:
        """Compute in workers what will be asked for."""
        self.bench.prefetch(self._wanted(way, task) for way in ways)

    def _wanted(self, way: Way, task: Instructions | None) -> Wanted:
        given: Any = self.task() if task is None else task
        if way.elsewhere is not None:
            given = Elsewhere(given, way.elsewhere)
        return Wanted(given, way.steer, way.strategy, rows=answers)


@dataclass(frozen=True)
class Elsewhere:
    """A task whose prompts have their span ``instruction`` somewhere else, see :func:`moved`."""

    task: Instructions
    seed: int

    @property
    def samples(self) -> tuple[Instructed, ...]:
        """The task's."""
        return self.task.samples

    @property
    def max_new_tokens(self) -> int:
        """The task's."""
        return self.task.max_new_tokens

    def prompts(self, model: Any) -> list[Prompt]:
        """The task's, with the span elsewhere."""
        return [moved(p, self.seed, place) for place, p in enumerate(self.task.prompts(model))]


def answers(
    model: Any,
    task: Instructions | Elsewhere,
    *,
    steer: Intervention | None = None,
    strategy: Strategy | None = None,
    batch_size: int,
) -> "pd.DataFrame":
    """One row a prompt: sample, kind, output, adherence, fidelity and average (0 to 1).

    Under a gate also counts of new tokens: steps, skipped, rejected, changed (another token than the unsteered
    model's), accepted_K and changed_K for the schedule's trial K.
    """
    import pandas as pd

    made = generate(
        model,
        task.prompts(model),
        steer=steer,
        strategy=strategy,
        max_new_tokens=task.max_new_tokens,
        batch_size=batch_size,
    )
    rows = []
    for number, (sample, output) in enumerate(zip(task.samples, made.texts, strict=True)):
        adherence, fidelity = float(follows(sample, output)), is_true(sample, output)
        scores = {"adherence": adherence, "fidelity": fidelity, "average": (adherence + fidelity) / 2}
        rows.append({"sample": number, "kind": sample.kind, "output": output, **scores})
    table = pd.DataFrame(rows)
    return table if made.trace.empty else pd.concat([table, _counts(made.trace, len(table))], axis=1)


def _counts(trace: "pd.DataFrame", prompts: int) -> "pd.DataFrame":
    """The trace by prompt: how many tokens had which fate."""
    import pandas as pd

    changed = trace["token"] != trace["raw_token"]
    flags = {
        "steps": trace["token"] >= 0,
        "skipped": trace["skipped"],
        "rejected": ~trace["skipped"] & (trace["accepted"] == 0),
        "changed": changed,
    }
    for number in range(1, int(trace["accepted"].max()) + 1):
        flags |= {f"accepted_{number}": trace["accepted"] == number}
        flags |= {f"changed_{number}": changed & (trace["accepted"] == number)}
    counts = pd.DataFrame(flags).astype(int).groupby(trace["prompt"]).sum()
    return counts.reindex(range(prompts), fill_value=0).reset_index(drop=True)


def moved(p: Prompt, seed: int, place: int) -> Prompt:
    """The prompt with its span ``instruction`` on as many tokens in a row, somewhere else in notes and question.

    Raises:
        MechsteerError: if there are no notes and no question.
    """
    inside = p.positions("instruction")
    others = [i for name in ("context", "task") if name in p.spans for i in p.positions(name)]
    if not inside or not others:
        raise MechsteerError(f"There is nowhere else to put the span of {p!r}.")
    first, last = max(min(others), max(inside) + 1), max(others) + 1
    count = min(len(inside), last - first)
    generator = torch.Generator().manual_seed(seed * 1_000_003 + place)
    start = first + int(torch.randint(last - first - count + 1, (), generator=generator))
    return replace(p, spans={**p.spans, "instruction": [(start, start + count)]})


def means(table: "pd.DataFrame") -> dict[str, Any]:
    """Means of the three measures in percent with intervals by topic, and the number of prompts."""
    found: dict[str, Any] = {}
    for name in MEASURES:
        ends = cluster_interval(table[name].tolist(), topics(table))[:3]
        found |= interval_columns([f"{name}_percent"], ends, factor=100)
    return {**found, "n": len(table)}


def topics(table: "pd.DataFrame") -> list[Any]:
    """What the prompts of a table are clustered by: their topics, each of which comes in several kinds."""
    return (table["topic"] if "topic" in table else table.index).tolist()


def pooled(tables: "Sequence[pd.DataFrame]") -> "pd.DataFrame":
    """The same prompts under several seeds: each prompt's mean."""
    return tables[0].assign(**{name: sum(t[name] for t in tables) / len(tables) for name in MEASURES})


def difference(before: "pd.DataFrame", after: "pd.DataFrame") -> list[dict[str, Any]]:
    """What changed on the same prompts: a row a measure, in percentage points, with intervals by topic.

    ``p_by_topic`` flips the signs of whole topics, and decides the verdict, at 5 %; ``p_value``, of adherence alone, is
    McNemar's over prompts.
    """
    rows = []
    for name in MEASURES:
        change = (after[name] - before[name]).tolist()
        middle, low, high = (100 * x for x in paired_interval(change, topics(before))[:3])
        row: dict[str, Any] = {"measure": name, "difference_pp": middle, "low_pp": low, "high_pp": high}
        row["p_by_topic"] = paired_p(change, topics(before))
        if name == "adherence" and all(x in (0, 1) for x in (*before[name], *after[name])):  # no means over seeds
            row |= mcnemar(before[name], after[name])._asdict()
        apart = row["p_by_topic"] < 0.05
        row["verdict"] = "not told apart" if not apart else "above" if middle > 0 else "below"
        rows.append({**row, "n": len(change)})
    return rows


def adjusted(table: "pd.DataFrame", p: str, by: Sequence[str]) -> list[float]:
    """Holm's adjustment of a column of p-values, among the rows that are alike in some columns."""
    made = table[p].groupby([table[name] for name in by], sort=False).transform(lambda part: holm(part.tolist()))
    return made.tolist()


def fates(table: "pd.DataFrame", sizes: Sequence[int]) -> list[dict[str, Any]]:
    """How all new tokens were chosen: a row an outcome, ``skipped``, ``accepted`` by trial, ``rejected``.

    Columns: outcome, trial (0 where none was accepted), layers (that it steered; ``sizes`` by trial, 0 for none),
    share_percent of all new tokens, changed_percent (of all new tokens: this outcome, and another token than the
    unsteered one), tokens (all).
    """
    total = int(table["steps"].sum())

    def row(outcome: str, trial: int, layers: int, count: Any, changed: Any) -> dict[str, Any]:
        shares = {"share_percent": 100 * float(count) / total, "changed_percent": 100 * float(changed) / total}
        return {"outcome": outcome, "trial": trial, "layers": layers, **shares, "tokens": total}

    def sum_of(column: str) -> int:
        return int(table[column].sum()) if column in table else 0

    accepted = [
        row("accepted", number, size, sum_of(f"accepted_{number}"), sum_of(f"changed_{number}"))
        for number, size in enumerate(sizes, 1)
    ]
    skipped, rejected = row("skipped", 0, 0, sum_of("skipped"), 0), row("rejected", 0, 0, sum_of("rejected"), 0)
    return [skipped, *accepted, rejected]
