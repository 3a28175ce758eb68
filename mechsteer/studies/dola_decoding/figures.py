"""The figures of the study :mod:`mechsteer.studies.dola_decoding`, from its tables alone."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from mechsteer import plots
from mechsteer.plots.bars import grouped_bars
from mechsteer.plots.base import grid_lines, legend_above, points
from mechsteer.plots.paper import current

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SCORING = {
    "adherence": "Instruction followed (%)",
    "correct": "Right (%)",
    "loose": "Followed, loosely (%)",
    "strict": "Followed (%)",
}
_LEFT_OUT = ("success", "fidelity")  # the first equals "strict" unless outputs echo the prompt; the second has a figure
_METHOD = {"dola": "DoLa, released code", "dola, paper's equations": "DoLa, paper's equations"}

TABLES = ("summary",)
OPTIONAL = ("tracking",)


def draw(tables: "Mapping[str, pd.DataFrame]") -> "dict[str, Figure]":
    """Every figure of the study, by name, from its tables."""
    made = {}
    with plots.style():
        for model, part in tables["summary"].groupby("model_name", sort=False):
            made[f"bars_{_slug(str(model))}"] = bars(part)
        if "tracking" in tables:
            for model, part in tables["tracking"].groupby("model_name", sort=False):
                made[f"tracking_{_slug(str(model))}"] = tracking(part)
    return made


def _slug(model: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in model.removeprefix("organism:")).strip("-")


def bars(summary: "pd.DataFrame") -> "Figure":
    """Baseline and DoLa with 95 % intervals, the paper's numbers as open diamonds (Figure 3).

    A panel for each task that has categories, by category, and one for all those that have none.
    """
    import pandas as pd

    kept = summary[~summary["scoring"].isin(_LEFT_OUT)]
    by_task = [(str(task), part) for task, part in kept.groupby("task", sort=False)]
    panels = [(task, _categories(part)) for task, part in by_task if (part["level"] == "category").any()]
    others = [part for _, part in by_task if not (part["level"] == "category").any()]
    if others:
        panels.append(("Single tasks", pd.concat(others)))
    widest = max(len(_groups(part)) for _, part in panels)
    made, axes = plots.figure(1, rows=len(panels), width=max(4.2, 1.2 + 0.8 * widest), height=2.5)
    for ax, (task, part) in zip(axes, panels, strict=True):
        _bars(ax, part, task)
    legend_above(made, axes, 2)
    return made


def _categories(part: "pd.DataFrame") -> "pd.DataFrame":
    """A task's rows by category; of IFEval, by the loose scoring, which the paper reports."""
    rows = part[part["level"] == "category"]
    return rows[rows["scoring"] == "loose"] if (rows["scoring"] == "loose").any() else rows


def _groups(part: "pd.DataFrame") -> list[tuple[str, str]]:
    return list(dict.fromkeys(zip(part["group"], part["scoring"], strict=True)))


def _bars(ax: "Axes", part: "pd.DataFrame", title: str) -> None:
    groups, place = _groups(part), part["group"] + " " + part["scoring"]
    drawn = grouped_bars(
        ax, part.assign(place=place), x="place", y="percent", by="method", low="low_percent", high="high_percent",
        labels=_METHOD,
    )  # fmt: skip
    label = "published"
    for method, bars in drawn.items():
        middles = [bar.get_x() + bar.get_width() / 2 for bar in bars]
        rows = part[part["method"] == method].set_index(["group", "scoring"]).loc[groups]
        rows = rows.assign(middle=middles).dropna(subset="published_percent")
        if len(rows):
            ax.scatter(
                rows["middle"], rows["published_percent"], marker="D", s=14, facecolor="white", edgecolor="black",
                linewidth=0.8, zorder=3, label=label,
            )  # fmt: skip
            label = ""
    one = len({scoring for _, scoring in groups}) == 1
    ax.set_xticks(range(len(groups)), [_tick(group, "" if one else scoring) for group, scoring in groups])
    label = _SCORING.get(groups[0][1], groups[0][1]) if one else "Outputs (%)"
    ax.set(ylabel=label, ylim=(0, 103), xlim=(-0.6, len(groups) - 0.4), title=_titled(title))
    grid_lines(ax)


def _titled(task: str) -> str:
    """A task's name without the file that it is from, and what was set in words."""
    name, _, settings = task.removesuffix("]").partition("[")
    name = {"ifeval": "IFEval"}.get(name.partition(":")[0], name)
    said = " ".join(reversed(settings.split("="))) if settings.startswith("notes=") else settings
    return f"{name}, {said}" if said else name


def _tick(group: str, scoring: str) -> str:
    """A group's name without the file that it is from, which the tables name, and how it is scored."""
    what = {"strict": "obeyed", "correct": "right"}.get(scoring, scoring).replace("_", " ")
    name, _, file = group.partition(":")
    name = name if "." in file else group
    name = name.replace(" ", "\n") if current().width is None else name
    return f"{name}\n{what}" if what else group.replace("_", "\n")


def tracking(table: "pd.DataFrame") -> "Figure":
    """Ranks of the named tokens by exit (Figure 5), with the divergences, one panel a form of DoLa."""
    methods: list[str] = list(dict.fromkeys(table["method"]))
    made, axes = plots.figure(len(methods), width=4.2, height=3.1)
    for ax, method in zip(axes, methods, strict=True):
        part = table[table["method"] == method]
        written = str(part["written"].iloc[0])
        where = f"after “… {written[-40:]}”" if written else "first token of the answer"
        _tracking(ax, part, f"{_METHOD.get(method) or method}\n{where}")
    made.supxlabel("Blocks passed (*: contrasted with), and divergence from the last layer", fontsize=points(9))
    return made


def _tracking(ax: "Axes", table: "pd.DataFrame", title: str) -> None:
    exits = table[table["distribution"] == "exit"]
    order: Sequence[tuple[str, int]] = [("exit", e) for e in sorted(exits["layer"].unique())]
    order = [*order, ("final", int(table["layer"].max())), ("dola", int(table["layer"].max()))]
    place = {key: number for number, key in enumerate(order)}
    spots = [place[key] for key in zip(table["distribution"], table["layer"], strict=True)]
    ranked = table.assign(place=spots).dropna(subset=["rank"]).astype({"rank": float})
    plots.rank_trajectories(ax, ranked, x="place", by="word", xlabel="", title=title)
    divergences = exits.drop_duplicates("layer").set_index("layer")["jsd"]
    chosen = set(exits.loc[exits["chosen"], "layer"])
    labels = [
        f"{layer}{'*' if layer in chosen else ''}\n{divergences[layer]:.2g}" if kind == "exit" else
        (f"{layer}\nfinal" if kind == "final" else "DoLa")
        for kind, layer in order
    ]  # fmt: skip
    ax.set_xticks(range(len(order)), labels)
