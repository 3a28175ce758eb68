"""The detector of collapse against outputs labelled by reading them: ``python -m mechsteer.quality.labelled``.

The bundled set (``data/quality/outputs.csv``, its card beside it) has outputs of SmolLM2-135M-Instruct and of the
bundled models, unsteered and steered until they break. Which half an output belongs to is decided by a hash of its
prompt, so that no prompt is in both. The limits lie a quarter above the highest value that any good output of the
``choosing`` half has; everything reported is of the ``measuring`` half.
"""

import csv
import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cache
from typing import Any

from mechsteer.files import data_path
from mechsteer.quality.collapse import LIMITS, Limits, excesses, measures, reason_of
from mechsteer.quality.texts import copied
from mechsteer.stats import share_interval

MARGIN = 1.25
SOUND = ("good", "truncated")
"""The labels of outputs that have not collapsed."""


@dataclass(frozen=True)
class Labelled:
    """One output.

    Attributes:
        half: ``choosing`` or ``measuring``.
        label: ``good``, ``truncated``, ``loop``, ``word salad``, ``copied prompt`` or ``empty``.
        form: ``text``, ``short``, ``list`` or ``JSON``.
        model: Whose it is.
        made: How.
        unsteered: Whether no edit acted.
        n_tokens: How many tokens.
        surprise: Mean, nats; NaN without tokens.
        surprise_p95: 95th percentile, nats.
        surprise_excess: Mean over the entropy, nats.
        prompt: What was asked, as text.
        output: The output.
    """

    half: str
    label: str
    form: str
    model: str
    made: str
    unsteered: bool
    n_tokens: int
    surprise: float
    surprise_p95: float
    surprise_excess: float
    prompt: str
    output: str

    @property
    def sound(self) -> bool:
        """Whether it has not collapsed."""
        return self.label in SOUND

    def excess(self, limits: Limits = LIMITS) -> dict[str, float]:
        """What the detector sees."""
        return dict(excesses(self.output, copied=copied(self.output, self.prompt), limits=limits, **self._measured()))

    def measures(self) -> dict[str, float]:
        """What the limits are chosen by."""
        return measures(self.output, **self._measured())

    def _measured(self) -> dict[str, Any]:
        names = ("n_tokens", "surprise", "surprise_p95", "surprise_excess")
        return {name: getattr(self, name) for name in names}


@cache
def labelled() -> tuple[Labelled, ...]:
    """The bundled set."""
    with data_path("quality", "outputs.csv").open(newline="", encoding="utf-8") as file:
        return tuple(_row(row) for row in csv.DictReader(file))


def _row(row: dict[str, str]) -> Labelled:
    values = {field.name: row[field.name] for field in fields(Labelled)}
    numbers = {name: float(values[name] or math.nan) for name in ("surprise", "surprise_p95", "surprise_excess")}
    return Labelled(
        **values | numbers | {"n_tokens": int(row["n_tokens"]), "unsteered": row["unsteered"] == "True"}  # type: ignore[arg-type]
    )


def chosen_limits(rows: Sequence[Labelled]) -> Limits:
    """A quarter above the highest value of any sound output among the rows."""
    found = [row.measures() for row in rows if row.sound]
    return Limits(**{field.name: round(MARGIN * max(one[field.name] for one in found), 3) for field in fields(Limits)})


@dataclass(frozen=True)
class Report:
    """How well the detector does on some rows.

    Attributes:
        n: How many there are.
        auc: The area under the receiver operating characteristic of the largest excess; ties count half.
        found: How many collapsed outputs are marked, and of how many.
        right_reason: How many of those for the reason that is the label.
        alarms: How many unsteered sound outputs are marked, and of how many.
        steered_alarms: The same of steered sound outputs.
    """

    n: int
    auc: float
    found: tuple[int, int]
    right_reason: int
    alarms: tuple[int, int]
    steered_alarms: tuple[int, int]


def report(rows: Sequence[Labelled], limits: Limits = LIMITS) -> Report:
    """Measure the detector on some rows."""
    seen = [(row, row.excess(limits)) for row in rows]
    scores = {row.sound: [] for row in rows} | {True: [], False: []}
    for row, excess in seen:
        scores[row.sound].append(max(excess.values()))
    wins = sum((bad > good) + 0.5 * (bad == good) for bad in scores[False] for good in scores[True])

    def marked(part: Sequence[bool]) -> tuple[int, int]:
        return sum(part), len(part)

    reasons = [(row, reason_of(excess)) for row, excess in seen]
    return Report(
        n=len(rows),
        auc=wins / (len(scores[False]) * len(scores[True])),
        found=marked([bool(reason) for row, reason in reasons if not row.sound]),
        right_reason=sum(reason == row.label for row, reason in reasons if not row.sound),
        alarms=marked([bool(reason) for row, reason in reasons if row.sound and row.unsteered]),
        steered_alarms=marked([bool(reason) for row, reason in reasons if row.sound and not row.unsteered]),
    )


def other_splits(count: int = 20) -> list[Report]:
    """The same with the prompts divided otherwise, so many times: limits from one half, the report of the other."""
    found = []
    for number in range(count):
        first = [int(hashlib.sha256(f"{number} {row.prompt}".encode()).hexdigest(), 16) % 2 == 0 for row in labelled()]
        halves = {side: [row for row, here in zip(labelled(), first, strict=True) if here == side] for side in (0, 1)}
        found.append(report(halves[0], chosen_limits(halves[1])))
    return found


def main() -> None:
    """Print the limits and what they do on the other half."""
    halves = {half: [row for row in labelled() if row.half == half] for half in ("choosing", "measuring")}
    print(f"Limits chosen on {len(halves['choosing'])} outputs: {chosen_limits(halves['choosing'])}")
    found = report(halves["measuring"])
    print(f"On the other {found.n}: area under the curve {found.auc:.4f}")
    for name, (k, n) in {
        "collapsed outputs found": found.found,
        "false alarms on unsteered good ones": found.alarms,
        "false alarms on steered good ones": found.steered_alarms,
    }.items():
        low, high = share_interval(k, n)
        print(f"  {name}: {k} of {n} ({100 * k / n:.1f} %, 95 % interval {100 * low:.1f} to {100 * high:.1f})")
    print(f"  of the found ones, {found.right_reason} for the reason that is their label")
    others = other_splits()
    areas, alarms = [one.auc for one in others], [one.alarms for one in others]
    print(f"With the prompts divided otherwise {len(others)} times: area {min(areas):.4f} to {max(areas):.4f};")
    share = sum(k for k, _ in alarms) / sum(n for _, n in alarms)
    worst = max(k / n for k, n in alarms)
    print(f"  false ones on unsteered good outputs {100 * share:.1f} % in all, at most {100 * worst:.1f} %")


if __name__ == "__main__":
    main()
