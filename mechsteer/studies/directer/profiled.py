"""PASTA on heads that are chosen by profiling, and by the number of heads (DIRECTER's Figure 6).

PASTA's paper steers one head at a time on examples of the task, ranks all heads by the score, and steers the best ones
together. DIRECTER's authors profile on 10 or 11 examples. Here they are two validation prompts a kind of instruction,
the score is the average of adherence and fidelity (as in all choices of this study), heads of equal score are ranked
from the first layer on, and alpha is the paper's. How many of the best heads is chosen on all validation prompts; of
equals the fewest.
"""

from typing import TYPE_CHECKING, Any

from mechsteer.decoding import Directer
from mechsteer.steering import attention_bias, pasta
from mechsteer.studies.core.choose import best
from mechsteer.studies.directer.bench import ZERO_SHOT, Setup, Way, adjusted, difference, means
from mechsteer.studies.directer.tables import sizes
from mechsteer.tasks import instructions

if TYPE_CHECKING:
    import pandas as pd

ALPHA = 0.01
EXAMPLES = 2
"""Validation prompts of each kind that heads are ranked by."""

GUIDE, BETA = 2.0, 0.5
"""Beside it: GUIDE's delta and DIRECTER's beta, as the papers have them."""

Head = tuple[int, int]


def heads(setup: Setup) -> "pd.DataFrame":
    """Every head alone on the examples, from the best to the worst.

    Columns: layer, head, rank (from 1), and the three measures with intervals.
    """
    import pandas as pd

    count = min(EXAMPLES, setup.n_validation)
    task = instructions(setup.kinds, notes=setup.notes, n=count, split="validation")
    every = [(layer, head) for layer in range(setup.layers) for head in range(setup.model.cfg.n_heads)]
    ways = [Way(pasta(alpha=ALPHA, heads=[one])) for one in every]
    setup.prefetch(ways, task)
    rows = [
        {"layer": layer, "head": head, **means(setup.samples(way, task))}
        for (layer, head), way in zip(every, ways, strict=True)
    ]
    table = pd.DataFrame(rows).sort_values("average_percent", ascending=False, kind="stable", ignore_index=True)
    table.insert(2, "rank", range(1, len(table) + 1))
    return table


def profiled(setup: Setup, ranking: "pd.DataFrame") -> "pd.DataFrame":
    """PASTA on the best 1, 2, 4, ... heads and on all, beside zero-shot, GUIDE and DIRECTER, on the test prompts.

    Columns: method, heads (0 where a method has none to choose), share_percent of all heads, validation_percent (the
    average on the validation prompts), chosen, the three measures with intervals; and what each changes against
    PASTA on all heads, on the same prompts: difference_pp of the average with low_pp and high_pp, p_by_topic, and
    p_adjusted (Holm).
    """
    import pandas as pd

    ranked: list[Head] = [(int(row["layer"]), int(row["head"])) for row in ranking.to_dict("records")]
    steered = {count: Way(pasta(alpha=ALPHA, heads=ranked[:count])) for count in sizes(len(ranked))}
    others = {
        "zero-shot": ZERO_SHOT,
        f"guide, delta {GUIDE:g}": Way(attention_bias(delta=GUIDE)),
        f"directer, beta {BETA:g}": Way(strategy=Directer(beta=BETA)),
    }
    setup.prefetch([*steered.values(), *others.values()])
    setup.prefetch(steered.values(), setup.validation())
    validated = {
        count: means(setup.samples(way, setup.validation()))["average_percent"] for count, way in steered.items()
    }
    chosen = best(validated, validated.__getitem__)
    everything = setup.samples(steered[len(ranked)])
    rows: list[dict[str, Any]] = []
    for count, way in steered.items():
        about = {"method": "pasta", "heads": count, "share_percent": 100 * count / len(ranked)}
        picked = {"validation_percent": validated[count], "chosen": count == chosen}
        rows.append(about | picked | _against(everything, setup.samples(way)))
    for name, way in others.items():
        about = {"method": name, "heads": 0, "share_percent": 0.0, "validation_percent": float("nan"), "chosen": False}
        rows.append(about | _against(everything, setup.samples(way)))
    table = pd.DataFrame(rows)
    return table.assign(p_adjusted=adjusted(table.assign(all="heads"), "p_by_topic", ["all"]))


def _against(everything: "pd.DataFrame", table: "pd.DataFrame") -> dict[str, Any]:
    changed = next(row for row in difference(everything, table) if row["measure"] == "average")
    return means(table) | {name: changed[name] for name in ("difference_pp", "low_pp", "high_pp", "p_by_topic")}
