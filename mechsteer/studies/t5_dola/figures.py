"""The figures of the study :mod:`mechsteer.studies.t5_dola`, from its tables alone."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mechsteer import plots
from mechsteer.html_report import Heat
from mechsteer.plots.base import legend_above, points
from mechsteer.studies.html_report.examples import examples, layer_of

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

_SIDE_LABELS = {"recall": "recall without an instruction", "copy": "copying in neutral sentences"}


TABLES = ("grid", "controls", "side_effects")
OPTIONAL = ("published",)


def draw(tables: "Mapping[str, pd.DataFrame]") -> "dict[str, Figure]":
    """Every figure of the study, by name, from its tables."""
    grid = tables["grid"]
    with plots.style():
        made = {
            "heatmap_relative": heatmap(grid, "relative"),
            "heatmap_absolute": heatmap(grid, "absolute"),
            "controls": control_strip(tables["controls"]),
            "side_effects": side_effects(tables["side_effects"], grid),
        }
        if "published" in tables:
            made["published"] = published(grid, tables["published"])
    return made


def heats(tables: "Mapping[str, pd.DataFrame]", folder: Path) -> list[Heat]:
    """The improvement by layer and strength for the study's page, with answers of each cell."""
    grid = tables["grid"]
    cells = grid[(grid["kind"] == "relative") & (grid["split"] == "evaluation")]
    steps = {(row["layer"], round(row["scale"], 6)): row["strength"] for row in cells.to_dict("records")}

    def place(rows: "pd.DataFrame") -> tuple[float, float] | None:
        layer, first = layer_of(str(rows["site"].iloc[0])), rows.iloc[0]
        strength = steps.get((layer, round(float(first["strength"]), 6)))
        other = first["method"] != "add" or first["task"].endswith("[mining]") or "target" not in rows
        return None if strength is None or layer is None or other else (strength, layer)

    found = examples(folder, place)
    names = {"improvement_pp": "Target more likely than trap", "success_improvement_pp": "Target in greedy output"}
    return [
        Heat(
            f"{title}: improvement over the unsteered model (points), by layer and strength (mean residual norms)",
            cells,
            "strength",
            "layer",
            value,
            signed=True,
            examples=found,
        )
        for value, title in names.items()
    ]


def heatmap(grid: "pd.DataFrame", kind: str) -> "Figure":
    """Improvement over the unsteered model by layer and strength: log-probability accuracy, and greedy success."""
    cells = grid[(grid["kind"] == kind) & (grid["split"] == "evaluation")]
    limit = _limit(cells, "improvement_pp", "success_improvement_pp")
    height = 1.1 + 0.28 * cells["layer"].nunique()
    made, axes = plots.figure(2, width=3.0, height=height)
    unit = "Strength (mean residual norms)" if kind == "relative" else "Strength (absolute)"
    panels = (("improvement_pp", "Target more likely than trap"), ("success_improvement_pp", "Target in greedy output"))
    image = None
    for ax, (value, title) in zip(axes, panels, strict=True):
        image = plots.heatmap(
            ax,
            cells,
            x="strength",
            y="layer",
            value=value,
            xlabel=unit,
            ylabel="Decoder layer",
            title=title,
            limit=limit,
        )
    _colorbar(made, image, axes)
    return made


def control_strip(controls: "pd.DataFrame") -> "Figure":
    """Accuracy of the mined vector beside the unsteered model, the flipped vector and every random direction."""
    made, axes = plots.figure(2, width=3.0, height=2.8)
    order = ["mined", "random", "mined, flipped"]
    panels = (
        ("correct_percent", "Target likelier than trap (%)"),
        ("strict_percent", "Greedy answer is target (%)"),
    )
    for ax, (score, label) in zip(axes, panels, strict=True):
        unsteered = float(controls.loc[controls["control"] == "unsteered", score].iloc[0])
        ax.axhline(unsteered, color="0.4", linewidth=1, linestyle="--", label="unsteered")
        for place, name in enumerate(order):
            rows = controls[controls["control"] == name]
            values = rows[score].to_numpy()
            spread = [place + 0.25 * ((7 * i) % 11 / 5 - 1) if len(values) > 1 else place for i in range(len(values))]
            if len(values) == 1:
                ends = rows[[f"{score}_low", f"{score}_high"]].iloc[0].tolist()
                ax.plot([place, place], ends, color=plots.COLOURS[place], linewidth=1)
            ax.scatter(
                spread, values, s=18, color=plots.COLOURS[place], marker=plots.MARKERS[place], alpha=0.8, zorder=3
            )
        count = int((controls["control"] == "random").sum())
        ax.set_xticks(range(len(order)), ["mined", f"random\n({count})", "flipped"])
        ax.set(ylabel=label, ylim=(-3, 103), xlim=(-0.6, len(order) - 0.4))
        ax.legend(loc="best")
    layer, scale = int(controls["layer"].iloc[0]), float(controls["scale"].iloc[0])
    made.suptitle(f"Same norm, other directions (decoder layer {layer}, norm {scale:.3g})", fontsize=points(10))
    return made


def side_effects(side: "pd.DataFrame", grid: "pd.DataFrame") -> "Figure":
    """What grows with strength and what breaks: trap accuracy, recall and copying at the chosen layer."""
    import pandas as pd

    layer = int(side["layer"].iloc[0])
    cells = grid[(grid["kind"] == "relative") & (grid["split"] == "evaluation") & (grid["layer"] == layer)]
    unsteered = float((cells["correct_percent"] - cells["improvement_pp"]).iloc[0])
    traps = pd.DataFrame(
        {
            "strength": [0.0, *cells["strength"]],
            "percent": [unsteered, *cells["correct_percent"]],
            "percent_low": [math.nan, *cells["correct_percent_low"]],
            "percent_high": [math.nan, *cells["correct_percent_high"]],
            "task": "traps: target more likely",
        }
    )
    table = pd.concat([traps, side.assign(task=side["task"].replace(_SIDE_LABELS))], ignore_index=True)
    made, (ax,) = plots.figure(1, width=4.2, height=3.2)
    words = {"xlabel": "Strength (mean residual norms)", "ylabel": "Accuracy (%)"}
    title = f"Steering decoder layer {layer}"
    plots.curves(ax, table, x="strength", y="percent", by="task", **words, title=title, legend=False)
    ax.set(ylim=(-3, 103), xticks=sorted(table["strength"].unique()))
    legend_above(made, ax, 2)
    return made


def published(grid: "pd.DataFrame", paper: "pd.DataFrame") -> "Figure":
    """The paper's heat map beside ours: improvement of greedy success by layer and absolute strength."""
    ours = grid[(grid["kind"] == "absolute") & (grid["split"] == "evaluation")].rename(
        columns={"improvement_pp": "unused", "success_improvement_pp": "improvement_pp"}
    )
    limit = max(_limit(ours, "improvement_pp"), _limit(paper, "improvement_pp"))
    made, axes = plots.figure(2, width=3.0, height=1.1 + 0.28 * max(ours["layer"].nunique(), paper["layer"].nunique()))
    image = None
    for ax, table, title in zip(axes, (paper, ours), ("Published", "Here"), strict=True):
        image = plots.heatmap(
            ax, table, x="strength", y="layer", value="improvement_pp", xlabel="Strength (absolute)",
            ylabel="Decoder layer", title=title, limit=limit,
        )  # fmt: skip
    _colorbar(made, image, axes)
    return made


def _limit(table: "pd.DataFrame", *columns: str) -> float:
    return max(10.0, *(float(table[column].abs().max()) for column in columns))


def _colorbar(made: "Figure", image: Any, axes: Any) -> None:
    bar = made.colorbar(image, ax=axes, shrink=0.9, pad=0.02)
    bar.set_label("Change from unsteered (percentage points)")
    bar.outline.set_visible(False)


DRAWN = {"controls": control_strip}
"""The functions of the figures that are called otherwise."""
