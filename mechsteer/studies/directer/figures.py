"""The figures of the study :mod:`mechsteer.studies.directer`, from its tables alone."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mechsteer import plots
from mechsteer.plots.bars import interval_rows
from mechsteer.plots.base import grid_lines, leftmost, legend_above, look, points, written_map
from mechsteer.plots.maps import SEQUENTIAL
from mechsteer.plots.own import line_width
from mechsteer.plots.paper import current

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TABLES = ("summary", "ablation", "strengths", "sweeps", "gate", "trace", "rankings", "cost")
OPTIONAL = ("heads", "profiled")

_MEASURES = {"adherence_percent": "adherence", "fidelity_percent": "fidelity"}
_NAMES = {
    "pasta": "PASTA",
    "spotlight": "SpotLight",
    "guide": "GUIDE",
    "directer": "DIRECTER",
    "*-marked instruction": "*marked*",
    "difference in means": "mean vector",
}
_SIGNS = {"pasta": "α", "spotlight": "ψ", "guide": "Δ", "directer": "β", "difference in means": "×"}
_SETTINGS = {"chosen on validation": ", chosen", "released code": ", released code"}


def draw(tables: "Mapping[str, pd.DataFrame]") -> "dict[str, Figure]":
    """Every figure of the study, by name, from its tables."""
    with plots.style():
        made = {
            "methods": methods(tables["summary"]),
            "over_steering": over_steering(tables["strengths"]),
            "ablation": ablation(tables["ablation"], tables["rankings"]),
            "sweeps": sweeps(tables["sweeps"], tables["strengths"]),
            "gate": gate(tables["gate"], tables["strengths"]),
            "tokens": tokens(tables["trace"]),
            "cost": cost(tables["cost"]),
        }
        if "heads" in tables and "profiled" in tables:
            made["heads"] = heads(tables["heads"], tables["profiled"])
        return made


def methods(summary: "pd.DataFrame") -> "Figure":
    """Adherence and fidelity of every method, a panel for each number of notes."""
    lengths = list(dict.fromkeys(summary["notes"]))
    rows = len(summary) / len(lengths)
    made, axes = plots.figure(len(lengths), width=3.9, height=0.7 + 0.27 * rows)
    for ax, notes in zip(axes, lengths, strict=True):
        part = summary[summary["notes"] == notes]
        labels = [_label(row["method"], row["setting"], row["strength"]) for row in part.to_dict("records")]
        _dots(ax, part, labels if leftmost(ax) else [""] * len(labels))
        ax.set_title(f"{notes} notes, {int(part['n'].iloc[0])} prompts")
    legend_above(made, axes[0], 2)
    return made


def _name(method: Any) -> str:
    return _NAMES.get(str(method), str(method))


def _colour(measure: str) -> str:
    return plots.COLOURS[list(_MEASURES).index(measure)]


def _label(method: str, setting: str, strength: float) -> str:
    name = _name(method)
    if not strength or setting == "released code":
        return name + _SETTINGS.get(setting, "")
    return f"{name}, {_SIGNS[method]} = {strength:g}{_SETTINGS.get(setting, '')}"


def _dots(ax: "Axes", part: "pd.DataFrame", labels: Sequence[str]) -> None:
    """Adherence and fidelity with intervals, a row a method."""
    for shift, marker, (column, name) in zip((-0.14, 0.14), plots.MARKERS, _MEASURES.items(), strict=False):
        interval_rows(ax, part, column, shift, (marker, _colour(column)), label=name)
    ax.set_yticks(range(len(part)), labels)
    ax.invert_yaxis()
    ax.set(xlim=(-3, 103), xlabel="Prompts followed; sentences true (%)")
    grid_lines(ax, "x")


def over_steering(strengths: "pd.DataFrame") -> "Figure":
    """Adherence and fidelity by the number of layers steered without rejection; dashed: DIRECTER."""
    fixed = strengths[strengths["method"] != "directer"]
    ours = strengths[strengths["method"] == "directer"].iloc[0]
    made, axes = plots.figure(2, width=3.2, height=2.7)
    for ax, (column, name) in zip(axes, _MEASURES.items(), strict=True):
        _band(ax, fixed, "layers", column)
        line = look(0, width=1.5, color=_colour(column), label="keys × 100, no gate")
        ax.plot(fixed["layers"], fixed[column], **line)
        ax.axhline(ours[column], color="black", linestyle="--", linewidth=1, label="DIRECTER")
        ax.axhspan(ours[f"{column}_low"], ours[f"{column}_high"], color="black", alpha=0.08, linewidth=0)
        ax.set(ylim=(-3, 103), ylabel=f"{name.capitalize()} (%)", xlabel="Layers steered (0: zero-shot)")
        ax.set_xticks(list(fixed["layers"]))
        grid_lines(ax)
        ax.legend(loc="upper right" if column == "adherence_percent" else "lower left")
    return made


def _band(ax: "Axes", part: "pd.DataFrame", x: str, y: str) -> None:
    ax.fill_between(part[x], part[f"{y}_low"], part[f"{y}_high"], color=_colour(y), alpha=0.2, linewidth=0)


def ablation(table: "pd.DataFrame", rankings: "pd.DataFrame") -> "Figure":
    """Adherence and fidelity of DIRECTER's variants, and each layer's mean rank by the two averages."""
    made, axes = plots.figure(2, width=3.8, height=2.9)
    gap = " " if current().width is None else "\n"
    labels = [
        _name(row["variant"]) + (f"{gap}({row['seeds']} seeds)" if row["seeds"] > 1 else "")
        for row in table.to_dict("records")
    ]
    _dots(axes[0], table, labels)
    axes[0].set_title(f"{int(table['n'].iloc[0])} prompts")
    axes[0].legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2 if current().width is None else 1)
    for place, (name, part) in enumerate(rankings.groupby("aggregate", sort=False)):
        label = {"receiving": "paper's average", "released": "released code's"}[str(name)]
        axes[1].plot(part["layer"], part["mean_rank"], **look(place + 2, width=1.5), label=label)
    axes[1].invert_yaxis()
    axes[1].set(xlabel="Layer", ylabel="Mean rank (1: kept longest)", title="Which layers are sensitive")
    axes[1].set_xticks(list(dict.fromkeys(rankings["layer"])))
    grid_lines(axes[1])
    axes[1].legend(loc="best")
    return made


def sweeps(table: "pd.DataFrame", strengths: "pd.DataFrame") -> "Figure":
    """Adherence and fidelity by alpha and by beta; dotted: zero-shot."""
    start = strengths[strengths["layers"] == 0].iloc[0]
    made, axes = plots.figure(2, width=3.2, height=2.7)
    for ax, (name, sign) in zip(axes, {"alpha": "α", "beta": "β"}.items(), strict=True):
        part = table[table["parameter"] == name].sort_values("value")
        for place, (column, label) in enumerate(_MEASURES.items()):
            line = look(place, width=1.5, color=_colour(column), label=label)
            _band(ax, part, "value", column)
            ax.plot(part["value"], part[column], **line)
            ax.axhline(start[column], color=line["color"], linestyle=":", linewidth=1)
        ax.set(ylim=(-3, 103), ylabel="DIRECTER (%)")
        grid_lines(ax)
        ax.set_xlabel({"α": "Key scale α (β = 0.5)", "β": "Gate's threshold β (α = 100)"}[sign])
    axes[0].set_xscale("log")
    axes[0].legend(loc="lower left")
    return made


def heads(ranking: "pd.DataFrame", profiled: "pd.DataFrame") -> "Figure":
    """PASTA on one head at a time, on validation prompts; and on the best ones together, on test prompts."""
    made, axes = plots.figure(2, width=3.4, height=2.8)
    grid = ranking.pivot(index="layer", columns="head", values="average_percent").sort_index()
    low, high = float(grid.min().min()), float(grid.max().max())
    written_map(
        axes[0], grid, SEQUENTIAL, (low, high), "{:.0f}".format, white=lambda one: one < (low + high) / 2, fontsize=7
    )
    axes[0].set(xlabel="Head", ylabel="Layer", title="PASTA on one head: average (%)")
    steered = profiled[profiled["heads"] > 0].sort_values("heads")
    start = profiled[profiled["method"] == "zero-shot"].iloc[0]
    for place, (column, name) in enumerate(_MEASURES.items()):
        _band(axes[1], steered, "heads", column)
        axes[1].plot(steered["heads"], steered[column], label=name, **look(place))
        axes[1].axhline(start[column], color=_colour(column), linestyle=":", linewidth=1)
    for count in steered.loc[steered["chosen"], "heads"]:
        axes[1].axvline(count, color="0.4", linestyle="--", linewidth=0.8, label="chosen on validation")
    axes[1].set_xscale("log", base=2)
    axes[1].set_xticks(list(steered["heads"]), [f"{count:g}" for count in steered["heads"]], minor=False)
    axes[1].set(ylim=(-3, 103), xlabel="Best heads steered together (log scale)", ylabel="PASTA (%)")
    axes[1].set_title("Dotted: zero-shot")
    grid_lines(axes[1])
    axes[1].legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2, fontsize=points(7))
    return made


def gate(table: "pd.DataFrame", strengths: "pd.DataFrame") -> "Figure":
    """Adherence against fidelity: each method's strengths without the gate (open), and all under it (filled)."""
    groups = list(table.groupby("method", sort=False))
    made, axes = plots.figure(len(groups), width=2.4, height=2.9)
    for place, (ax, (method, part)) in enumerate(zip(axes, groups, strict=True)):
        _paths(ax, part, plots.COLOURS[place])
        for row, marker, name in (
            (strengths[strengths["layers"] == 0].iloc[0], "x", "zero-shot"),
            (strengths[strengths["method"] == "directer"].iloc[0], "+", "DIRECTER"),
        ):
            ax.plot(*_place(row), color="black", marker=marker, markersize=6, linestyle="", label=name)
        ax.set(xlim=(-3, 108), ylim=(-3, 103), xlabel="Adherence (%)", ylabel="Fidelity (%)")
        ax.set_title(f"{_name(method)} ({_SIGNS[str(method)]})")
        grid_lines(ax, "both")
        ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2, fontsize=points(7))
    return made


def _place(rows: Any) -> "tuple[Any, Any]":
    """Where a row, or rows, of a table lie."""
    x, y = (rows[column] for column in _MEASURES)
    return ([x], [y]) if isinstance(x, float) else (x, y)


def _paths(ax: "Axes", part: "pd.DataFrame", colour: str) -> None:
    """The strengths as a line, and an arrow from the strongest to where the gate takes them."""
    from matplotlib.patheffects import withStroke

    alone, under = part[~part["gate"]], part[part["gate"]].iloc[0]
    ax.plot(
        *_place(alone),
        color=colour,
        marker="o",
        markerfacecolor="white",
        markersize=5,
        linewidth=line_width(1.2),
        label="no gate",
    )
    for row in alone.to_dict("records"):
        at = (row["adherence_percent"], row["fidelity_percent"])
        text = ax.annotate(f"{row['strength']:g}", at, xytext=(5, -8), textcoords="offset points", fontsize=points(7))
        text.set_path_effects([withStroke(linewidth=2, foreground="white")])
    first = alone.iloc[0]
    ends = [(row["adherence_percent"], row["fidelity_percent"]) for row in (under, first)]
    ax.annotate("", *ends, arrowprops={"arrowstyle": "->", "color": colour, "linewidth": 0.7, "shrinkB": 5})
    ax.plot(*_place(under), color=colour, marker="o", markersize=6, linestyle="", label="gate")


def tokens(trace: "pd.DataFrame") -> "Figure":
    """The fate of all new tokens: DIRECTER by beta, and other methods under the gate."""
    layered = trace[trace["run"].isin(trace[trace["layers"] > 0]["run"])]
    groups = {"DIRECTER": (layered, "layers"), "Other methods, β = 0.5": (trace.drop(layered.index), "trial")}
    groups = {name: group for name, group in groups.items() if len(group[0])}
    made, axes = plots.figure(len(groups), width=4.2, height=3.3)
    for ax, (title, (part, column)) in zip(axes, groups.items(), strict=True):
        _fates(ax, part, column)
        ax.set_title(title)
    return made


def _fates(ax: "Axes", part: "pd.DataFrame", column: str) -> None:
    """Stacked bars: skipped, accepted by layers or trial (hatched: another token than the unsteered), rejected."""
    runs = list(dict.fromkeys(part["run"]))
    accepted = sorted(set(part[part["outcome"] == "accepted"][column]), reverse=column == "layers")
    unit = {"layers": "layers", "trial": "trial"}[column]
    kinds: list[tuple[str, int, str, str]] = [("skipped", 0, "gate settled, no trial", "0.85")]
    for value, colour in zip(accepted, plots.COLOURS, strict=False):
        name = f"accepted: {value} {unit}" if unit == "layers" else f"accepted: trial {value}"
        kinds.append(("accepted", value, name.replace("1 layers", "1 layer"), colour))
    kinds.append(("rejected", 0, "all rejected", "0.35"))
    floor = dict.fromkeys(runs, 0.0)
    for outcome, value, label, colour in kinds:
        chosen = part[(part["outcome"] == outcome) & ((part[column] == value) | (outcome != "accepted"))]
        shares, changed = (chosen.set_index("run")[c].reindex(runs).fillna(0.0) for c in _SHARES)
        lefts = [floor[run] for run in runs]
        ax.barh(runs, shares, left=lefts, color=colour, height=0.7, label=label, edgecolor="white", linewidth=0.4)
        ax.barh(runs, changed, left=lefts, color="none", height=0.7, hatch="////", edgecolor="white", linewidth=0)
        for run in runs:
            floor[run] += float(shares[run])
    ax.set_yticks(range(len(runs)), [_run_label(run) for run in runs])
    ax.invert_yaxis()
    ax.set(xlim=(0, 100), xlabel="New tokens (%); hatched: other than unsteered")
    columns = 2 if current().width is None else 1  # two, wider than a narrow panel, would squeeze it
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=columns, fontsize=points(7))


_SHARES = ("share_percent", "changed_percent")


def _run_label(run: str) -> str:
    name = run.removesuffix(" under the gate")
    return _name(name).replace("beta", "β")


def cost(table: "pd.DataFrame") -> "Figure":
    """Time to first token, time a token and memory, single stream."""
    columns = {"first_token_ms": "To first token (ms)", "token_ms": "Each later token (ms)", "peak_mb": "Peak (MB)"}
    made, axes = plots.figure(len(columns), width=2.6, height=2.8)
    names = [_name(method) for method in table["method"]]
    for ax, (column, label) in zip(axes, columns.items(), strict=True):
        ax.bar(names, table[column], color=plots.COLOURS[: len(names)], width=0.7)
        start = float(table.loc[table["method"] == "zero-shot", column].iloc[0])
        ratios = table[f"{column}_times"] if f"{column}_times" in table else table[column] / start
        for spot, (value, ratio) in enumerate(zip(table[column], ratios, strict=True)):
            ax.text(spot, value, f"{ratio:.2f}×", ha="center", va="bottom", fontsize=points(7))
        ax.set(ylabel=label, ylim=(0, 1.15 * float(table[column].max())))
        ax.tick_params(axis="x", labelrotation=30)
        grid_lines(ax)
    row = table.iloc[0]
    threads = "1 thread" if row["threads"] == 1 else f"{row['threads']} threads"
    about = f"One prompt of {row['prompt_tokens']:.0f} tokens at a time, {row['device']}, {threads}"
    made.suptitle(about, fontsize=points(9))
    return made
