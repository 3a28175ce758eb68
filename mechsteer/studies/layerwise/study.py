"""Layerwise additive interventions (arXiv 2502.06115): a learned vector at one layer that makes a model follow a rule.

Paper: "Task-driven Layerwise Additive Activation Intervention". A vector is learned for a rule (antonym, synonym,
English-French, English-German) at the head outputs of one layer, with a lasso and a group lasso over heads; vectors of
rules are added for composed rules. No number of the paper could be obtained, nor its data, prompts, weights or
optimiser (see :mod:`mechsteer.directions.sparse`), so no published numbers stand beside ours.

Ours: the prompt is the bare question, without examples; vectors are learned on some words and tested on others
(:mod:`mechsteer.tasks.rules`). The layer is the one with the lowest loss on a held-out part of the training words.
Intervals are over seeds, which draw the training words, and over test words. Baselines have the same training words:
few-shot prompts (the organism reads no other instruction, so they are the prompt baseline), differences in means of
few-shot and zero-shot states, and the gradient of the right against the model's own wrong answer; both at the layer and
strength that make the training words' answers likeliest.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm.auto import tqdm

from mechsteer.errors import MechsteerError, listed, positive_int
from mechsteer.files import writable_dir
from mechsteer.models import load, provenance, taken_once
from mechsteer.studies.core.result import Result, finished
from mechsteer.studies.layerwise.bench import Bench
from mechsteer.studies.layerwise.opinions import opinions
from mechsteer.studies.layerwise.tables import best_layer, by_examples, by_layer, calculus, tradeoff
from mechsteer.studies.sweep.executors import Executor, kept
from mechsteer.tasks import rules

if TYPE_CHECKING:
    import pandas as pd

NAME = "layerwise"
MODEL = "organism:rules-gpt2"
RULES = ("antonym", "synonym", "english-french", "english-german")
"""The paper's rules."""


def run(
    model: Any = MODEL,
    out: str | os.PathLike[str] = "results/layerwise",
    *,
    names: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None = None,
    seeds: int = 5,
    n_train: int = 8,
    n_test: int | None = None,
    counts: Sequence[int] = (2, 4, 8, 16),
    shots: int = 5,
    points: int = 6,
    max_steps: int = 30,
    batch_size: int = 64,
    draw: bool = True,
    executor: Executor | None = None,
    progress: bool = True,
) -> Result:
    """Run the study; what was computed before in the same folder is not computed again.

    Args:
        model: A loaded model, or a name for :func:`mechsteer.load`.
        out: The folder for tables and figures.
        names: Rules: bundled ones by name, or JSON files in the function-vectors format; one or several. Default: the
            paper's four, and with them composed rules and the opinions.
        seeds: How many draws of training words.
        n_train: Training words of a rule.
        n_test: The most test words of a rule; default: all.
        counts: Numbers of training words to compare methods at; a rule with fewer gives all it has.
        shots: The most examples in a few-shot prompt.
        points: Weights on each regularisation path.
        max_steps: The most steps of a fit.
        batch_size: Prompts computed together.
        draw: Draw the figures; without, ``Result.figures()`` draws them.
        executor: Computes cells in workers: see :mod:`mechsteer.studies.core.bench`.
        progress: Show a bar.

    Returns:
        The tables: ``summary`` (a row a rule), ``layers``, ``examples``, ``tradeoff``, ``sparse`` (the vectors on at
        most a quarter of the heads), ``values`` (entries of vectors), and without ``names`` ``calculus`` and
        ``opinions``.

    Raises:
        MechsteerError: for an unknown rule, a broken file, other bad arguments, or a folder that cannot be written to.
    """
    chosen = _names(names)
    for name, value in (("seeds", seeds), ("n_train", n_train), ("shots", shots), ("points", points)):
        positive_int(name, value)
    for name, value in (("max_steps", max_steps), ("batch_size", batch_size), ("n_test", n_test)):
        if value is not None:
            positive_int(name, value)
    if n_train < 2 or not counts or min(positive_int("count", count) for count in listed("counts", counts)) < 2:
        raise MechsteerError(f"Two training words at least: n_train={n_train}, counts={list(counts)}.")
    for name in chosen:
        for split, n in (("test", None), ("train", 2)):  # refused before a model is loaded
            rules(name, split=split, n=n)
    folder = writable_dir(out)
    loaded = load(model) if isinstance(model, str) else model
    settings = {"rules": chosen, "seeds": seeds, "n_train": n_train, "max_steps": max_steps, "points": points}
    about = {**settings, **provenance(loaded)}
    with taken_once(), tqdm(desc=NAME, unit="cell", disable=not progress) as bar, kept(executor) as workers:
        bench = Bench(
            loaded, folder, batch_size, bar, n_train, n_test, tuple(range(seeds)), max_steps, executor=workers
        )
        tables = _tables(bench, chosen, list(counts), shots, points, whole=names is None)
    for name, table in tables.items():
        if "rule" in table.columns:  # of files the name alone
            table["rule"] = [Path(rule).name.removesuffix(".json") for rule in table["rule"]]
        tables[name] = table.assign(**provenance(loaded))
    return finished(NAME, folder, about, tables, draw=draw)


def _names(names: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None) -> list[str]:
    given = [names] if isinstance(names, str | os.PathLike) else list(RULES if names is None else names)
    chosen = list(dict.fromkeys(os.fspath(name) for name in given))
    if not chosen:
        raise MechsteerError("No rules were given.")
    return chosen


def _tables(
    bench: Bench, names: Sequence[str], counts: Sequence[int], shots: int, points: int, *, whole: bool
) -> "dict[str, pd.DataFrame]":
    stage = bench.bar.set_postfix_str
    stage("layers")
    layers = by_layer(bench, names)
    layer = best_layer(layers)
    stage("examples")
    examples = by_examples(bench, names, layer, counts, shots)
    stage("regularisation")
    points_table, sparse, values = tradeoff(bench, names, layer, points)
    tables = {"layers": layers, "examples": examples, "tradeoff": points_table, "sparse": sparse, "values": values}
    if whole:
        stage("calculus")
        tables["calculus"] = calculus(bench, layer, shots)
        stage("opinions")
        tables["opinions"] = opinions(bench, layer, points)
    return {"summary": _summary(tables, layer)} | {name: table.assign(at_layer=layer) for name, table in tables.items()}


def _summary(tables: "dict[str, pd.DataFrame]", layer: int) -> "pd.DataFrame":
    """A row a rule: each method with the most training words, and the vectors on few heads."""
    import pandas as pd

    examples = tables["examples"]
    most = examples[examples["examples"] == examples["examples"].max()]
    layers = tables["layers"].query("layer == @layer").set_index("rule")
    sparse = tables["sparse"].set_index("rule")
    rows = []
    for rule, part in most.groupby("rule", sort=False):
        row: dict[str, Any] = {"rule": rule, "layer": layer}
        row |= {m: p for m, p in zip(part["method"], part["exact_match_percent"], strict=True) if m != "learned"}
        for name, table in (("learned", layers), ("sparse", sparse)):
            row |= {f"{name}{end}": table.loc[rule, f"exact_match_percent{end}"] for end in ("", "_low", "_high")}
        rows.append(row | {"sparse_heads": sparse.loc[rule, "heads"], "n": layers.loc[rule, "n"]})
    return pd.DataFrame(rows)
