"""The measured parts of the study of DIRECTER, one function a table."""

from collections.abc import Callable
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from mechsteer.analysis.sensitivity import layer_sensitivity
from mechsteer.decoding import Directer, Gated
from mechsteer.steering import Intervention, attention_bias, pasta, spotlight
from mechsteer.studies.core.choose import at_edge, climbed
from mechsteer.studies.directer.bench import ZERO_SHOT, Setup, Way, adjusted, difference, fates, means, pooled
from mechsteer.studies.directer.few_shot import few_shot
from mechsteer.studies.guide.tasks import worded
from mechsteer.tasks import Instructions

if TYPE_CHECKING:
    import pandas as pd

METHODS: "dict[str, tuple[Callable[[float], Way], tuple[float, ...], tuple[float, ...]]]" = {
    "pasta": (lambda s: Way(pasta(alpha=s)), (0.01, 0.1), (0.5, 0.3, 0.2, 0.1, 0.03)),
    "spotlight": (lambda s: Way(spotlight(target=s)), (0.3, 0.1), (0.05, 0.1, 0.2, 0.3, 0.5)),
    "guide": (lambda s: Way(attention_bias(delta=s)), (2.0,), (0.5, 1.0, 1.5, 2.0, 3.0)),
    "directer": (lambda s: Way(strategy=Directer(beta=s)), (0.5,), (0.7, 0.5, 0.3, 0.2, 0.1)),
}
"""A way from a strength; the papers' strengths; those to choose among, from weak to strong. DIRECTER's is beta."""

FURTHER = {
    "pasta": (0.01, 0.003),
    "spotlight": (0.7, 0.9),
    "guide": (4.0, 5.0),
    "directer": (0.05, 0.03, 0.02, 0.01, 0.005),
}
"""Tried where the strongest of ``METHODS`` is the best, one after another."""

RELEASED = Way(strategy=Directer(compat="released"))
SEEDS = (0, 1, 2)
ALPHAS = (1e1, 1e2, 1e3, 1e4, 1e5)
BETAS = (0.02, 0.05, 0.1, 0.3, 0.5, 0.7, 0.9)

SCHEDULES: "MappingProxyType[str, tuple[Callable[[float], Intervention], tuple[float, ...]]]" = MappingProxyType(
    {
        "pasta": (lambda s: pasta(alpha=s), (0.01, 0.1)),
        "spotlight": (lambda s: spotlight(target=s), (0.3, 0.2, 0.1)),
        "guide": (lambda s: attention_bias(delta=s), (5.0, 2.0, 1.0)),
    }
)
"""What is put under the gate: the paper's schedules of PASTA and SpotLight without their last strength, which does
nothing; one of ours for GUIDE."""

STEPS = (2.0, 1.0, 0.5)
"""Strengths of the vector, in means' differences; ours."""


def chosen(setup: Setup) -> "pd.DataFrame":
    """Every strength to choose among, on the validation prompts; ``chosen`` marks the best average.

    Of equals, the weakest. ``edge`` marks a choice beyond which nothing was tried.
    """
    import pandas as pd

    rows: list[dict[str, Any]] = []
    task = setup.validation()
    setup.prefetch((make(s) for make, _, grid in METHODS.values() for s in grid), task)
    for method, (make, _, grid) in METHODS.items():
        cells: dict[float, dict[str, Any]] = {}

        def average(s: float, make: Any = make, cells: dict[float, Any] = cells) -> float:
            if s not in cells:
                cells[s] = means(setup.samples(make(s), task))
            return cells[s]["average_percent"]

        tried, top = climbed(grid, FURTHER.get(method, ()), average)
        rows += [
            {"method": method, "strength": s, **cells[s], "chosen": s == top, "edge": s == top and at_edge(tried, s)}
            for s in tried
        ]
    return pd.DataFrame(rows)


def ways(setup: Setup, choice: "pd.DataFrame", notes: int) -> "dict[tuple[str, str, float], tuple[Way, Instructions]]":
    """What the main table compares: by method, setting and strength, a way and the prompts."""
    task = setup.task(notes)
    found: dict[tuple[str, str, float], tuple[Way, Instructions]] = {
        ("zero-shot", "", 0.0): (ZERO_SHOT, task),
        ("*-marked instruction", "", 0.0): (ZERO_SHOT, worded(task, "*marked*")),
        ("few-shot", "", 0.0): (ZERO_SHOT, few_shot(setup, task)),
    }
    top = choice[choice["chosen"]].set_index("method")["strength"]
    for method, (make, paper, _) in METHODS.items():
        strengths = [("paper", s) for s in paper] + [("chosen on validation", float(top[method]))]
        found |= {(method, setting, s): (make(s), task) for setting, s in strengths}
        if method == "directer":
            found[method, "released code", 0.5] = (RELEASED, task)
    return found


def main(setup: Setup, choice: "pd.DataFrame", lengths: tuple[int, ...]) -> "pd.DataFrame":
    """The main table, each method against zero-shot on the same prompts."""
    import pandas as pd

    rows = []
    for notes in lengths:
        compared = ways(setup, choice, notes)
        setup.prefetch((way for way, _ in compared.values()), setup.task(notes))
        start = setup.samples(ZERO_SHOT, setup.task(notes))
        for (method, setting, strength), (way, task) in compared.items():
            if method.startswith("*") and not marks_are_read(setup, task):
                continue
            table = setup.samples(way, task)
            test = difference(start, table)[0]
            changes = {key: test[key] for key in ("gained", "lost", "p_value")}
            cells = {"notes": notes, "method": method, "setting": setting, "strength": strength}
            rows.append({**cells, **means(table), **changes})
    made = pd.DataFrame(rows)
    tested = made.assign(p_value=made["p_value"].where(made["method"] != "zero-shot"))
    return made.assign(p_adjusted=adjusted(tested, "p_value", ["notes"]))


def marks_are_read(setup: Setup, task: Instructions) -> bool:
    """Whether the tokenizer has the marks, so that the wording can be tried at all."""
    text = task.samples[0].instruction
    ids = setup.model.tokenizer(text, add_special_tokens=False)["input_ids"]
    return "*" in setup.model.tokenizer.decode(ids)


def ready(setup: Setup) -> None:
    """Compute in workers what the tables below ask for."""
    strategies = [Directer(strength=k) for k in sizes(setup.layers)] + [Directer(beta=b) for b in BETAS]
    strategies += [Directer(alpha=a) for a in ALPHAS] + [Directer(), Directer(order="reversed")]
    strategies += [Directer(order="random", seed=seed) for seed in SEEDS]
    setup.prefetch([*(Way(strategy=s) for s in strategies), *(Way(strategy=Directer(), elsewhere=s) for s in SEEDS)])


def ablation(setup: Setup) -> "pd.DataFrame":
    """What of DIRECTER matters. Of variants with a seed, the mean over seeds, and the averages' range."""
    import pandas as pd

    variants = {
        "zero-shot": [ZERO_SHOT],
        "directer": [Way(strategy=Directer())],
        "released code": [RELEASED],
        "reversed ranking": [Way(strategy=Directer(order="reversed"))],
        "random layers": [Way(strategy=Directer(order="random", seed=seed)) for seed in SEEDS],
        "random tokens": [Way(strategy=Directer(), elsewhere=seed) for seed in SEEDS],
    }
    rows = []
    for variant, cases in variants.items():
        tables = [setup.samples(way) for way in cases]
        averages = [100 * float(table["average"].mean()) for table in tables]
        ends = {"average_percent_least": min(averages), "average_percent_most": max(averages)}
        used = {"ranking_used_percent": sum(map(ranking_used, tables)) / len(tables)}
        rows.append({"variant": variant, "seeds": len(tables), **means(pooled(tables)), **ends, **used})
    return pd.DataFrame(rows)


def ranking_used(table: "pd.DataFrame") -> float:
    """Percent of new tokens that reach a second trial: the first has all layers, whatever their order."""
    if "steps" not in table:
        return float("nan")
    settled = table["skipped"] + table.get("accepted_1", 0)
    return 100 * float((table["steps"] - settled).sum() / table["steps"].sum())


def rankings(setup: Setup) -> "pd.DataFrame":
    """Each layer's mean rank by the paper's average and by the released code's, on one prompt of each kind and more."""
    import pandas as pd

    prompts = setup.task().prompts(setup.model)[:: max(1, setup.n // 4)]
    frames = []
    for aggregate in ("receiving", "released"):
        table = layer_sensitivity(setup.model, prompts, aggregate=aggregate, batch_size=8)
        grouped = table.groupby("layer").agg(sensitivity=("sensitivity", "mean"), mean_rank=("rank", "mean"))
        first = table[table["rank"] == 1]["layer"].value_counts().reindex(grouped.index, fill_value=0)
        made = grouped.assign(first_percent=100 * first / len(prompts), aggregate=aggregate, n=len(prompts))
        frames.append(made.reset_index())
    setup.bench.bar.update()
    return pd.concat(frames, ignore_index=True)


def sizes(count: int) -> list[int]:
    """1, 2, 4, ... layers or heads, and all."""
    return sorted({min(count, 2**power) for power in range(count.bit_length() + 1)})


def strengths(setup: Setup) -> "pd.DataFrame":
    """Keys scaled in the most sensitive layers without rejection; 0 layers is zero-shot; and DIRECTER."""
    import pandas as pd

    fixed = {k: Way(strategy=Directer(strength=k)) for k in sizes(setup.layers)}
    rows = [
        {"method": "key scaling, nothing rejected", "layers": k, **means(setup.samples(way))}
        for k, way in {0: ZERO_SHOT, **fixed}.items()
    ]
    rows.append({"method": "directer", "layers": setup.layers, **means(setup.samples(Way(strategy=Directer())))})
    return pd.DataFrame(rows)


def sweeps(setup: Setup) -> "pd.DataFrame":
    """DIRECTER by alpha (beta .5) and by beta (alpha 100)."""
    import pandas as pd

    cases = [("alpha", a, Directer(alpha=a)) for a in ALPHAS] + [("beta", b, Directer(beta=b)) for b in BETAS]
    rows = [
        {"parameter": name, "value": value, **means(setup.samples(Way(strategy=strategy)))}
        for name, value, strategy in cases
    ]
    return pd.DataFrame(rows)


def gated(setup: Setup, vectors: "Callable[[float], Intervention] | None") -> "dict[str, pd.DataFrame]":
    """Other methods without the gate, at each of their strengths, and with it; and what the gate changed."""
    import pandas as pd

    cases = dict(SCHEDULES) | ({"difference in means": (vectors, STEPS)} if vectors is not None else {})
    rows, changes, traces = [], [], []
    setup.prefetch(Way(make(s)) for make, grid in cases.values() for s in grid)
    setup.prefetch(Way(strategy=Gated([make(s) for s in grid])) for make, grid in cases.values())
    for method, (make, grid) in cases.items():
        alone = [setup.samples(Way(make(s))) for s in grid]
        under = setup.samples(Way(strategy=Gated([make(s) for s in grid])))
        rows += [
            {"method": method, "gate": False, "strength": s, **means(table)}
            for s, table in zip(grid, alone, strict=True)
        ]
        rows.append({"method": method, "gate": True, "strength": grid[0], **means(under)})
        for against, table in (
            (f"{method} at {grid[0]:g}, no gate", alone[0]),
            ("zero-shot", setup.samples(ZERO_SHOT)),
        ):
            changes += [
                {"method": f"{method} under the gate", "against": against, **row} for row in difference(table, under)
            ]
        traces += [{"run": f"{method} under the gate", **row} for row in fates(under, [0] * len(grid))]
    return {"gate": pd.DataFrame(rows), "differences": pd.DataFrame(changes), "trace": pd.DataFrame(traces)}


def compared(setup: Setup, choice: "pd.DataFrame") -> "pd.DataFrame":
    """DIRECTER against all others, on the same prompts; its ranking of layers against others under the same gate."""
    import pandas as pd

    start, rows = setup.samples(Way(strategy=Directer())), []
    others = {
        f"key scaling in {k} layers, nothing rejected": Way(strategy=Directer(strength=k)) for k in sizes(setup.layers)
    }
    cases: list[tuple[str, pd.DataFrame]] = [(name, setup.samples(way)) for name, way in others.items()]
    for (method, setting, strength), (way, task) in ways(setup, choice, setup.notes).items():
        name = " ".join(str(x) for x in (method, f"{strength:g}" if strength else "", setting) if x)
        if (method, setting) != ("directer", "paper") and not method.startswith("*"):
            cases.append((name, setup.samples(way, task)))
    cases.append(("reversed ranking", setup.samples(Way(strategy=Directer(order="reversed")))))
    random = [setup.samples(Way(strategy=Directer(order="random", seed=seed))) for seed in SEEDS]
    cases.append(("random layers, mean of seeds", pooled(random)))
    for name, table in cases:
        rows += [{"method": "directer", "against": name, **row} for row in difference(table, start)]
    return pd.DataFrame(rows)


def traces(setup: Setup) -> "pd.DataFrame":
    """What the gate does: the fate of all new tokens of DIRECTER, by beta and variant."""
    import pandas as pd

    cases = {f"beta = {b:g}": Directer(beta=b) for b in BETAS} | {"released code": Directer(compat="released")}
    rows = []
    for name, strategy in cases.items():
        table = setup.samples(Way(strategy=strategy))
        rows += [{"run": name, **row} for row in fates(table, strategy.schedule(setup.layers))]
    return pd.DataFrame(rows)
