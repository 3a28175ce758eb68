"""What is said last: errors that name the way out of a likely mistake, whatever form the mistake takes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import mechsteer as ms
from mechsteer.command import reproduce
from mechsteer.studies.core.result import Result
from mechsteer.studies.sweep.grids import read_grid
from mechsteer.tasks.named import named_task

pytestmark = pytest.mark.usefixtures("unchecked")

LAYERS = "blocks.1.hook_resid_post"


@pytest.fixture(scope="module")
def model(instruct_llama: Any) -> Any:
    return instruct_llama


@pytest.fixture
def direction() -> ms.Direction:
    return ms.Direction(torch.ones(4), LAYERS, "by hand", 1.0, 8.0)


def said(call: Callable[[], Any], kind: type[Exception] = ms.MechsteerError) -> str:
    with pytest.raises(kind) as caught:
        call()
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "here"),
    [("GUIDE", "ms.attention_bias"), ("guide", "ms.attention_bias"), ("caa", "ms.difference_in_means"),
     ("lens", "ms.logit_lens"), ("attention", "ms.analysis.attention"), ("evalute", "ms.evaluate"),
     ("directer", "ms.Directer?")],
)  # fmt: skip
def test_a_name_that_is_not_there(name: str, here: str) -> None:
    assert here in said(lambda: getattr(ms, name), AttributeError)
    assert not hasattr(ms, name)


def test_private_names_are_no_riddles() -> None:
    assert said(lambda: ms.__wrapped__, AttributeError).endswith("'__wrapped__'.")
    assert "ms.studies.guide" in said(lambda: ms.studies.gude, AttributeError)


@pytest.mark.parametrize(
    ("wrong", "way"),
    [("guide", "ms.attention_bias"), (ms.attention_bias, "Call it"), (ms.Directer(), "strategy="), (2.0, "2.0")],
)
def test_steer_and_what_it_is_not(model: Any, wrong: Any, way: str) -> None:
    assert way in said(lambda: ms.generate(model, "Tell me", steer=wrong))


@pytest.mark.parametrize(
    ("wrong", "way"),
    [("directer", "ms.Directer?"), ("greedy", "ms.Greedy?"), (ms.Directer, "Call it"),
     (ms.attention_bias(delta=1.0), "steer=")],
)  # fmt: skip
def test_strategy_and_what_it_is_not(model: Any, wrong: Any, way: str) -> None:
    task = ms.task(["Tell me"], check="uppercase")
    for call in (
        lambda: ms.generate(model, "Tell me", strategy=wrong),
        lambda: ms.evaluate(model, task, strategy=wrong),
        lambda: ms.capture(model, "Tell me", sites="resid_post", generate=1, strategy=wrong),
    ):
        assert way in said(call)


@pytest.mark.parametrize("wrong", [[1.0, 2.0], np.ones(4), torch.ones(4), {3: torch.ones(4)}, {}, []])
def test_a_vector_is_no_direction_yet(wrong: Any) -> None:
    assert "ms.Direction(" in said(lambda: ms.add(wrong, 1.0))


def test_directions_of_layers_and_files(direction: ms.Direction) -> None:
    assert "directions[3]" in said(lambda: ms.project({3: direction}))
    assert "directions[0]" in said(lambda: ms.heads((direction, direction)))
    assert "ms.Direction.load('up.safetensors')" in said(lambda: ms.add("up.safetensors", 1.0))


@pytest.mark.parametrize(
    "arithmetic",
    [lambda a: 2 * a, lambda a: a * 2, lambda a: -a, lambda a: a / 2, lambda a: a - a, lambda a: a @ a],
)
def test_arithmetic_says_where_the_strength_is(direction: ms.Direction, arithmetic: Callable[[Any], Any]) -> None:
    assert "ms.add(direction, -2 * scale)" in said(lambda: arithmetic(direction))
    assert "ms.add(direction, 2 * scale)" in said(lambda: arithmetic(ms.add(direction, 1.0)))


def test_sums(direction: ms.Direction) -> None:
    steer = ms.add(direction, 1.0)
    assert len(sum([steer, steer]).edits) == 2
    assert "ms.add(one, scale)" in said(lambda: sum([direction, direction]))
    assert "got None" in said(lambda: steer + None)
    assert "Direction(by hand" in said(lambda: steer + direction)


@pytest.mark.parametrize("heads", [{2: [0, 1]}, [2, 3], (2, 3), "2.3", [("a", 1)], [], [(-1, 0)], [(1, 2, 3)], 4])
def test_heads_of_pasta(heads: Any) -> None:
    assert "[(2, 0), (3, 1)]" in said(lambda: ms.pasta(heads=heads))


def test_a_task_where_prompts_are_wanted_and_the_other_way(model: Any) -> None:
    task = ms.tasks.instructions("upper", n=2)
    for call in (
        lambda: ms.capture(model, task, sites="resid_post"),
        lambda: ms.difference_in_means(model, task, layer=1),
        lambda: ms.influence(model, task),
    ):
        assert "task.prompts(model)" in said(call)
    for wrong, way in (("own.jsonl", "ms.task('own.jsonl')"), (["Tell me"], "ms.task([...]")):
        for call in (
            lambda wrong=wrong: ms.compare(model, wrong, {"a": None}),
            lambda wrong=wrong: ms.tune(model, wrong),
            lambda wrong=wrong: ms.diagnose(model, wrong),
        ):
            assert way in said(call)
    assert "given as a list, ms.task([...])" in said(lambda: ms.task("Tell me about the writer.", check="uppercase"))
    assert "mechsteer score" in said(lambda: ms.score_outputs(task, "ab"))  # of as many letters as there are samples


@pytest.mark.parametrize(
    "read",
    [ms.Intervention.load, ms.Direction.load, ms.tasks.memotrap, ms.tasks.opinion, ms.tasks.ifeval],
)  # fmt: skip
def test_a_folder_in_the_place_of_a_file(read: Callable[[Any], Any], tmp_path: Path) -> None:
    assert "a folder is not a readable" in said(lambda: read(tmp_path))
    assert "No such" in said(lambda: read(tmp_path / "nothere.csv"))


def test_models_have_names(tmp_path: Path) -> None:
    assert "got None" in said(lambda: ms.load(None))
    for number in range(20):
        (tmp_path / f"{number}.txt").touch()
    assert "20 in all" in said(lambda: ms.load_sae(tmp_path)) and "9.txt" not in said(lambda: ms.load_sae(tmp_path))


def test_figures_are_drawn_from_tables(model: Any) -> None:
    prompt: Any = ms.prompt(model, "Tell me")
    nothing: Any = None
    for call in (
        lambda: ms.plots.token_view(prompt),
        lambda: ms.plots.lens_view(prompt),
        lambda: ms.plots.curves(nothing, prompt, y="a"),
        lambda: ms.plots.lines(nothing, prompt, x="a", y="b", by="c", xlabel="", ylabel="", title=""),
        lambda: ms.plots.heatmap(nothing, prompt, x="a", y="b", value="c", xlabel="", ylabel="", title="", limit=1),
    ):
        assert "drawn from a table" in said(call)
    assert "ms.analysis.attention" in said(lambda: ms.plots.attention_view(model, prompt))
    assert "query_tokens" in said(lambda: ms.plots.attention_view(np.ones((3, 3)), prompt))
    assert "of matplotlib" in said(lambda: ms.plots.save(prompt, "x"))


def test_folders_of_another_kind(tmp_path: Path) -> None:
    (tmp_path / "tuning.json").touch()
    assert "It is a tuning's; `mechsteer report`" in said(lambda: Result.load(tmp_path))
    (tmp_path / "a.txt").touch()
    assert "is a file" in said(lambda: Result.load(tmp_path / "a.txt"))
    assert "is a file, not a folder" in said(lambda: reproduce.report(reproduce.Report(tmp_path / "a.txt")))
    assert "A folder is none" in said(lambda: named_task(str(tmp_path)))
    (tmp_path / "config.json").touch()
    for model in (str(tmp_path), "organism:instruct-llama"):
        assert "are the arguments swapped?" in said(lambda model=model: named_task(model))
    assert said(lambda: read_grid(tmp_path / "no.toml")) == f"No such file: {tmp_path / 'no.toml'}."
