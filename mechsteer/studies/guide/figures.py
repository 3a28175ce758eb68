"""The figures of the study :mod:`mechsteer.studies.guide`, from its tables alone."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mechsteer import plots
from mechsteer.plots.bars import errors, grouped_bars
from mechsteer.plots.base import grid_lines, legend_above, legend_columns, look, points, written_map
from mechsteer.plots.maps import SEQUENTIAL
from mechsteer.plots.own import line_width, marker_size
from mechsteer.plots.paper import current
from mechsteer.studies.core.published import published
from mechsteer.studies.guide.published import MODEL, SAME

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TABLES = ("summary", "by_strength", "prediction", "published")
OPTIONAL = ("baselines", "layers", "influence", "choice", "needle", "flows")

_TITLES = {
    "instructions": "Instructions",
    "french": "Summaries in French",
    "needle": "Needle",
    "json": "JSON schema",
}
_AXES = {"notes": "Notes in between", "words": "Words of text"}
_DELTAS = (0.0, 0.25, 0.5, 1.0, 2.0, 3.0, 5.0)  # each has its colour in every panel
_UPPERCASE = "0.45"
_WORDINGS = ("plain, Δ", "uppercase", "Important: …", "You must …", "*marked*", "twice", "at the end")
_ALL, _ONE, _TYPES = "all prompts", "one length", "one length and kind"
_WITHIN = {"all": _ALL, "length": _ONE, "length and kind": _TYPES}


def draw(tables: "Mapping[str, pd.DataFrame]") -> "dict[str, Figure]":
    """Every figure of the study, by name, from its tables."""
    with plots.style():
        made = {
            "by_length": by_length(tables["by_strength"], tables["published"]),
            "by_delta": by_delta(tables["summary"]),
            "predictors": predictors(tables["prediction"]),
        }
        if "needle" in tables:
            made["needle"] = needle(tables["needle"])
        if "baselines" in tables:
            made["wordings"] = wordings(tables["baselines"], tables["by_strength"])
            made["layers"] = layers(tables["layers"])
            made["choice"] = choice(tables["influence"], tables["choice"])
        if "flows" in tables:
            made["flows"] = flows(tables["flows"])
    return made


def flows(table: "pd.DataFrame") -> "Figure":
    """Influence and rollout of the instruction by distance, a line for each layer."""
    import matplotlib as mpl

    quantities = list(dict.fromkeys(table["quantity"]))
    made, axes = plots.figure(len(quantities), width=3.3, height=2.7)
    layers = sorted(set(table["layer"]))
    for ax, quantity in zip(axes, quantities, strict=True):
        for place, layer in enumerate(layers):
            part = table[(table["quantity"] == quantity) & (table["layer"] == layer)].sort_values("distance")
            shade = mpl.colormaps[SEQUENTIAL](0.9 * place / max(1, len(layers) - 1))
            ax.plot(
                part["distance"],
                part["value"],
                color=shade,
                linewidth=line_width(1.4),
                label=f"layer {layer}",
            )
        ax.set(xlabel="Distance (tokens)", ylabel=f"{quantity.capitalize()} (log scale)", yscale="log")
        ax.grid(axis="y", color="0.9", linewidth=0.6)
    made.legend(*axes[0].get_legend_handles_labels(), loc="outside right center", fontsize=7)
    return made


def by_length(strength: "pd.DataFrame", paper: "pd.DataFrame") -> "Figure":
    """Score by length, a line for each delta; below, the published series of the paper's tasks."""
    tasks = list(dict.fromkeys(strength["task"]))
    made, axes = plots.figure(len(tasks), rows=2, width=3.3, height=2.7)
    for place, task in enumerate(tasks):
        part = strength[(strength["task"] == task) & (strength["form"] == "every step")]
        for delta, line in part.groupby("delta", sort=False):
            _line(axes[place], line, "length", "score_percent", _number(delta))
        axes[place].set_xticks(list(dict.fromkeys(part["length"])))
        axes[place].set(xlabel=_AXES[str(part["unit"].iloc[0])], title=_TITLES[str(task)])
        _published(axes[len(tasks) + place], paper[paper["task"] == SAME.get(str(task), str(task))])
    for ax in axes:
        ax.set(ylim=(-4, 104), ylabel="Score (%)")
        grid_lines(ax)
    legend_above(made, axes, 8, order=lambda label: float(label.removeprefix("Δ = ")) if "Δ" in label else math.inf)
    return made


def _number(value: Any) -> float:
    return float(value)


def _line(ax: "Axes", part: "pd.DataFrame", x: str, y: str, delta: float | None) -> None:
    """A line in the colour of its delta (None: capitals), with its interval where the table has one."""
    if delta is None:
        label, line = "uppercase", look(0, color=_UPPERCASE, marker=".")
    else:
        label, line = f"Δ = {delta:g}", look(min(range(len(_DELTAS)), key=lambda k: abs(_DELTAS[k] - delta)))
    ends = (f"{y}_low", f"{y}_high")
    if set(ends) <= set(part.columns):
        ax.fill_between(part[x], part[ends[0]], part[ends[1]], color=line["color"], alpha=0.15, linewidth=0)
    ax.plot(part[x], part[y], **line, label=label)


def _published(ax: "Axes", paper: "pd.DataFrame") -> None:
    """The paper's own series of this model, or of its main model."""
    this = bool(paper["this_model"].any())
    part = paper[paper["this_model"]] if this else paper[paper["model"] == MODEL]
    part = part.assign(tokens=(part["tokens_from"] + part["tokens_to"]) / 2).dropna(subset="percent")
    for (method, delta), line in part.groupby(["method", "delta"], sort=False):
        _line(ax, line, "tokens", "percent", None if method == "uppercase" else _number(delta))
    model = _short(str(part["model"].iloc[0]))
    ax.set_title(
        f"Published: {_TITLES[str(part['task'].iloc[0])]}\n{model} ({'this' if this else 'another'} model)",
        fontsize=points(8),
    )
    ax.set_xlabel("Tokens of text")


def _short(model: str) -> str:
    """A model's name without who made it and which version it is."""
    return model.split("/")[-1].split("-Instruct")[0]


def by_delta(summary: "pd.DataFrame") -> "Figure":
    """Score and fidelity by delta, mean over lengths with intervals; dashed: published, over the paper's lengths."""
    tasks = list(dict.fromkeys(summary["task"]))
    made, axes = plots.figure(len(tasks), width=3.1, height=2.9)
    for ax, task in zip(axes, tasks, strict=True):
        lines: list[tuple[str, Any, str, str]] = []
        for form, part in summary[summary["task"] == task].groupby("form", sort=False):
            part, dashes = part.sort_values("delta"), "-" if form == "every step" else ":"
            lines.append((f"score, {form}", part, "score_percent", dashes))
            if part["fidelity_percent"].notna().any():
                lines.append((f"fidelity, {form}", part, "fidelity_percent", dashes))
        first = summary[(summary["task"] == task) & (summary["form"] == "every step")]
        if first["published_percent"].notna().any():
            name = _short(next(m for m in first["published_model"] if m))
            lines.append((f"published, {name}", first.dropna(subset="published_percent"), "published_percent", "--"))
        for label, part, column, dashes in lines:
            kind = ("score", "fidelity", "published").index(label.split(",")[0])
            ends = errors(part, column) if kind < 2 else None
            ax.errorbar(
                part["delta"],
                part[column],
                yerr=ends,
                linestyle=dashes,
                color=(*plots.COLOURS[:2], "0.5")[kind],
                marker=plots.MARKERS[kind],
                markersize=marker_size(4),
                linewidth=line_width(1.4),
                elinewidth=0.8,
                label=label,
            )
        ax.set(xlabel="Bias Δ (nats)", ylabel="Mean over lengths (%)", title=_TITLES[task], ylim=(-4, 104))
        grid_lines(ax)
    legend_above(made, axes, 5)
    return made


def needle(table: "pd.DataFrame") -> "Figure":
    """How often the needle is found by depth and length, a map for each delta, and by depth beside the published."""
    deltas = list(dict.fromkeys(table["delta"]))
    made, axes = plots.figure(len(deltas) + 1, width=2.5, height=3.0)
    pairs = zip(axes, deltas, strict=False)
    images = [_map(ax, table[table["delta"] == delta], f"Δ = {delta:g}") for ax, delta in pairs]
    made.colorbar(images[-1], ax=list(axes[: len(deltas)]), label="Needle found (%)", shrink=0.8, location="right")
    _by_depth(axes[-1], table, deltas)
    return made


def _map(ax: "Axes", part: "pd.DataFrame", title: str) -> Any:
    grid = part.pivot(index="depth_percent", columns="length", values="found_percent").sort_index()
    ax.set(xlabel="Words", ylabel="Depth of the needle (%)", title=title)
    return written_map(
        ax, grid, "viridis", (0, 100), "{:.0f}".format, white=lambda found: found <= 60, fontsize=points(7)
    )


def _by_depth(ax: "Axes", table: "pd.DataFrame", deltas: list[float]) -> None:
    paper = published("guide_needle_by_depth")
    for delta in deltas:
        part = table[table["delta"] == delta].groupby("depth_percent")["found_percent"].mean().reset_index()
        _line(ax, part, "depth_percent", "found_percent", delta)
        theirs = paper[paper["delta"] == delta]
        depths = [10 * int(decile) - 5 for decile in theirs["depth_decile"]]
        colour = plots.COLOURS[_DELTAS.index(delta)] if delta in _DELTAS else "0.4"
        ax.plot(depths, 100 * theirs["success_rate"], color=colour, linestyle="--", linewidth=0.9)
    ax.set(xlabel="Depth (%)", ylabel="Found (%), mean over lengths", title="By depth", ylim=(-4, 104))
    ax.plot([], [], color="0.4", linestyle="--", linewidth=0.9, label="published,\nMistral-7B")
    grid_lines(ax)
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2, fontsize=points(6.5))


def predictors(prediction: "pd.DataFrame") -> "Figure":
    """AUC of each predictor, over all prompts and within a length; diamonds: published, over all prompts."""
    tasks = list(dict.fromkeys(prediction["task"]))
    made, axes = plots.figure(len(tasks), width=3.4, height=3.1)
    paper = published("guide_prediction").replace(
        {"predictor": {"attention, last layer": "attention", "1 / context length": "1 / length"}}
    )
    handles: dict[str, Any] = {}
    for ax, task in zip(axes, tasks, strict=True):
        part = prediction[prediction["task"] == task]
        names, kinds = list(dict.fromkeys(part["predictor"])), list(dict.fromkeys(part["within"]))
        colours = [plots.COLOURS[list(_WITHIN).index(kind)] for kind in kinds]
        made_bars = grouped_bars(ax, part, x="predictor", y="auc", by="within", bottom=0.5, colours=colours)
        handles |= {_WITHIN[kind]: bars for kind, bars in made_bars.items()}
        theirs = paper[paper["task"] == SAME.get(task, task)].set_index("predictor")["auc"].reindex(names)
        (handles["published (Mistral-7B)"],) = ax.plot(
            range(len(names)), theirs, "D", color="black", markerfacecolor="white", markersize=5
        )
        first = part[part["within"] == "all"].iloc[0]
        ax.set_title(f"{_TITLES[task]} ({first['successes']} of {first['n']} succeed)")
        ax.axhline(0.5, color="0.4", linewidth=0.8)
        ax.set_xticks(range(len(names)), [n.capitalize() if n[0].isalpha() else n for n in names])
        ax.set(ylabel="AUC (0.5: chance)", ylim=(0.1, 1.02))
    made.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=legend_columns(4))
    return made


def wordings(baselines: "pd.DataFrame", strength: "pd.DataFrame") -> "Figure":
    """Score by length for each wording, beside the plain instruction under a bias; and the fidelity."""
    import pandas as pd

    made, axes = plots.figure(2, width=4.0, height=3.0)
    task, unit = str(baselines["task"].iloc[0]), str(baselines["unit"].iloc[0])
    biased = strength[(strength["task"] == task) & (strength["form"] == "every step")]
    by_delta = biased[biased["delta"] > 0].groupby("delta")["score_percent"].mean()
    best = float(by_delta.index.to_numpy()[int(by_delta.to_numpy().argmax())])
    kept = biased[biased["delta"] == best].assign(wording=f"plain, Δ = {best:g}")
    shown = baselines.assign(wording=baselines["wording"].replace({"none": "no instruction"}))
    both = pd.concat([kept, shown], ignore_index=True)
    for ax, (name, title) in zip(axes, {"score": "Score", "fidelity": "Fidelity"}.items(), strict=True):
        for place, (wording, part) in enumerate(both.groupby("wording", sort=False)):
            ax.errorbar(
                part["length"] + (place - 4) * 0.006 * both["length"].max(),
                part[f"{name}_percent"],
                yerr=errors(part, f"{name}_percent"),
                **_look(str(wording)),
                markersize=marker_size(4),
                linewidth=line_width(1.3),
                elinewidth=0.7,
                label=str(wording),
            )
        ax.set_xticks(list(dict.fromkeys(both["length"])))
        ax.set(xlabel=_AXES[unit], ylabel=f"{title} (%)", title=title, ylim=(-4, 104))
        grid_lines(ax)
    handles, labels = axes[0].get_legend_handles_labels()
    beside = current().width is None
    where: dict[str, Any] = {"loc": "outside right center"} if beside else {"loc": "outside lower center"}
    made.legend(handles, labels, fontsize=points(7), ncols=1 if beside else legend_columns(5, labels), **where)
    return made


def _look(wording: str) -> dict[str, Any]:
    """Colour, marker and dashes of a wording; what is compared with is dashed."""
    if wording in ("plain", "no instruction"):
        return {"color": "black" if wording == "plain" else "0.6", "linestyle": "--", "marker": "."}
    place = next((k for k, name in enumerate(_WORDINGS) if wording.startswith(name)), 6)
    colour = plots.COLOURS[place] if place < 6 else "#5D3A9B"
    return {"color": colour, "marker": plots.MARKERS[place], "linestyle": "-"}


def layers(table: "pd.DataFrame") -> "Figure":
    """Score with the bias in some layers, at two lengths; and the paper's."""
    made, axes = plots.figure(2, width=4.0, height=3.0)
    lengths, names = list(dict.fromkeys(table["length"])), list(dict.fromkeys(table["layers"]))
    labels = {length: f"{length} {table['unit'].iloc[0]}" for length in lengths}
    grouped_bars(axes[0], table, x="layers", y="score_percent", by="length", labels=labels)
    indices = table.drop_duplicates("layers").set_index("layers")["layer_indices"].reindex(names)
    ends = [f"{i.split()[0]}–{i.split()[-1]}" if " " in i else i for i in indices]
    ticks = [name.replace(" ", "\n", 1) + f"\n{end}" for name, end in zip(names, ends, strict=True)]
    axes[0].set_xticks(range(len(names)), ticks, fontsize=points(7))
    axes[0].set(ylabel="Score (%)", ylim=(0, 104), title=f"Bias Δ = {table['delta'].max():g} in these layers")
    axes[0].legend(loc="upper center", bbox_to_anchor=(0.5, -0.24), ncols=2)
    _published_layers(axes[1])
    return made


def _published_layers(ax: "Axes") -> None:
    tokens = 2000
    paper, raw = published("guide_french_by_layers"), published("guide_french_by_length")
    paper = paper[paper["tokens_from"] == tokens]
    raw = raw[(raw["model"] == MODEL) & (raw["method"] == "raw") & (raw["tokens_from"] == tokens)]
    bars = {"none": float(raw["success_rate"].iloc[0])}
    bars |= {f"layers {i}": float(v) for i, v in zip(paper["layer_indices"], paper["success_rate"], strict=True)}
    ax.bar(range(len(bars)), [100 * v for v in bars.values()], 0.6, color="0.6")
    ax.set_xticks(range(len(bars)), [name.replace(" ", "\n") for name in bars], fontsize=points(7))
    ax.set(ylabel="Outputs in French (%)", ylim=(0, 104))
    ax.set_title(f"Published: Mistral-7B, Δ = 1, {tokens} to {tokens + 500} tokens")


def choice(influence: "pd.DataFrame", chosen: "pd.DataFrame") -> "Figure":
    """Influence by length and delta, with that of capitals; the chosen deltas; and the scores there."""
    made, axes = plots.figure(3, width=3.4, height=3.0)
    unit = _AXES[str(chosen["unit"].iloc[0])]
    for (wording, delta), part in influence.groupby(["wording", "delta"], sort=False):
        _line(axes[0], part, "length", "influence", None if wording == "uppercase" else _number(delta))
    axes[0].set_yscale("log")
    low, high = axes[0].get_ylim()
    ticks = [k * 10**power for power in range(-7, 1) for k in (1, 2, 5)]
    axes[0].set_yticks([t for t in ticks if low <= t <= high])
    axes[0].yaxis.set_major_formatter("{x:g}")
    axes[0].yaxis.set_minor_formatter("")
    axes[0].set(xlabel=unit, ylabel="Influence at the last tokens (log scale)", title="What arrives")
    best = chosen.drop_duplicates("length")
    axes[2].plot(best["length"], best["unbiased_percent"], "--", color="0.4", label="Δ = 0")
    for place, (target, part) in enumerate(chosen.groupby("target", sort=False)):
        line = look(place, label=str(target))
        axes[1].plot(part["length"], part["delta"], **line)
        if "score_percent" in part:
            axes[2].errorbar(part["length"], part["score_percent"], yerr=errors(part, "score_percent"), **line)
    for ax, column in zip(axes[1:], ("best_delta", "best_percent"), strict=True):
        ax.plot(best["length"], best[column], "x", color="black", zorder=5, label="best of the grid")
    axes[1].axhline(0, color="0.4", linewidth=0.8)
    axes[1].set(xlabel=unit, ylabel="Δ (nats)", title="Δ with as much Influence as …")
    axes[2].set(xlabel=unit, ylabel="Score (%)", title="Score there", ylim=(-4, 104))
    for ax in axes:
        ax.set_xticks(list(dict.fromkeys(influence["length"])))
        grid_lines(ax)
        ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2, fontsize=points(6.5))
    return made
