"""The comparison of dynamic and constant weights, on numbers that are written down."""

import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from tqdm import tqdm

from mechsteer.studies.instruction_vectors.bench import Bench, Prompts
from mechsteer.studies.instruction_vectors.choose import Choice
from mechsteer.studies.instruction_vectors.coefficients import exactly, weights
from mechsteer.studies.instruction_vectors.vectors import Steering

FOUND = {("upper", 5): {0.5: 0.25, 1.0: 0.75}, ("lower", 3): {0.5: 0.5, 1.0: 0.25}, ("lower", 5): {0.5: 0.0, 1.0: 1.0}}
"""The share that is followed, by kind, layer and constant."""

DYNAMIC = {"upper": 1.0, "lower": 0.75}


class Scripted(Bench):
    """A bench whose interventions are the adherence that they lead to."""

    def measure(self, task: Any, steer: Any = None) -> pd.DataFrame:
        followed = round(4 * (steer or 0.0))
        rows = {"adherence": [True] * followed + [False] * (4 - followed), "fidelity": self.model, "bad": False}
        return pd.DataFrame(rows)


class Written(Steering):
    """Interventions of that kind; vectors are places in ``FOUND``."""

    def vectors(self, kind: str) -> Any:
        return {layer: (kind, layer) for layer in self.layers}

    def make(self, kind: str) -> Any:
        return lambda choice, task: DYNAMIC[kind]

    def added(self, vector: Any, step: float) -> Any:
        return FOUND[vector][step]


def compared(tmp_path: Path, fidelity: float, monkeypatch: pytest.MonkeyPatch) -> pd.DataFrame:
    monkeypatch.setattr("mechsteer.studies.instruction_vectors.coefficients.CONSTANTS", (0.5, 1.0))
    choices = {("without instruction", kind): choice for kind, choice in _CHOICES.items()}
    bench = Scripted(fidelity, tmp_path, 1, tqdm(disable=True))
    return weights(bench, Prompts(), Written(bench, Prompts(), (1, 3, 5)), list(_CHOICES), choices)


_CHOICES = {"upper": Choice(5), "lower": Choice(3), "json": Choice()}


def test_constants_of_the_dynamic_layer_and_the_next_and_their_means(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = compared(tmp_path, 1.0, monkeypatch)
    places = list(zip(table["kind"], table["layer"], table["step"].fillna(0), strict=True))
    assert places == [
        ("upper", 5, 0), ("upper", 5, 0.5), ("upper", 5, 1),
        ("lower", 3, 0), ("lower", 3, 0.5), ("lower", 3, 1), ("lower", 5, 0.5), ("lower", 5, 1),
        ("mean", -1, 0), ("mean", -1, 0.5), ("mean", -1, 1), ("mean", -1, 0),
    ]  # fmt: skip
    means = table[table["kind"] == "mean"]
    assert means["adherence_percent"].tolist() == [87.5, 37.5, 50, 87.5]  # dynamic, c = 0.5, c = 1, each its best
    assert means["n"].tolist() == [8] * 4


@pytest.mark.parametrize("fidelity", [1.0, 0.5, math.nan])
def test_verdicts_compare_adherence_times_fidelity_or_adherence_where_it_is_unknown(
    fidelity: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = compared(tmp_path, fidelity, monkeypatch)
    percent = [f"{100 * part * (1 if math.isnan(fidelity) else fidelity):.1f}" for part in (1, 0.75, 0.875, 0.5)]
    full, most, mean, half = percent
    assert table[table["verdict"] != ""].set_index("kind")["verdict"].to_dict() == {
        "upper": f"better than the best constant, c = 1 norms at layer 5: {full} against {most} %",
        "lower": f"not better than the best constant, c = 1 norms at layer 5: {most} against {full} %",
        "mean": f"better than one constant for all, c = 1 norms: {mean} against {half} %; "
        f"as good as the best constant of each format: {mean} against {mean} %",
    }


class Sentences(Scripted):
    """A bench whose interventions say how many sentences answers have."""

    def measure(self, task: Any, steer: Any = None) -> pd.DataFrame:
        outputs = ["A. " * (4 if steer is None else steer)] * 4
        return pd.DataFrame({"output": outputs, "adherence": False, "fidelity": 1.0, "bad": steer == 2})


def test_the_weakest_coefficient_that_gives_n_sentences_and_no_bad_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mechsteer.studies.instruction_vectors.coefficients.LENGTHS", (0.25, 0.5, 0.75, 1.0))
    monkeypatch.setattr(Written, "added", lambda self, vector, step: {0.25: 3, 0.5: 3, 0.75: 2, 1.0: 1}[step])
    bench = Sentences(None, tmp_path, 1, tqdm(disable=True))
    choices = {("without instruction", "length"): Choice(3, 1.0)}
    table = exactly(bench, Prompts(), Written(bench, Prompts(), (1, 3, 5)), choices)
    found = table.set_index("sentences")
    assert found["step"].to_dict() == {1: 1.0, 2: 0.0, 3: 0.25, 4: 0.0}
    assert found["layer"].to_dict() == {1: 3, 2: -1, 3: 3, 4: -1}
    assert found["exactly_steered_percent"].to_dict() == {1: 100, 2: 0, 3: 100, 4: 100}
    assert found["exactly_unsteered_percent"].to_dict() == {1: 0, 2: 0, 3: 0, 4: 100}
