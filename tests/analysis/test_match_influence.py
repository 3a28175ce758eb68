"""Choosing Delta by Influence: the Delta that is found has the Influence that was asked for."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import mechsteer as ms
from mechsteer.analysis.match_influence import influences, match_influence

FAMILIES = ["llama-gqa", "t5"]


@pytest.fixture
def prompts() -> Callable[[Any], list[ms.Prompt]]:
    def make(model: Any) -> list[ms.Prompt]:
        texts = [("the cat sat", "answer in capitals"), ("red dog on the mat in a house", "write one word")]
        return [ms.prompt(model, task, instruction=instruction) for task, instruction in texts]

    return make


def read(model: Any, prompt: ms.Prompt, delta: float, last: int, layer: int = -1) -> float:
    """Influence, plainly: the mean of the last rows of the table."""
    table = ms.influence(model, prompt, delta=delta)
    table = table[table["stack"] != "encoder"]
    layer = layer % (table["layer"].max() + 1)
    values = table[table["layer"] == layer].sort_values("position")["influence"].tolist()[-last:]
    return sum(values) / len(values)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("layer", [-1, 0])
def test_one_number_a_prompt(tiny: Callable, prompts: Callable, family: str, layer: int) -> None:
    model = tiny(family)
    made = prompts(model)
    for last in (1, 3, 1000):
        wanted = [read(model, prompt, 0.7, last, layer) for prompt in made]
        assert influences(model, made, last=last, layer=layer, delta=0.7) == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_delta_has_the_influence_of_the_target(tiny: Callable, prompts: Callable, family: str) -> None:
    model = tiny(family)
    made = prompts(model)
    targets = [read(model, prompt, delta, 3) for prompt, delta in zip(made, (1.3, -0.8), strict=True)]
    table = match_influence(model, made, targets, last=3, low=-4.0, tolerance=1e-3)
    assert table["prompt"].tolist() == [0, 1]
    for row, prompt, target, delta in zip(table.to_dict("records"), made, targets, (1.3, -0.8), strict=True):
        assert row["target"] == pytest.approx(target) and row["unbiased"] == pytest.approx(read(model, prompt, 0.0, 3))
        assert row["influence"] == pytest.approx(read(model, prompt, row["delta"], 3), abs=1e-6)
        assert row["influence"] == pytest.approx(target, rel=1e-3)
        if family != "t5":  # there Influence does not grow with Delta everywhere
            assert row["delta"] == pytest.approx(delta, abs=0.05)


def test_one_delta_for_all_brings_the_means_together(tiny: Callable, prompts: Callable) -> None:
    model = tiny("llama-gqa")
    made = prompts(model)
    target = sum(read(model, prompt, 2.0, 3) for prompt in made) / 2
    (row,) = match_influence(model, made, target, last=3, together=True, tolerance=1e-4).to_dict("records")
    found = sum(read(model, prompt, row["delta"], 3) for prompt in made) / 2
    assert row["prompt"] == -1 and found == pytest.approx(target, rel=1e-4)
    assert row["delta"] == pytest.approx(2.0, abs=0.01)


def test_targets_may_be_prompts(tiny: Callable, prompts: Callable) -> None:
    model = tiny("llama-gqa")
    made = prompts(model)
    others = made[::-1]
    table = match_influence(model, made, others, last=3, low=-6.0, tolerance=1e-3)
    assert table["target"].tolist() == pytest.approx([read(model, prompt, 0.0, 3) for prompt in others], abs=1e-6)
    assert table["influence"].tolist() == pytest.approx(table["target"].tolist(), rel=1e-3)


def test_a_continuation_follows_each_prompt_and_its_target(tiny: Callable, prompts: Callable) -> None:
    model = tiny("llama-gqa")
    made, after = prompts(model), [" the cat", " one"]
    wanted = influences(model, made, delta=1.0, last=1, continuation=after)
    table = match_influence(model, made, wanted, last=1, tolerance=1e-3, continuation=after)
    assert table["unbiased"].tolist() == pytest.approx(influences(model, made, last=1, continuation=after))
    assert table["influence"].tolist() == pytest.approx(wanted, rel=1e-3)
    assert table["delta"].tolist() == pytest.approx([1.0, 1.0], abs=0.05)
    own = match_influence(model, made, made, last=1, continuation=after)
    assert own["evaluations"].tolist() == [1, 1] and own["target"].tolist() == own["unbiased"].tolist()
    (one,) = match_influence(model, made, made, last=1, continuation=after, together=True).to_dict("records")
    assert one["unbiased"] == pytest.approx(table["unbiased"].mean())


@pytest.mark.usefixtures("unchecked")
def test_several_spans_are_refused(tiny: Callable, prompts: Callable) -> None:
    model = tiny("llama-gqa")
    with pytest.raises(ms.MechsteerError, match=r"One span is read here, got \['instruction', 'task'\]"):
        match_influence(model, prompts(model), 0.2, ["instruction", "task"])


def test_a_target_that_is_there_already_needs_no_bias(tiny: Callable, prompts: Callable) -> None:
    model = tiny("llama-gqa")
    made = prompts(model)[:1]
    (row,) = match_influence(model, made, read(model, made[0], 0.0, 3), last=3).to_dict("records")
    assert (row["delta"], row["evaluations"]) == (0.0, 1)


def test_what_cannot_be_reached_is_said(tiny: Callable, prompts: Callable) -> None:
    model = tiny("llama-gqa")
    made = prompts(model)[:1]
    now, most = (read(model, made[0], delta, 3) for delta in (0.0, 1.0))
    with pytest.raises(ms.MechsteerError, match=rf"out of reach for prompt 0: .*{most:.4g} at Delta 1; raise high"):
        match_influence(model, made, (1 + most) / 2, last=3, high=1.0)
    with pytest.raises(ms.MechsteerError, match=rf"it is {now:.4g} at Delta 0; lower low"):
        match_influence(model, made, now / 2, last=3)
    with pytest.raises(ms.MechsteerError, match="Raise tolerance"):
        between = (now + most) / 2 * (1 + 1e-11)  # no float32 has this value
        match_influence(model, made, between, last=3, tolerance=1e-300)


@pytest.mark.parametrize(
    ("target", "options", "message"),
    [
        (1.0, {}, "between 0 and 1, got 1"),
        (0.0, {}, "between 0 and 1, got 0"),
        (float("nan"), {}, "target must be finite"),
        ([0.2], {}, "2 prompts but 1 targets"),
        (0.2, {"last": 0}, "last must be"),
        (0.2, {"tolerance": 0}, "tolerance must be above 0"),
        (0.2, {"low": 2.0, "high": 1.0}, "low must be at most 0"),
        (0.2, {"layer": 9}, "Layer 9 is out of range"),
        (0.2, {"span": "context"}, "context"),
        (0.2, {"source": "stream"}, "Unknown source"),
    ],
)
def test_what_it_refuses(tiny: Callable, prompts: Callable, target: Any, options: dict[str, Any], message: str) -> None:
    model = tiny("llama-gqa")
    with pytest.raises(ms.MechsteerError, match=message):
        match_influence(model, prompts(model), target, **options)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    "number", [np.float32(0.5), np.array(0.5), torch.tensor(0.5)], ids=["scalar", "array", "tensor"]
)
def test_a_number_may_be_numpys_or_torchs(number: Any, tiny: Callable, prompts: Callable) -> None:
    model = tiny("llama-gqa")
    made = prompts(model)[:1]
    pd.testing.assert_frame_equal(ms.influence(model, made, delta=number), ms.influence(model, made, delta=0.5))
    wide = {"low": -8.0, "high": 40.0}
    pd.testing.assert_frame_equal(
        ms.match_influence(model, made, number, **wide), ms.match_influence(model, made, 0.5, **wide)
    )
