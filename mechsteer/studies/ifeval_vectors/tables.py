"""The choice of an option, and from rows to tables."""

from typing import TYPE_CHECKING, Any

from mechsteer.analysis.mcnemar import exact_p
from mechsteer.stats import holm, mean_interval
from mechsteer.studies.core.choose import best
from mechsteer.studies.ifeval.tables import percent
from mechsteer.studies.ifeval_vectors.vectors import Option
from mechsteer.studies.instruction_vectors.choose import NONE

if TYPE_CHECKING:
    import pandas as pd


def best_option(table: "pd.DataFrame") -> Option:
    """The option with the highest loose accuracy of those with no more collapsed answers than without steering.

    Ties go to no steering, then to the lowest layer, as in the paper, and the smallest share.

    Args:
        table: One row an option: layer, share, loose and collapsed.
    """
    plain = float(table.loc[table["layer"] == NONE, "collapsed"].iloc[0])
    ordered = table.sort_values(["layer", "share"]).to_dict("records")  # no steering has layer -1
    found = best(ordered, lambda r: r["loose"], passes=lambda r: r["layer"] == NONE or r["collapsed"] <= plain)
    assert found is not None  # no steering passes
    return Option(int(found["layer"]), float(found["share"]))


def summary(rows: "pd.DataFrame") -> "pd.DataFrame":
    """By setting: steered, n, strict and loose percent with ends, repaired, broken, p_value, p_adjusted, collapsed.

    ``n_with_vector``: prompts that were steered at all; the others' kind has no vector, or no layer helped it.
    """
    import pandas as pd

    made = []
    for setting, group in rows.groupby("setting", sort=False):
        plain, steered = (group[group["steered"] == s].reset_index(drop=True) for s in (False, True))
        change = steered["loose"].astype(int) - plain["loose"].astype(int)
        repaired, broken = int((change > 0).sum()), int((change < 0).sum())
        for table, name in ((plain, False), (steered, True)):
            line = {
                "setting": setting,
                "steered": name,
                "n_with_vector": int(steered["vector"].sum()),
                **_scores(table),
            }
            tested = {"repaired": repaired, "broken": broken, "p_value": exact_p(repaired, broken)}
            made.append(line | (tested if name else {"repaired": 0, "broken": 0, "p_value": float("nan")}))
    table = pd.DataFrame(made)
    return table.assign(p_adjusted=holm(table["p_value"].tolist()))


def by_kind(rows: "pd.DataFrame") -> "pd.DataFrame":
    """By setting, kind of instruction and whether steered: n, strict and loose percent with ends, collapsed."""
    import pandas as pd

    groups = rows.groupby(["setting", "asked", "steered"], sort=False)
    made = [dict(zip(("setting", "kind", "steered"), key, strict=True)) | _scores(group) for key, group in groups]
    return pd.DataFrame(made)


def _scores(rows: "pd.DataFrame") -> dict[str, Any]:
    made: dict[str, Any] = {"n": len(rows)}
    for form in ("strict", "loose"):
        found = mean_interval(rows[form].astype(float))
        made |= percent(form, found.mean, found.low, found.high)
    return made | {
        "collapsed_percent": 100 * float(rows["collapsed"].mean()),
        "n_tokens": float(rows["n_tokens"].mean()),
    }
