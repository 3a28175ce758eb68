"""GUIDE against the simplest baseline, the instruction behind the question, on the same prompts."""

from typing import TYPE_CHECKING, Any

from mechsteer.stats import holm, paired_interval, paired_p
from mechsteer.studies.core.bench import Bench, Wanted
from mechsteer.studies.guide.tables import bias, with_clusters
from mechsteer.studies.guide.tasks import TaskByLength, worded

if TYPE_CHECKING:
    import pandas as pd

LAST = "at the end"
MEASURES = ("score", "fidelity", "true_sentences")


def against_last(bench: Bench, series: TaskByLength) -> "pd.DataFrame":
    """The bias on the instruction where it stands minus the unbiased model with the instruction last.

    All cells are those of other tables.

    Returns:
        One row a length, delta and measure (score and fidelity in percentage points, true_sentences in sentences):
        guide, last (means), difference with low and high (95 %, by topic), p_by_topic, and p_adjusted (Holm, over
        lengths and deltas).
    """
    import pandas as pd

    rows: list[dict[str, Any]] = []
    for length in series.lengths:
        task = series.task(length)
        behind = Wanted(worded(task, LAST))
        last = with_clusters(bench.known(behind), series, behind)
        for delta in series.deltas:
            where_it_is = Wanted(task, bias(series, delta))
            here = with_clusters(bench.known(where_it_is), series, where_it_is)
            for measure in MEASURES:
                if here[measure].notna().any():
                    where = {
                        "task": series.name,
                        "length": length,
                        "unit": series.unit,
                        "delta": delta,
                        "measure": measure,
                    }
                    rows.append(where | _compared(last, here, measure))
    table = pd.DataFrame(rows)
    adjusted = table.groupby("measure")["p_by_topic"].transform(lambda part: holm(part.tolist()))
    return table.assign(p_adjusted=adjusted)


def _compared(last: "pd.DataFrame", here: "pd.DataFrame", measure: str) -> dict[str, Any]:
    unit = 1.0 if measure == "true_sentences" else 100.0
    change, clusters = (here[measure] - last[measure]).tolist(), here["cluster"].tolist()
    mean, low, high, n = paired_interval(change, clusters)
    return {
        "guide": unit * float(here[measure].mean()),
        "last": unit * float(last[measure].mean()),
        "difference": unit * mean,
        "low": unit * low,
        "high": unit * high,
        "p_by_topic": paired_p(change, clusters),
        "n": n,
    }
