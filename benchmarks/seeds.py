"""The headline effect of a bundled model's study, on models that are trained again with other seeds.

A bundled checkpoint is one draw: another seed, or the same seed on another machine, gives another model. For each seed
the organism is trained (see ``mechsteer organisms list`` for how long that takes) and measured:

- trap-t5: strict success of the mined vector beside none, beside random directions, and what it costs in recall;
- instruct-llama: adherence and fidelity with 24 notes, unsteered and under GUIDE, delta 2;
- rules-gpt2: exact match of four rules without examples, and under vectors that are learned from eight words.

Run: ``.venv/bin/python -m benchmarks.seeds NAME [--seeds 100 101 102] [--out results/seeds]``. A checkpoint that lies
there is not trained again. The bundled checkpoint is measured too, as ``bundled``. Writes ``NAME.csv`` with a row a
model, and prints it with the range.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import tyro

import mechsteer as ms
from mechsteer.errors import one_of
from mechsteer.organisms import ORGANISMS
from mechsteer.report import titled
from mechsteer.studies.t5_dola import study as t5_dola

RULES = ("antonym", "synonym", "english-french", "english-german")


def trap_t5(model: Any, folder: Path) -> dict[str, float]:
    """The study's chosen cell beside its controls, and recall at that strength."""
    tables = t5_dola.run(model, folder, draw=False, progress=False).tables
    rows = tables["summary"].set_index("row")["strict_percent"]
    chosen, side = tables["summary"].iloc[1], tables["side_effects"]
    at = side[(side["task"] == "recall") & (side["scale"] == chosen["scale"])]
    random = {name: float(rows[rows.index.str.endswith(name)].iloc[0]) for name in ("smallest", "largest")}
    return {
        "unsteered": float(rows.iloc[0]),
        "steered": float(chosen["strict_percent"]),
        "random_smallest": random["smallest"],
        "random_largest": random["largest"],
        "recall_steered": float(at["percent"].iloc[0]),
    }


def instruct_llama(model: Any, folder: Path) -> dict[str, float]:
    """Instructions before 24 notes, unsteered and under GUIDE."""
    task = ms.tasks.instructions(notes=24, n=14)
    found = {}
    for name, steer in (("unsteered", None), ("guide", ms.attention_bias(delta=2.0))):
        rows = ms.evaluate(model, task, steer=steer)
        found |= {f"{measure}_{name}": 100 * float(rows[measure].mean()) for measure in ("adherence", "fidelity")}
    return found


def rules_gpt2(model: Any, folder: Path) -> dict[str, float]:
    """Four rules, without examples and under a vector of the first layer."""
    plain, learned = [], []
    for rule in RULES:
        words = ms.tasks.rules(rule, n=8, split="train").examples(model)
        vector = ms.sparse_direction(model, words, layer=0, validation=0.25, max_steps=30)
        task = ms.tasks.rules(rule)
        plain.append(ms.evaluate(model, task)["correct"].mean())
        learned.append(ms.evaluate(model, task, steer=ms.heads(vector))["correct"].mean())
    return {"zero_shot": 100 * sum(plain) / len(plain), "learned": 100 * sum(learned) / len(learned)}


MEASURES: Mapping[str, Callable[[Any, Path], dict[str, float]]] = {
    "trap-t5": trap_t5,
    "instruct-llama": instruct_llama,
    "rules-gpt2": rules_gpt2,
}


def main(
    name: Annotated[str, tyro.conf.Positional], seeds: tuple[int, ...] = (101, 102), out: Path = Path("results/seeds")
) -> pd.DataFrame:
    """Train and measure.

    Args:
        name: trap-t5, instruct-llama or rules-gpt2.
        seeds: Of the training.
        out: Folder for checkpoints and what is measured.
    """
    one_of("organism with a headline", name, MEASURES)
    rows = [{"seed": "bundled", **MEASURES[name](ms.load(f"organism:{name}"), out / f"{name}-bundled")}]
    for seed in seeds:
        checkpoint = out / f"{name}-{seed}" / "checkpoint"
        if not checkpoint.exists():
            ORGANISMS[name].train(checkpoint, seed=seed)
        rows.append({"seed": str(seed), **MEASURES[name](ms.load(str(checkpoint)), out / f"{name}-{seed}")})
    table = pd.DataFrame(rows)
    numbers = table.drop(columns="seed")
    ends = pd.DataFrame([{"seed": "least", **numbers.min()}, {"seed": "most", **numbers.max()}])
    table = pd.concat([table, ends], ignore_index=True)
    out.mkdir(parents=True, exist_ok=True)
    table.to_csv(out / f"{name}.csv", index=False)
    print(titled(f"{name} trained with other seeds (percent)", table))
    return table


if __name__ == "__main__":
    tyro.cli(main)
