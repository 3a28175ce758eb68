"""The tables of the study :mod:`mechsteer.studies.layerwise`."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from mechsteer.models import predicting_stack
from mechsteer.steering import Intervention
from mechsteer.studies.core.choose import best
from mechsteer.studies.layerwise.baselines import PARTS, STEPS, difference, gradient
from mechsteer.studies.layerwise.bench import Bench, Learned, Weighting, exact_match, with_shots
from mechsteer.tasks import Rules, rules

if TYPE_CHECKING:
    import pandas as pd

EVERY = "mean of the rules"
SHARES = (0.0, 0.5, 1.0)
COMPOSED = (
    "english-french+capitalise",
    "english-german+capitalise",
    "antonym+capitalise",
    "english-french+singular-plural",
    "english-german+singular-plural",
    "english-french+singular-plural+capitalise",
)

Matrix = Float[Tensor, "seeds words"]


def by_layer(bench: Bench, names: Sequence[str]) -> "pd.DataFrame":
    """Exact match of unregularised vectors at each layer, and the loss on the held-out part of the training words."""
    import pandas as pd

    zero = {rule: bench.right(bench.testing(rule)).float()[None] for rule in names}
    rows = []
    for layer in range(predicting_stack(bench.model)[1]):
        found: dict[str, Matrix] = {}
        losses: dict[str, float] = {}
        for rule in names:
            learned = [bench.learn(bench.training(rule, seed), layer, seed)[0] for seed in bench.seeds]
            found[rule] = _rights(bench, bench.testing(rule), [one.steer for one in learned])
            losses[rule] = sum(one.validation_loss for one in learned) / len(learned)
        for rule in (*names, EVERY):
            parts = names if rule == EVERY else (rule,)
            loss = sum(losses[p] for p in parts) / len(parts)
            plain = exact_match([zero[p] for p in parts], "zero_shot")
            row = {"rule": rule, "layer": layer, **exact_match([found[p] for p in parts]), **plain}
            rows.append(row | {"validation_loss": loss, "seeds": len(bench.seeds), "n": _words(found, parts)})
    return pd.DataFrame(rows)


def best_layer(table: "pd.DataFrame") -> int:
    """The layer with the lowest loss on held-out training words, in mean over the rules."""
    every = table[table["rule"] == EVERY]
    return int(every["layer"].to_numpy()[every["validation_loss"].to_numpy().argmin()])


def by_examples(bench: Bench, names: Sequence[str], layer: int, counts: Sequence[int], shots: int) -> "pd.DataFrame":
    """Exact match by the number of training words, for each method; all methods have the same words.

    ``learned`` is at one layer, which was chosen from more words than a small count has (:func:`best_layer`).
    ``learned, own layer`` knows the count's own words alone: each rule and seed is at the layer where the loss on a
    held-out part of them is lowest. ``edge_percent``: how often a baseline's strength is the strongest that was tried.
    """
    import pandas as pd

    methods: dict[str, Callable[[str, Rules, int, int], tuple[Rules, Intervention | None]]] = {
        "zero-shot": lambda rule, words, n, seed: (bench.testing(rule), None),
        "few-shot": lambda rule, words, n, seed: (with_shots(bench.testing(rule), words, min(n, shots)), None),
        "difference in means": lambda rule, words, n, seed: (
            bench.testing(rule),
            difference(bench, words, min(n - 1, shots))[2],
        ),
        "gradient": lambda rule, words, n, seed: (bench.testing(rule), gradient(bench, words)[2]),
        "learned": lambda rule, words, n, seed: (bench.testing(rule), bench.learn(words, layer, seed)[0].steer),
        "learned, own layer": lambda rule, words, n, seed: (bench.testing(rule), own_layer(bench, words, seed).steer),
    }
    strengths = {
        "difference in means": lambda words, n: difference(bench, words, min(n - 1, shots))[1] == STEPS[-1],
        "gradient": lambda words, n: gradient(bench, words)[1] == PARTS[-1],
    }
    rows = []
    for count in counts:
        for method, make in methods.items():
            if method.endswith("own layer") and count > bench.n_train:  # as many fits again at every layer
                continue
            found: dict[str, Matrix] = {}
            edges: list[bool] = []
            for rule in names:
                words = {seed: bench.training(rule, seed, count) for seed in bench.seeds}
                made = [make(rule, words[seed], count, seed) for seed in bench.seeds]
                found[rule] = torch.stack([bench.right(*one).float() for one in made])
                if method in strengths:
                    edges += [strengths[method](words[seed], count) for seed in bench.seeds]
            for rule in (*names, EVERY):
                parts = names if rule == EVERY else (rule,)
                row = {"rule": rule, "method": method, "examples": count, **exact_match([found[p] for p in parts])}
                rows.append(row | {"seeds": len(bench.seeds), "n": _words(found, parts)})
                if rule == EVERY and edges:
                    rows[-1]["edge_percent"] = 100 * sum(edges) / len(edges)
    return pd.DataFrame(rows)


def own_layer(bench: Bench, words: Rules, seed: int) -> Learned:
    """The vector of some words at the layer with the lowest loss on a held-out part of them; of equals the lowest."""
    learned = (bench.learn(words, layer, seed)[0] for layer in range(predicting_stack(bench.model)[1]))
    found = best(learned, lambda one: -one.validation_loss)
    assert found is not None
    return found


def tradeoff(
    bench: Bench, names: Sequence[str], layer: int, points: int
) -> "tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]":
    """Exact match against non-zero heads along the weights.

    Returns:
        One row a rule, share of the l1 weight and weight (as a part of the largest that matters; 0 is unregularised);
        one row a rule for the vectors that each seed's validation loss chooses among those on at most a quarter of the
        heads, with ``edge_percent``, how often that is the weakest regularisation that was tried; and the entries of
        the first seed's vectors.
    """
    import pandas as pd

    rows: list[dict[str, Any]] = []
    sparse: list[dict[str, Any]] = []
    values: list[dict[str, Any]] = []
    picked: dict[str, Matrix] = {}
    for rule in names:
        test = bench.testing(rule)
        dense = [bench.learn(bench.training(rule, seed), layer, seed)[0] for seed in bench.seeds]
        rows.append(_point(bench, test, rule, None, 0.0, dense))
        candidates: list[list[Learned]] = [[] for _ in bench.seeds]
        weakest: list[Learned] = []
        for share in SHARES:
            weighting = Weighting(share, points)
            paths = [bench.learn(bench.training(rule, seed), layer, seed, weighting) for seed in bench.seeds]
            for place, part in enumerate(weighting.parts):
                rows.append(_point(bench, test, rule, share, part, [path[place] for path in paths]))
            for place, path in enumerate(paths):
                candidates[place] += path
                weakest.append(path[-1])
        chosen = [_quarter(bench, options) for options in candidates]
        picked[rule] = _rights(bench, test, [one.steer for one in chosen])
        edge = 100 * sum(any(one is end for end in weakest) for one in chosen) / len(chosen)
        about = {"rule": rule, "edge_percent": edge, **_sizes(chosen)}
        sparse.append(about | exact_match([picked[rule]]) | {"n": len(test.samples)})
        values += _values(rule, "unregularised", dense[0], bench) + _values(rule, "regularised", chosen[0], bench)
    averaged = ("edge_percent", "heads", "entries", "l1", "group_l2")
    means = {key: sum(row[key] for row in sparse) / len(sparse) for key in averaged}
    every = {"rule": EVERY, **means, "most_heads": max(row["most_heads"] for row in sparse)}
    sparse.append(every | exact_match(list(picked.values())) | {"n": _words(picked, names)})
    allowed = {"heads_allowed": bench.n_heads // 4, "heads_of_the_layer": bench.n_heads, "seeds": len(bench.seeds)}
    return pd.DataFrame(rows), pd.DataFrame(sparse).assign(**allowed), pd.DataFrame(values)


def _quarter(bench: Bench, options: Sequence[Learned]) -> Learned:
    """The lowest validation loss on at most a quarter of the heads (at least one); ties to fewer heads.

    Zero where the path jumps from zero to more heads, which it may, for the loss is not convex.
    """
    most = max(1, bench.n_heads // 4)
    return min((one for one in options if one.heads <= most), key=lambda one: (one.validation_loss, one.heads))


def _point(
    bench: Bench, test: Rules, rule: str, share: float | None, part: float, learned: Sequence[Learned]
) -> dict[str, Any]:
    right = _rights(bench, test, [one.steer for one in learned])
    where = {"rule": rule, "l1_share": share, "weight": part}
    loss = sum(one.validation_loss for one in learned) / len(learned)
    return where | _sizes(learned) | exact_match([right]) | {"validation_loss": loss, "n": len(test.samples)}


def _sizes(learned: Sequence[Learned]) -> dict[str, float]:
    """Means over seeds, and the most heads of any."""
    names = ("heads", "entries", "l1", "group_l2")
    means = {name: sum(getattr(one, name) for one in learned) / len(learned) for name in names}
    return means | {"most_heads": max(one.heads for one in learned)}


def _values(rule: str, which: str, learned: Learned, bench: Bench) -> list[dict[str, Any]]:
    """The entries of a vector, one row each."""
    width = bench.model.cfg.d_head
    vector = torch.zeros(bench.n_heads * width) if learned.direction is None else learned.direction.vector
    return [
        {"rule": rule, "vector": which, "head": place // width, "dimension": place % width, "value": value}
        for place, value in enumerate(vector.tolist())
    ]


def calculus(bench: Bench, layer: int, shots: int) -> "pd.DataFrame":
    """Sums of the vectors of elementary rules, on the rules that are composed of them.

    Test words are those that no part was trained on. "sum at the best layer" is the layer that is best on these very
    words: an upper bound.
    """
    import pandas as pd

    rows = []
    found: dict[str, list[Matrix]] = {}
    for name in COMPOSED:
        parts = name.split("+")
        task = _untrained(bench.testing(name), parts)
        learned = {part: [_steer(bench, part, layer, seed) for seed in bench.seeds] for part in parts}
        sums = {place: _sums(bench, task, parts, place) for place in range(predicting_stack(bench.model)[1])}
        examples = [bench.training(name, seed) for seed in bench.seeds]
        ways = {
            "zero-shot": torch.stack([bench.right(task).float()]),
            "few-shot": torch.stack([bench.right(with_shots(task, words, shots)).float() for words in examples]),
            "best part alone": max((_rights(bench, task, steers) for steers in learned.values()), key=torch.mean),
            "sum of the parts": sums[layer],
            "sum at the best layer": max(sums.values(), key=torch.mean),
            "learned on it": _rights(bench, task, [_steer(bench, name, layer, seed) for seed in bench.seeds]),
        }
        for way, right in ways.items():
            found.setdefault(way, []).append(right)
            numbers = {"parts": len(parts), "seeds": len(right), "n": len(task.samples)}
            rows.append({"rule": name, "method": way, **exact_match([right]), **numbers})
    for way, right in found.items():
        numbers = {"parts": 0, "seeds": len(bench.seeds), "n": sum(one.shape[1] for one in right)}
        rows.append({"rule": "mean of the compositions", "method": way, **exact_match(right), **numbers})
    return pd.DataFrame(rows)


def _sums(bench: Bench, task: Rules, parts: Sequence[str], layer: int) -> Matrix:
    """What is right with the vectors of all parts at a layer."""
    steers = [[_steer(bench, part, layer, seed) for part in parts] for seed in bench.seeds]
    return _rights(bench, task, [sum(of_seed, start=Intervention()) for of_seed in steers])


def _steer(bench: Bench, rule: str, layer: int, seed: int) -> Intervention:
    return bench.learn(bench.training(rule, seed), layer, seed)[0].steer or Intervention()


def _untrained(task: Rules, parts: Sequence[str]) -> Rules:
    trained = {sample.question for part in parts for sample in rules(part, split="train").samples}
    return replace(task, samples=tuple(s for s in task.samples if s.question not in trained))


def _rights(bench: Bench, task: Rules, steers: Sequence[Intervention | None]) -> Matrix:
    bench.prefetch(task, steers)
    return torch.stack([bench.right(task, steer).float() for steer in steers])


def _words(found: dict[str, Matrix], parts: Sequence[str]) -> int:
    return sum(found[part].shape[1] for part in parts)
