"""What predicts success: AUC and correlation by hand and against loops; the predictors against their definitions."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import mechsteer as ms
from mechsteer.studies.guide.predict import PREDICTORS, auc, pearson, predict, predictors

ONCE = torch.ones(1, 6, dtype=torch.float64)


def loop(values: list[float], success: list[bool], group: list[int], weight: list[float]) -> float:
    """AUC over the pairs of one group, one after another."""
    above = total = 0.0
    for i in range(len(values)):
        for j in range(len(values)):
            if success[i] and not success[j] and group[i] == group[j]:
                pair = weight[i] * weight[j]
                total += pair
                above += pair * (1.0 if values[i] > values[j] else 0.5 if values[i] == values[j] else 0.0)
    return above / total


def test_auc_by_hand() -> None:
    values, success = torch.tensor([1.0, 2, 3, 4, 4, 5]), torch.tensor([False, True, False, True, False, True])
    one = torch.zeros(6, dtype=torch.long)
    # pairs: 2 against 1, 3, 4: one of three; 4 against 1, 3, 4: two and a half; 5: three
    assert auc(values, success, one, ONCE).item() == pytest.approx(6.5 / 9)
    # groups {1, 2, 3} and {4, 4, 5}: 2 against 1 and 3: one of two; 4 and 5 against 4: one and a half of two
    two = torch.tensor([0, 0, 0, 1, 1, 1])
    assert auc(values, success, two, ONCE).item() == pytest.approx(2.5 / 4)
    assert auc(values, torch.ones(6, dtype=torch.bool), one, ONCE).isnan().all()


def test_auc_and_pearson_against_loops_under_any_weights() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        values, success, group = rng.integers(0, 5, 12).tolist(), rng.random(12) > 0.4, rng.integers(0, 3, 12)
        weight = rng.integers(0, 3, 12).astype(float)
        counts = torch.tensor(weight)[None]
        tensors = torch.tensor(values, dtype=torch.float64), torch.tensor(success), torch.tensor(group)
        try:
            wanted = loop(values, success.tolist(), group.tolist(), weight.tolist())
        except ZeroDivisionError:
            continue
        assert auc(*tensors, counts).item() == pytest.approx(wanted)
        rows = np.repeat(np.arange(12), weight.astype(int))
        table = pd.DataFrame({"x": np.array(values, float)[rows], "y": success[rows].astype(float), "g": group[rows]})
        centred = table[["x", "y"]] - table.groupby("g")[["x", "y"]].transform("mean")
        if centred["x"].std() > 1e-9 and centred["y"].std() > 1e-9:
            wanted = np.corrcoef(centred["x"], centred["y"])[0, 1]
            assert pearson(*tensors, counts).item() == pytest.approx(wanted, abs=1e-9)


def test_the_table_parts_what_length_explains_from_what_it_does_not() -> None:
    rng = np.random.default_rng(1)
    rows = []
    for length in (10, 20):
        for number in range(60):
            success = bool(rng.random() < (0.8 if length == 10 else 0.2))
            values = {name: rng.random() for name in PREDICTORS} | {"1 / length": 1 / length}
            values["influence"] = success + rng.normal() * 0.3  # knows
            rows.append({"task": "t", "length": length, "kind": str(number % 2), "score": float(success), **values})
    table = predict(pd.DataFrame(rows), samples=200).set_index(["predictor", "within"])
    assert set(table.index.get_level_values("within")) == {"all", "length", "length and kind"}
    assert table.loc[("influence", "length"), "auc"] > 0.9 and table.loc[("influence", "length"), "pearson_r"] > 0.7
    assert table.loc[("1 / length", "all"), "auc_low"] > 0.6
    assert table.loc[("1 / length", "length"), "auc"] == 0.5 and np.isnan(
        table.loc[("1 / length", "length"), "pearson_r"]
    )
    assert table.loc[("rollout", "all"), "auc_low"] < 0.5 < table.loc[("rollout", "all"), "auc_high"]
    assert (table["auc_low"] <= table["auc"]).all() and (table["auc"] <= table["auc_high"]).all()
    ones = [row["score"] for row in rows if row["length"] == 10], [row["score"] for row in rows if row["length"] == 20]
    assert table.loc[("rollout", "length"), "pairs"] == sum(sum(s) * (60 - sum(s)) for s in ones)
    one_kind = predict(pd.DataFrame(rows).assign(kind=""), samples=10)
    assert set(one_kind["within"]) == {"all", "length"}


def test_predictors_are_their_definitions(tiny: Callable[..., Any]) -> None:
    model = tiny("llama-gqa")
    texts = ["the cat sat on the mat", "red dog in a house on the mat , the cat sat"]
    made = [ms.prompt(model, text, instruction="write one word") for text in texts]
    table = predictors(model, made, "instruction", last=4)
    last = model.cfg.n_layers - 1
    for row, prompt in zip(table.to_dict("records"), made, strict=True):
        assert row["tokens"] == len(prompt) and row["1 / length"] == 1 / len(prompt)
        for name, measured in (("influence", ms.influence(model, prompt)), ("rollout", ms.rollout(model, prompt))):
            at = measured[measured["layer"] == last][name].tolist()
            assert row[name] == pytest.approx(sum(at[-4:]) / 4, abs=1e-6)
        weights, _, _ = ms.analysis.attention(model, prompt, last)
        wanted = [float(head[-1, i]) for head in weights for i in prompt.positions("instruction")]
        assert row["attention"] == pytest.approx(sum(wanted) / len(wanted), abs=1e-6)
