"""The steering cells of a sweep: each is a direct call of the library, on both families, in whatever process."""

import json
from pathlib import Path
from typing import Any

import pytest
from pandas.testing import assert_frame_equal

import mechsteer as ms
from mechsteer.errors import MechsteerError
from mechsteer.studies.sweep import steering as sweep_steering
from mechsteer.studies.sweep import sweep
from mechsteer.studies.sweep.grids import Cell, grid
from mechsteer.studies.sweep.steering import NAMES, direction_of, normal, run, steering_of, task_of

T5 = {"model": "organism:trap-t5", "task": "memotrap", "n": 3, "max_new_tokens": 6}
LLAMA = {"model": "organism:instruct-llama", "task": "instructions", "kind": "upper", "n": 2, "max_new_tokens": 8}


def cell(base: dict[str, Any], **more: Any) -> Cell:
    return normal(Cell.of(base | more))


@pytest.fixture(scope="module")
def llama(instruct_llama: Any) -> Any:
    return instruct_llama


def pairs(model: Any) -> list[tuple[Any, Any]]:
    """The validation prompts with and without their instruction."""
    task = ms.tasks.instructions("upper", split="validation")
    return list(zip(task.prompts(model), task.prompts(model, with_instruction=False), strict=True))


def test_an_unsteered_cell_is_evaluate(llama: Any, trap_t5: Any) -> None:
    for base, model in ((T5, trap_t5), (LLAMA, llama)):
        made = cell(base)
        direct = ms.evaluate(model, task_of(made))
        table = run(made, model)
        own = [name for name in direct.columns if name not in ("task", "method", "strength", "seed")]
        assert_frame_equal(table[own], direct[own])
        assert (table["scale"] == 0).all() and len(table) == base["n"]


def test_the_task_is_what_the_cell_says() -> None:
    notes = cell(LLAMA, notes=3, with_instruction=False, split="validation", max_new_tokens=None)
    assert task_of(notes) == ms.tasks.instructions("upper", notes=3, with_instruction=False, split="validation", n=2)
    assert task_of(cell(T5, split="mining")).samples == ms.tasks.memotrap().mining[:3]
    assert task_of(cell(T5)).max_new_tokens == 6


def test_vectors_are_made_on_the_other_split_and_scaled_by_their_unit(llama: Any, trap_t5: Any, tmp_path: Path) -> None:
    direct = ms.difference_in_means(llama, pairs(llama), layer=2)
    d, zbar, a = direct.norm, direct.mean_projection, direct.activation_norm
    expected = [("add", "direction", 0.5 * d), ("add", "activation", 0.5 * a), ("add", "absolute", 0.5)]
    expected += [("project", "direction", zbar - 0.5 * d), ("project", "activation", 0.5 * a)]
    expected += [("project", "absolute", 0.5)]
    for method, unit, strength in expected:
        steer = steering_of(cell(LLAMA, method=method, layer=2, strength=0.5, unit=unit), llama, tmp_path)
        assert steer is not None
        (edit,) = steer.edits
        assert edit.direction is not None and edit.direction.vector.equal(direct.vector)
        assert (edit.method, edit.site) == (method, direct.site) and edit.strength == pytest.approx(strength)
    traps = ms.tasks.memotrap().mining
    mined = ms.gradient_direction(trap_t5, traps, layer=1)
    assert direction_of(cell(T5, method="add", layer=1, strength=1), trap_t5).vector.equal(mined.vector)
    stems = ms.difference_in_means(trap_t5, [(t.prompt, t.stem) for t in traps], layer=1)
    made = cell(T5, method="add", layer=1, strength=1, direction="difference_in_means")
    assert direction_of(made, trap_t5).vector.equal(stems.vector)


def test_a_random_direction_is_the_seeds_with_the_norms_of_the_mined_one(trap_t5: Any, tmp_path: Path) -> None:
    mined = direction_of(cell(T5, method="add", layer=1, strength=1), trap_t5, tmp_path)
    for seed in (0, 1):
        made = cell(T5, method="add", layer=1, strength=1, direction="random", seed=seed)
        drawn = direction_of(made, trap_t5, tmp_path)
        assert drawn.unit.allclose(ms.random_direction(trap_t5, seed=seed, layer=1).unit)
        assert drawn.norm == pytest.approx(mined.norm) and drawn.activation_norm == mined.activation_norm


def test_directions_are_kept_and_a_damaged_one_is_made_again(llama: Any, tmp_path: Path) -> None:
    made = cell(LLAMA, method="add", layer=2, strength=1)
    first = direction_of(made, llama, tmp_path)
    files = sorted(tmp_path.iterdir())
    assert len(files) == 6  # all layers in one pass
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sweep_steering, "differences_in_means", lambda *_: pytest.fail("made again"))
        assert direction_of(made, llama, tmp_path).vector.equal(first.vector)
        direction_of(cell(LLAMA, method="project", layer=5, strength=2), llama, tmp_path)
    files[2].write_bytes(files[2].read_bytes()[:100])
    assert direction_of(made, llama, tmp_path).vector.equal(first.vector)
    with pytest.raises(MechsteerError, match="layer must be 0 to 5, got 6"):
        direction_of(cell(LLAMA, method="add", layer=6, strength=1), llama, tmp_path)


@pytest.mark.parametrize(
    ("method", "strength"), [("attention_bias", 2.0), ("pasta", 0.1), ("spotlight", 0.3), ("scale_keys", 2.0)]
)
def test_attention_methods_act_on_the_instruction(method: str, strength: float, llama: Any) -> None:
    made = cell(LLAMA, method=method, strength=strength, notes=24)
    direct = ms.evaluate(llama, task_of(made), steer=getattr(ms, method)("instruction", strength))
    assert run(made, llama)["output"].tolist() == direct["output"].tolist()


def test_sampling_follows_the_seed(llama: Any) -> None:
    outputs = [run(cell(LLAMA, temperature=3.0, seed=seed), llama)["output"].tolist() for seed in (0, 0, 1)]
    assert outputs[0] == outputs[1] != outputs[2]


def test_what_has_no_meaning_makes_no_cells() -> None:
    base = {key: value for key, value in LLAMA.items() if key != "kind"}
    cells = {
        normal(c) for c in grid(**base, kind="upper", method=["none", "add", "pasta"], layer=[0, 1], strength=[0.5, 1])
    }
    assert len(cells) == 1 + 4 + 2
    assert normal(Cell.of(LLAMA | {"method": "none", "strength": 3, "seed": 4, "layer": 1})) == cell(LLAMA)
    assert cell(T5, method="add", layer=0, strength=1) == cell(T5, method="add", layer=0, strength=1.0, seed=3)
    assert tuple(cell(T5)) == NAMES and normal(cell(LLAMA)) == cell(LLAMA)


def test_a_file_of_ones_own_is_a_task(llama: Any, tmp_path: Path) -> None:
    path = tmp_path / "own.jsonl"
    asked = [{"prompt": s.task, "instruction": s.instruction} for s in ms.tasks.instructions("upper", n=6).samples]
    path.write_text("\n".join(map(json.dumps, asked)))
    base = {"model": "organism:instruct-llama", "task": str(path), "check": "uppercase", "max_new_tokens": 8}
    whole = ms.task(path, "uppercase", max_new_tokens=8)
    halves = [whole.on(split) for split in ("evaluation", "validation")]
    assert sorted(s.text for half in halves for s in half.samples) == sorted(s.text for s in whole.samples)
    table = run(cell(base, method="attention_bias", strength=2.0), llama)
    direct = ms.evaluate(llama, halves[0], steer=ms.attention_bias("instruction", 2.0))
    assert table["output"].tolist() == direct["output"].tolist() and table["adherence"].equals(direct["adherence"])
    assert len(run(cell(base, split="all", n=5), llama)) == 5
    steer = steering_of(cell(base, method="add", layer=2, strength=1.0), llama)
    vector = ms.difference_in_means(llama, halves[1].pairs(llama), layer=2).vector
    assert steer is not None and steer.edits[0].direction is not None and steer.edits[0].direction.vector.equal(vector)
    for wrong, said in (
        ({"check": "uppercas"}, "Did you mean 'uppercase'"),
        ({"kind": "x"}, "Unknown kind"),
        ({"split": "mining"}, "Unknown split"),
    ):
        with pytest.raises(MechsteerError, match=said):
            sweep([Cell.of(base | wrong)], tmp_path / "out", progress=False)
    with pytest.raises(MechsteerError, match="leaves no prompts to make a vector"):
        cell(base, split="all", method="add", layer=2, strength=1.0)


@pytest.mark.parametrize(
    ("base", "wrong", "said"),
    [
        (T5, {"stength": 1}, "Unknown name in a cell of a steering sweep: 'stength'. Did you mean 'strength'"),
        (T5, {"task": "memotrp"}, "Unknown task 'memotrp'. Did you mean 'memotrap'"),
        (T5, {"task": None}, "needs 'task'"),
        (T5, {"model": None}, "needs 'model'"),
        (T5, {"method": "ad"}, "Unknown method 'ad'. Did you mean 'add'"),
        (T5, {"method": "add", "strength": 1}, "needs 'layer'"),
        (T5, {"method": "add", "layer": 1}, "needs 'strength'"),
        (T5, {"method": "add", "layer": -1, "strength": 1}, "layer must be an integer of at least 0"),
        (T5, {"method": "add", "layer": 0, "strength": "x"}, "strength must be a number"),
        (T5, {"method": "add", "layer": 0, "strength": 1, "unit": "norm"}, "Unknown unit 'norm'"),
        (T5, {"method": "project", "layer": 0, "strength": 1, "direction": "random"}, "no mean projection"),
        (T5, {"method": "pasta", "strength": 0.5}, "acts on the span"),
        (T5, {"n": 0}, "n must be"),
        (T5, {"temperature": "hot"}, "temperature must be a number"),
        (T5, {"temperature": 1, "seed": 0.5}, "seed must be an integer"),
        (LLAMA, {"kind": None}, "needs 'kind'"),
        (LLAMA, {"with_instruction": 1}, "with_instruction must be true or false"),
        (LLAMA, {"method": "pasta", "strength": 0.5, "with_instruction": False}, "acts on the span"),
        (LLAMA, {"method": "add", "layer": 0, "strength": 1, "direction": "gradient"}, "direction for instructions"),
        (LLAMA, {"max_new_tokens": True}, "max_new_tokens must be"),
    ],
)
def test_cells_that_make_no_sense_are_named(base: dict[str, Any], wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(MechsteerError, match=said):
        cell(base, **wrong)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"kind": "uper"}, "Unknown kind of instruction 'uper'. Did you mean 'upper'"),
        ({"split": "mining"}, "Unknown split 'mining'"),
        ({"notes": 10**6}, "notes must be"),
        ({"model": "organism:instruct-lama"}, "Did you mean 'instruct-llama'"),
    ],
)
def test_a_sweep_refuses_them_before_anything_is_written(wrong: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(MechsteerError, match=said):
        sweep([Cell.of(LLAMA), Cell.of(LLAMA | wrong)], tmp_path / "out", progress=False)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("unchecked")
def test_worker_processes_give_the_rows_of_this_process(tmp_path: Path) -> None:
    cells = [
        *grid(**LLAMA, method=["none", "add"], layer=[1, 3], strength=1),
        *grid(**T5, method="add", direction=["gradient", "random"], layer=2, strength=[0.5, 1.0]),
    ]
    here = sweep(cells, tmp_path / "here", progress=False)
    there = sweep(cells, tmp_path / "there", executor="processes", workers=2, progress=False)
    assert set(here.summary["state"]) == {"finished"} and len(here.summary) == 3 + 4
    assert_frame_equal(here.tables["results"], there.tables["results"])
    assert (tmp_path / "here" / "results.parquet").read_bytes() == (tmp_path / "there" / "results.parquet").read_bytes()
    assert here.summary["adherence"].notna().tolist() == [True] * 3 + [False] * 4
