"""The figures of the study :mod:`mechsteer.studies.instruction_vectors`, from its tables alone."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from mechsteer import plots
from mechsteer.plots.bars import errors, grouped_bars
from mechsteer.plots.base import PLAIN, grid_lines, leftmost, legend_above, look, points
from mechsteer.plots.own import marker_size

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

TABLES = ("by_kind", "layers")
OPTIONAL = ("weights", "length", "lengths", "exactly", "words", "composition", "transfer", "cosine", "published")
STATES = {"unsteered": "white", "steered": "black"}
"""And the colours of their diamonds."""
ENDS = ("", "_low", "_high")
VECTORS = {
    "none": ("unsteered", PLAIN, "o"),
    "conciseness": ("the vector of conciseness", plots.COLOURS[1], "s"),
    "own length": ("a vector of this length", plots.COLOURS[2], "^"),
}
"""What stands for each vector of the table of lengths: name, colour and marker."""


def draw(tables: "Mapping[str, pd.DataFrame]") -> "dict[str, Figure]":
    """Every figure of the study, by name, from its tables."""
    made = {"by_kind": by_kind, "layers": layers} | {
        "weights": weights,
        "length": length,
        "lengths": lengths,
        "exactly": exactly,
        "words": words,
        "composition": composition,
        "transfer": transfer,
        "cosine": cosine,
    }
    with plots.style():
        found = {name: plot(tables[name]) for name, plot in made.items() if name in tables and not tables[name].empty}
        if "published" in tables:
            found["published"] = published(tables["by_kind"], tables["published"])
        return found


def by_kind(table: "pd.DataFrame") -> "Figure":
    """Adherence unsteered and steered, fidelity of the steered answers above; one panel a setting."""
    settings = list(dict.fromkeys(table["setting"]))
    made, axes = plots.figure(len(settings), width=3.1, height=2.7)
    for ax, setting in zip(axes, settings, strict=True):
        part = table[table["setting"] == setting].reset_index(drop=True)
        bars(ax, part, "adherence", "adherence, ")
        marks = [kind if layer >= 0 else f"{kind}*" for kind, layer in zip(part["kind"], part["layer"], strict=True)]
        ax.set_xticks(range(len(part)), marks, rotation=45, ha="right")
        ax.set(title=setting, ylim=(0, 104))
    axes[0].set_ylabel("Test prompts (%)")
    legend_above(made, axes[0], 4)
    made.supxlabel("* validation chose not to steer", fontsize=points(8))
    return made


def layers(table: "pd.DataFrame") -> "Figure":
    """Validation by layer: adherence, a cross where outputs were bad, a frame around what was chosen.

    Of added vectors each layer shows the coefficient that was chosen there, or the best one that passes the filter.
    """
    settings = list(dict.fromkeys(table["setting"]))
    kinds = list(dict.fromkeys(table["kind"]))
    levels = sorted(table["layer"].unique())
    made, axes = plots.figure(len(settings), width=1.0 + 0.5 * len(levels), height=0.9 + 0.3 * len(kinds))
    for ax, setting in zip(axes, settings, strict=True):
        part = table[table["setting"] == setting].sort_values(["chosen", "compared", "adherence_percent"])
        shown = part.groupby(["kind", "layer"]).last().reset_index()
        values = shown.pivot(index="kind", columns="layer", values="adherence_percent").reindex(kinds, columns=levels)
        ax.imshow(values.to_numpy(dtype=float), cmap="Blues", vmin=0, vmax=125, aspect="auto")
        for _, cell in shown.iterrows():
            x, y = levels.index(cell["layer"]), kinds.index(cell["kind"])
            text = f"{cell['adherence_percent']:.0f}" + ("×" if cell["bad_percent"] > 0 else "")
            dark = cell["adherence_percent"] > 75
            ax.text(x, y, text, ha="center", va="center", fontsize=points(7), color="white" if dark else "black")
            if cell["chosen"]:
                ax.add_patch(_frame(x, y))
        ax.set_xticks(range(len(levels)), ["none" if layer < 0 else str(layer) for layer in levels])
        ax.set_yticks(range(len(kinds)), kinds)
        ax.set(title=setting, xlabel="Steered layer")
        ax.spines[:].set_visible(False)
        ax.tick_params(length=0)
    made.supxlabel("adherence on validation prompts (%); × bad outputs; frame: chosen", fontsize=points(8))
    return made


def _frame(x: int, y: int) -> "Rectangle":
    from matplotlib.patches import Rectangle

    return Rectangle((x - 0.46, y - 0.46), 0.92, 0.92, fill=False, edgecolor=plots.COLOURS[1], linewidth=1.8)


def weights(table: "pd.DataFrame") -> "Figure":
    """Adherence against fidelity: constant coefficients from weak to strong, a line a layer, and the dynamic one."""
    kinds = list(dict.fromkeys(table["kind"]))
    made, axes = plots.figure(3, panels=len(kinds), width=2.9, height=2.6)
    colours = (plots.COLOURS[0], plots.COLOURS[2])
    for ax, kind in zip(axes, kinds, strict=True):
        part = table[table["kind"] == kind]
        layers = list(dict.fromkeys(part["layer"]))
        for place, layer in enumerate(layers):
            line = part[(part["layer"] == layer) & part["step"].notna()].sort_values("step")
            x, y = line["adherence_percent"], line["fidelity_percent"]
            names = ("constant, same layer", "constant, next layer")
            ax.plot(x, y, **look(place, width=1.1, color=colours[place], label=names[place]))
            if not place:
                _steps(ax, list(zip(x, y, line["step"], strict=True)), colours[place])
        for weight, marker, size, name in _MARKS:
            there = part[part["weight"] == weight]
            if there.empty:
                continue
            ax.errorbar(
                there["adherence_percent"], there["fidelity_percent"], xerr=errors(there, "adherence_percent"),
                yerr=errors(there, "fidelity_percent"), linestyle="", marker=marker, markersize=size, elinewidth=0.8,
                color=plots.COLOURS[1], markerfacecolor="none" if marker == "D" else None, label=name, zorder=4,
                clip_on=False,
            )  # fmt: skip
        title = "mean of the formats" if layers[0] < 0 else f"{kind}, dynamic at layer {layers[0]}"
        ax.set(title=title, xlim=(-6, 108), ylim=(-6, 112), xlabel="Adherence (%)")
        ax.set_ylabel("Fidelity (%)" if leftmost(ax) else "")
    legend_above(made, axes, 4, order=str)  # the constants stand together
    return made


_MARKS = (
    ("dynamic (project)", "*", 12, "dynamic"),
    ("best constant of each format", "D", 7, "best constant of each format"),
)
_LABELLED = (0.5, 0.75, 1.0, 1.5)


def _steps(ax: "Axes", values: list[tuple[float, float, float]], colour: str) -> None:
    """Some coefficients beside their points; one label for those that lie near each other."""
    from matplotlib.patheffects import withStroke

    groups: list[tuple[float, float, list[str]]] = []
    for a, b, step in [value for value in values if value[2] in _LABELLED]:
        near = next((steps for x, y, steps in groups if abs(a - x) < 25 and abs(b - y) < 12), None)
        if near is None:
            groups.append((a, b, [f"{step:g}"]))
        else:
            near.append(f"{step:g}")
    for a, b, steps in groups:
        right = a > 60
        label = ax.annotate(
            ", ".join(steps), (a, b), xytext=(-6 if right else 6, -10 if b > 60 else 5), textcoords="offset points",
            ha="right" if right else "left", fontsize=points(8), color=colour,
            path_effects=[withStroke(linewidth=2, foreground="white")],
        )  # fmt: skip
        label.set_in_layout(False)


def length(table: "pd.DataFrame") -> "Figure":
    """The conciseness vector by coefficient: words of an answer, adherence to its limit, fidelity."""
    made, axes = plots.figure(3, width=2.9, height=2.6)
    panels = (
        ("words_median", "Words of an answer (median)"),
        ("adherence_percent", "Within the limit of words (%)"),
        ("fidelity_percent", "Fidelity (%)"),
    )
    names = table["setting"] + ", layer " + table["layer"].astype(str)
    for ax, (column, label) in zip(axes, panels, strict=True):
        words = {"xlabel": "Coefficient (norms of the vector)", "ylabel": label}
        plots.curves(ax, table.assign(name=names), x="step", y=column, by="name", **words, legend=False)
        ax.set_ylim(*((-4, 104) if column.endswith("percent") else (0, 1.05 * float(table[column].max()))))
    legend_above(made, axes[0], 3)
    return made


def lengths(table: "pd.DataFrame") -> "Figure":
    """Answers as long as was wanted, by how long that is: unsteered, under one vector for all, and one a length."""
    settings = list(dict.fromkeys(table["setting"]))
    limits = list(dict.fromkeys(zip(table["constraint"], table["unit"], strict=True)))
    made, axes = plots.figure(len(limits), rows=len(settings), width=2.7, height=2.4)
    places = [(setting, *limit) for setting in settings for limit in limits]
    for ax, (setting, constraint, unit) in zip(axes, places, strict=True):
        part = table[(table["setting"] == setting) & (table["constraint"] == constraint) & (table["unit"] == unit)]
        counts = sorted(set(part["count"]))
        apart = 0.02 * (counts[-1] - counts[0])  # lines that lie on each other are all seen
        for place, (vector, (label, colour, marker)) in enumerate(VECTORS.items()):
            line = part[part["vector"] == vector].sort_values("count")
            ends = errors(line, "adherence_percent")
            seen = look(0, color=colour, marker=marker, elinewidth=0.8, label=label)
            ax.errorbar(line["count"] + (place - 1) * apart, line["adherence_percent"], yerr=ends, **seen)
        ax.set_xticks(counts)
        ax.set(xlabel=f"{unit.capitalize()}, {constraint}", ylabel="As wanted (%)", title=setting, ylim=(-4, 104))
        grid_lines(ax)
    legend_above(made, axes[0], 3)
    return made


def exactly(table: "pd.DataFrame") -> "Figure":
    """Answers of exactly n sentences, unsteered and at the coefficient chosen for n, with fidelity."""
    made, (ax,) = plots.figure(1, width=1.3 + 0.9 * len(table), height=2.8)
    bars(ax, table, "exactly")
    steps = [
        "not steered" if layer < 0 else f"c = {step:g}"
        for layer, step in zip(table["layer"], table["step"], strict=True)
    ]
    ax.set_xticks(range(len(table)), [f"{n}\n{step}" for n, step in zip(table["sentences"], steps, strict=True)])
    ax.set(xlabel="Sentences wanted, and coefficient (norms)", ylabel="Exactly so many (%)", ylim=(0, 104))
    legend_above(made, ax, 2)
    return made


def words(table: "pd.DataFrame") -> "Figure":
    """Words included and excluded, unsteered and steered, with fidelity."""
    groups = list(dict.fromkeys(zip(table["task"], table["setting"], strict=True)))
    made, (ax,) = plots.figure(1, width=1.3 + 1.15 * len(groups), height=2.8)
    rows = table.set_index(["task", "setting"])
    wide = [rows[rows["row"] == name].loc[groups].add_prefix(f"{name}_").reset_index() for name in STATES]
    columns = {
        f"{a}_{b}_percent{end}": f"{b}_{a}_percent{end}"
        for a in STATES
        for b in ("adherence", "fidelity")
        for end in ENDS
    }
    bars(ax, wide[0].join(wide[1].drop(columns=["task", "setting"])).rename(columns=columns), "adherence")
    ax.set_xticks(range(len(groups)), [f"{task},\n{_broken(setting)}" for task, setting in groups])
    ax.set(ylabel="Word there, or left out (%)", ylim=(0, 104))
    legend_above(made, ax, 4 if len(groups) > 2 else 2)
    return made


def composition(table: "pd.DataFrame") -> "Figure":
    """How many prompts follow both instructions, by what is steered; those that are also true as diamonds."""
    settings = list(dict.fromkeys(table["setting"]))
    most = int(table.groupby("setting")["pair"].nunique().max())
    made, axes = plots.figure(len(settings), width=1.6 + 0.5 * most, height=2.9)
    names = ("unsteered", "first", "second", "both")
    labels = {"first": "format steered", "second": "length or word steered", "both": "both steered"}
    for ax, setting in zip(axes, settings, strict=True):
        part = table[table["setting"] == setting]
        pairs = list(dict.fromkeys(part["pair"]))
        shown = part.set_index("row").loc[[*names]].reset_index()
        colours = (PLAIN, plots.COLOURS[0], plots.COLOURS[5], plots.COLOURS[1])
        grouped_bars(ax, shown, x="pair", y="both_percent", by="row", colours=colours, labels=labels)
        true = part[part["row"] == "both"].set_index("pair").loc[pairs]
        ax.errorbar(
            [x + 0.36 for x in range(len(pairs))], true["both_and_true_percent"],
            yerr=errors(true, "both_and_true_percent"), linestyle="", marker="D", markersize=marker_size(4),
            color="black", elinewidth=0.8, zorder=3, label="both steered: followed and true", clip_on=False,
        )  # fmt: skip
        ax.set_xticks(range(len(pairs)), pairs, rotation=45, ha="right")
        ax.set(title=setting, ylim=(0, 104))
    axes[0].set_ylabel("Both followed (%)")
    legend_above(made, axes[0], 5 if len(settings) > 1 else 3)
    return made


def transfer(table: "pd.DataFrame") -> "Figure":
    """Adherence and fidelity, over all formats, by how much of the tuning is in the model, with intervals."""
    settings = list(dict.fromkeys(table["setting"]))
    made, axes = plots.figure(2 * len(settings), width=2.5, height=2.6)
    names = {"none": "unsteered", "own": "the model's own vectors", "tuned": "the tuned model's vectors"}
    every = table[table["kind"] == "all"].replace({"vector": names})
    for place, setting in enumerate(settings):
        for offset, (column, label) in enumerate(
            (("adherence_percent", "Adherence (%)"), ("fidelity_percent", "Fidelity (%)"))
        ):
            ax = axes[2 * place + offset]
            words = {"xlabel": "Share of the tuning (0: base)", "ylabel": label, "title": setting}
            plots.curves(
                ax, every[every["setting"] == setting], x="share", y=column, by="vector", **words, legend=False
            )
            ax.set(ylim=(-4, 104), xticks=sorted(every["share"].unique()))
    legend_above(made, axes[0], 3)
    return made


def cosine(table: "pd.DataFrame") -> "Figure":
    """Cosine similarity of last-token states by layer, one panel a kind, with its interval."""
    kinds = list(dict.fromkeys(table["kind"]))
    floor = min(0.0, float(table["low"].min()) - 0.03)
    made, axes = plots.figure(4, panels=len(kinds), width=2.4, height=2.2)
    for ax, kind in zip(axes, kinds, strict=True):
        part = table[table["kind"] == kind]
        labels = {"xlabel": "Layer", "ylabel": "Cosine", "title": kind}
        plots.curves(ax, part, y="cosine", by="relation", **labels, legend=False)
        ax.set(xticks=sorted(part["layer"].unique())[:: 1 + len(part["layer"].unique()) // 9], ylim=(floor, 1.03))
    legend_above(made, axes[0], 3)
    return made


def published(ours: "pd.DataFrame", paper: "pd.DataFrame") -> "Figure":
    """The paper's accuracy beside ours, for formats that both have; other prompts, so the levels need not agree."""
    import pandas as pd

    made, axes = plots.figure(2, width=3.4, height=2.7)
    for ax, (setting, theirs) in zip(
        axes, (("without instruction", "without_instruction"), ("with instruction", "with_instruction")), strict=True
    ):
        here = ours[ours["setting"] == setting].set_index("kind")
        there = paper[(paper["setting"] == theirs) & (paper["kind"] != "")]
        there = there.pivot_table(index="kind", columns="method", values="accuracy_percent")
        kinds = [kind for kind in here.index if kind in there.index]
        columns = {
            "published, unsteered": there.loc[kinds, "none"],
            "published, steered": there.loc[kinds, "steered"],
            "here, unsteered": here.loc[kinds, "adherence_unsteered_percent"],
            "here, steered": here.loc[kinds, "adherence_steered_percent"],
        }
        long = pd.DataFrame(columns, index=kinds).rename_axis("kind").reset_index().melt("kind", None, "row", "percent")
        colours = ("0.85", plots.COLOURS[4], "0.55", plots.COLOURS[1])
        grouped_bars(ax, long, x="kind", y="percent", by="row", colours=colours)
        ax.set_xticks(range(len(kinds)), kinds)
        ax.set(title=setting, ylim=(0, 104))
    axes[0].set_ylabel("Followed (%)")
    legend_above(made, axes[0], 4)
    return made


def bars(ax: "Axes", part: "pd.DataFrame", measure: str, prefix: str = "") -> None:
    """Two bars a row, unsteered and steered, with their intervals, and diamonds for their fidelity."""
    import pandas as pd

    each = []
    for state in STATES:
        taken = {f"{measure}_{state}_percent{end}": f"percent{end}" for end in ENDS}
        found = part[[column for column in taken if column in part]].rename(columns=taken)
        each.append(found.assign(place=range(len(part)), row=f"{prefix}{state}"))
    long = pd.concat(each)
    drawn = grouped_bars(ax, long, x="place", y="percent", by="row", colours=(PLAIN, plots.COLOURS[1]))
    for (state, face), heights in zip(STATES.items(), drawn.values(), strict=True):
        ax.scatter(
            [bar.get_x() + bar.get_width() / 2 for bar in heights], part[f"fidelity_{state}_percent"], s=16, marker="D",
            color=face, edgecolors="black", linewidths=0.8, zorder=3, label=f"fidelity, {state}", clip_on=False,
        )  # fmt: skip


def _broken(setting: str) -> str:
    """A setting's name on two lines."""
    return setting.replace("instruction", "instr.").replace(", ", ",\n")
