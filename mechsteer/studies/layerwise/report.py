"""What the command line prints of the study :mod:`mechsteer.studies.layerwise`."""

from typing import TYPE_CHECKING

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


def _composed(calculus: "pd.DataFrame", shown: dict[str, str]) -> str:
    return titled("Composed rules (percent)", calculus[["rule", "method", *shown, "n"]].rename(columns=shown))


def _opinions(table: "pd.DataFrame") -> str:
    columns = [name for measure in ("kl", "tv", "mass") for name in (measure, f"{measure}_low", f"{measure}_high")]
    title = "Opinions of groups: KL (nats), total variation, probability of the answers"
    return titled(title, table[["group", "method", *columns]], decimals=3)
