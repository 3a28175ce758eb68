"""The choice of a layer, and from rows to tables."""

from typing import TYPE_CHECKING, Any

from mechsteer.analysis.mcnemar import exact_p
from mechsteer.stats import holm, mean_interval
from mechsteer.studies.instruction_vectors.choose import NONE

if TYPE_CHECKING:
    import pandas as pd


def best_layer(table: "pd.DataFrame") -> int:
    """The layer with the highest loose accuracy of those with no more collapsed answers than without steering.

    Ties go to no steering, then to the lowest layer, as in the paper.
    """
    plain = table[table["layer"] == NONE].iloc[0]
    kept = table[(table["layer"] == NONE) | (table["collapsed"] <= plain["collapsed"])].sort_values("layer")
    return int(kept["layer"].iloc[int(kept["loose"].to_numpy().argmax())])


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
        ends = (("percent", found.mean), ("low", found.low), ("high", found.high))
        made |= {f"{form}_{name}": 100 * value for name, value in ends}
    return made | {
        "collapsed_percent": 100 * float(rows["collapsed"].mean()),
        "n_tokens": float(rows["n_tokens"].mean()),
    }
