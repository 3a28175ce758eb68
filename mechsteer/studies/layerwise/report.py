"""What the command line prints of the study :mod:`mechsteer.studies.layerwise`."""

from typing import TYPE_CHECKING, Any

from mechsteer.report import titled
from mechsteer.studies.core.result import Result

if TYPE_CHECKING:
    import pandas as pd


def report(result: Result) -> str:
    """The tables that say most, as text."""
    tables, summary = result.tables, result.summary
    shown = {"exact_match_percent": "exact match", "exact_match_percent_low": "low", "exact_match_percent_high": "high"}
    name, layer = summary["model_name"].iloc[0], int(summary["layer"].iloc[0])
    layers = tables["layers"]
    by_layer = layers.pivot(index="layer", columns="rule", values="exact_match_percent").reset_index()
    every = tables["examples"].query("rule == 'mean of the rules'")[["method", "examples", *shown]]
    sparse = tables["tradeoff"][["rule", "l1_share", "weight", "heads", "entries", *shown]]
    title = f"Learned vectors on {name}, layer {layer}: exact match on test words (percent)"
    parts = [
        titled(title, summary.drop(columns="layer")),
        titled(f"By layer, unregularised, {layers['seeds'].iloc[0]} seeds (percent)", by_layer),
        titled(
            "By the number of training words, mean of the rules (percent, 95 % interval)", every.rename(columns=shown)
        ),
        titled(
            "Regularised: weights as parts of the largest, heads and entries that are not zero (percent)",
            sparse.rename(columns=shown),
            decimals=2,
        ),
    ]
    if "calculus" in tables:
        parts += [_composed(tables["calculus"], shown), _opinions(tables["opinions"])]
    return "\n".join([*parts, "\nNo number of the paper could be obtained, so none is beside these."])


def found(summary: "pd.DataFrame") -> dict[str, list[str]]:
    """Exact match of each way to say the rule, by rule."""
    beside = ("layer", "n", "sparse_heads")
    numbers = [str(name) for name in summary.columns if summary[name].dtype.kind == "f"]
    ways = [name for name in numbers if name not in beside and not name.endswith(("_low", "_high"))]
    return {
        "Exact match on test words": [
            f"{row['rule']}: {', '.join(_way(row, way) for way in ways if row[way] == row[way])}."
            for row in summary.to_dict("records")
        ]
    }


def _way(row: "dict[Any, Any]", way: str) -> str:
    heads = f" in {row['sparse_heads']:g} heads" if way == "sparse" else ""
    ends = f" (95 % interval {row[f'{way}_low']:.1f} to {row[f'{way}_high']:.1f})" if f"{way}_low" in row else ""
    return f"{way}{heads} {row[way]:.1f} %{ends}"


def _composed(calculus: "pd.DataFrame", shown: dict[str, str]) -> str:
    return titled("Composed rules (percent)", calculus[["rule", "method", *shown, "n"]].rename(columns=shown))


def _opinions(table: "pd.DataFrame") -> str:
    columns = [name for measure in ("kl", "tv", "mass") for name in (measure, f"{measure}_low", f"{measure}_high")]
    title = "Opinions of groups: KL (nats), total variation, probability of the answers"
    return titled(title, table[["group", "method", *columns]], decimals=3)
