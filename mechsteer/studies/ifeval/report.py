"""What the command line prints of the study :mod:`mechsteer.studies.ifeval`."""

from typing import TYPE_CHECKING

from mechsteer.report import titled
from mechsteer.studies.core.result import Result

if TYPE_CHECKING:
    import pandas as pd

_COLUMNS = ("name", "settings", "n", "prompt_strict_percent", "prompt_loose_percent", "prompt_loose_low")
_MORE = ("prompt_loose_high", "instruction_loose_percent", "repaired", "broken", "p_adjusted", "collapsed", "n_tokens")


def report(result: Result) -> str:
    """The tables that say most, as text."""
    table = result.summary
    summary = table[[*_COLUMNS, *_MORE]].rename(columns=lambda name: name.removesuffix("_percent"))
    title = f"IFEval on {table['model_name'].iloc[0]}; settings chosen on the other half of the prompts (percent)"
    parts = [titled(title, summary)]
    tried = result.tables["validation"]
    if len(tried):
        parts += [
            titled("Choice of settings, on validation prompts (percent points, 95 %)", _choices(tried)),
            *_said(tried),
        ]
    left = int(table["n_left_out"].iloc[0])
    if left:
        parts.append(f"{left} prompts are left out: with their answers they do not fit the model's context.")
    return "\n".join(parts)


def _by(tried: "pd.DataFrame", rule: str) -> "pd.DataFrame":
    """The rows that a rule takes, one a choice."""
    return tried[tried[rule].astype(bool)].reset_index(drop=True)


def _choices(tried: "pd.DataFrame") -> "pd.DataFrame":
    """One row a choice: the setting, what it gains, and what the rule of points would take."""
    chosen, points = _by(tried, "chosen"), _by(tried, "by_points")
    made = chosen[["name", "n", "setting"]].assign(by_points=points["setting"])
    for name in ("gain", "gain_low", "gain_high", "more_collapsed", "more_collapsed_low", "more_collapsed_high"):
        made[name] = 100 * chosen[name].astype(float)
    return made


def _said(tried: "pd.DataFrame") -> list[str]:
    """How sure the choices are."""
    chosen, points = _by(tried, "chosen"), _by(tried, "by_points")
    other = int((chosen["setting"] != points["setting"]).sum())
    better = int((chosen["gain_low"] > 0).sum())
    said = [
        f"Of {len(chosen)} choices, {better} follow more prompts than the unsteered model beyond chance. Where the "
        "best cannot be told from a milder one, the mildest is chosen.",
    ]
    if other:
        said.append(
            f"Another rule (most prompts followed, at most 5 points more collapsed) would choose otherwise in {other}."
        )
    edge = chosen[chosen["edge"].astype(bool)]
    if len(edge):
        names = ", ".join(f"{name} ({setting:g})" for name, setting in zip(edge["name"], edge["setting"], strict=True))
        said.append(f"Chosen at the strongest end of their ladder, beyond which nothing was tried: {names}.")
    return said
