"""The choice of a layer: its rule on hand-made tables and on the paper's own, and its filter."""

import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from tqdm import tqdm

import mechsteer as ms
from mechsteer.analysis.quality import perplexities
from mechsteer.studies import published
from mechsteer.studies.instruction_vectors.bench import WITHOUT, Bench, Filter, Prompts
from mechsteer.studies.instruction_vectors.choose import Choice, best, candidates, choose, grid

LOOP = "the fox and " * 20


def table(*rows: tuple[int, float, float]) -> pd.DataFrame:
    """Candidates by layer, accuracy and share of bad outputs."""
    made = pd.DataFrame(rows, columns=["layer", "accuracy", "bad"])
    return made.assign(step=0.0)


def test_the_grid_is_the_papers() -> None:
    assert grid(6) == [1, 3, 5]
    assert (grid(32)[0], grid(32)[-1], grid(26)[0], grid(26)[-1]) == (6, 30, 5, 25)  # Phi-3, Gemma 2 2B
    assert grid(42)[0] == 8 and grid(42)[-1] == 40  # Gemma 2 9B
    assert candidates([1, 3], (0.5, 1.0))[:3] == [Choice(), Choice(1, 0.5), Choice(1, 1.0)]


@pytest.mark.parametrize(
    ("rows", "layer"),
    [
        ([(-1, 0.0, 0), (1, 0.5, 0), (3, 1.0, 0), (5, 0.5, 0)], 3),  # the highest
        ([(-1, 0.0, 0), (5, 1.0, 0), (3, 1.0, 0)], 3),  # a tie: the lowest layer, in whatever order they come
        ([(1, 0.5, 0), (-1, 0.5, 0)], -1),  # a tie with no steering
        ([(-1, 0.25, 0), (1, 1.0, 0.125), (3, 0.5, 0)], 3),  # one bad output is too many
        ([(-1, 0.0, 0), (1, 1.0, 1.0)], -1),  # all are bad: 0, which is a tie with no steering
        ([(-1, 0.5, 1.0), (1, 0.25, 0)], -1),  # no steering keeps its accuracy
    ],
)
def test_the_rule_on_hand_made_tables(rows: list[tuple[int, float, float]], layer: int) -> None:
    assert best(table(*rows)).layer == layer


def test_a_base_model_tolerates_as_many_bad_outputs_as_it_has_unsteered() -> None:
    rows = table((-1, 0.0, 0.25), (1, 0.75, 0.25), (3, 1.0, 0.5))
    assert best(rows).layer == -1
    assert best(rows, tolerate=0.25).layer == 1


def test_ties_of_one_layer_go_to_the_weakest_coefficient() -> None:
    rows = table((-1, 0.0, 0), (1, 1.0, 0), (1, 1.0, 0)).assign(step=[0.0, 2.0, 1.0])
    assert best(rows) == Choice(1, 1.0)


def test_the_rule_finds_the_papers_layers_in_the_papers_validation() -> None:
    layers = published("steer_instruct_layers")
    compared = 0
    for (model, instruction, setting), part in published("steer_instruct_validation").groupby(
        ["model", "instruction", "setting"]
    ):
        same = (layers["model"] == model) & (layers["instruction"] == instruction) & (layers["setting"] == setting)
        rows = part[["layer", "accuracy"]].assign(bad=0.0, step=0.0)
        none = pd.DataFrame([{"layer": -1, "accuracy": 0.0, "bad": 0.0, "step": 0.0}])
        assert best(pd.concat([none, rows])).layer == int(layers.loc[same, "layer"].iloc[0])
        compared += 1
    assert compared == 2


class Scripted(Bench):
    """A bench whose outputs are written down."""

    def measure(self, task: Any, steer: Any = None) -> pd.DataFrame:
        outputs = {None: ["a fox"] * 2, 1.0: ["A FOX", LOOP], 2.0: ["A FOX"] * 2}[None if steer is None else steer]
        rows = {"output": outputs, "adherence": [text.isupper() for text in outputs], "fidelity": [1.0, 0.5]}
        return pd.DataFrame(rows).assign(bad=self._bad(outputs))


def scripted(tmp_path: Path, **options: Any) -> tuple[Choice, list[dict[str, Any]]]:
    bench = Scripted(None, tmp_path, 1, tqdm(disable=True))
    steps = [Choice(), Choice(3, 1.0), Choice(5, 2.0)]
    return choose(bench, Prompts().validated("upper"), lambda choice, _: choice.step, steps, **options)  # type: ignore[arg-type, return-value]


def test_every_candidate_is_a_row_with_what_was_compared(tmp_path: Path) -> None:
    chosen, rows = scripted(tmp_path)
    found = pd.DataFrame(rows)
    assert chosen == Choice(5, 2.0)
    assert found["adherence_percent"].tolist() == [0, 50, 100]
    assert found["bad_percent"].tolist() == [0, 50, 0]
    assert found["compared"].tolist() == [0, 0, 1]
    assert found["chosen"].tolist() == [False, False, True] and found["n"].tolist() == [2, 2, 2]


def test_adherence_times_fidelity_is_compared_where_it_is_asked_for_and_known(tmp_path: Path) -> None:
    assert pd.DataFrame(scripted(tmp_path, with_fidelity=True)[1])["compared"].tolist() == [0, 0, 0.75]
    unknown = scripted(tmp_path, with_fidelity=True, rescore=lambda rows: rows.assign(fidelity=math.nan))[1]
    assert pd.DataFrame(unknown)["compared"].tolist() == [0, 0, 1]


def test_outputs_are_bad_by_repetition_or_by_a_low_perplexity(tmp_path: Path) -> None:
    name = "organism:instruct-llama-base"
    texts = ["The fox is red and clever.", LOOP, ""]
    bench = Bench(None, tmp_path, 1, tqdm(disable=True))
    assert bench._bad(texts) == [False, True, False]
    values = perplexities(name, texts)
    between = Bench(None, tmp_path, 1, tqdm(disable=True), Filter(name, (values[0] + values[1]) / 2))
    assert between._bad(texts) == [values[0] < values[1], values[1] < values[0], False]
    assert Filter.by(name) == Filter(name, 2.5)
    assert len(list((tmp_path / "cells").iterdir())) == 1


def test_parts_of_the_validation_split_do_not_share_prompts() -> None:
    prompts = Prompts(n_validation=8)
    first, rest = prompts.validated("upper", WITHOUT), prompts.estimated("upper")
    assert (len(first.samples), len(rest.samples)) == (8, 20)
    assert not {s.task for s in first.samples} & {s.task for s in rest.samples}
    assert [s.name for s in prompts.settings] == [
        "without instruction",
        "with instruction",
        "with instruction, 24 notes",
    ]
    assert "Notes:" in prompts.tested("upper", prompts.settings[2]).samples[0].context


def test_few_prompts_are_warned_of_and_too_few_refused_with_their_numbers() -> None:
    with pytest.warns(UserWarning, match="'upper' comes from 6 pairs only"):
        Prompts(n_validation=22).check(["upper"])
    with pytest.raises(ms.MechsteerError, match=r"'upper': 1 for its vector \(at least 2\), 27 to"):
        Prompts(n_validation=27).check(["upper"])
