"""``tune`` as a whole: the same tables after a kill, what was chosen, the page, the command line, what is refused."""

import re
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pandas.testing import assert_frame_equal

import mechsteer as ms
from mechsteer.directions import random_direction
from mechsteer.steering import Intervention
from mechsteer.tasks import instructions, recall
from mechsteer.tuning import tune_run
from mechsteer.tuning.asking import WORDINGS, reworded, uninstructed
from mechsteer.tuning.ladders import Way
from mechsteer.tuning.result import repage
from mechsteer.tuning.trying import Asked, Runs
from tests.typecheck import unchecked

TABLES = ("curve", "best", "test", "rows")
PROMPTS = [
    "the cat sat on",
    "a dog in a house",
    "write a word",
    "one <b> two",
    "the mat",
    "red , blue",
    "a task on",
    "on",
]


METHODS = ("guide", "directer", "vector")


@pytest.fixture(scope="module")
def model(tiny: Callable[..., Any]) -> Any:
    return tiny("llama-gqa")


@pytest.fixture(scope="module")
def task(model: Any) -> Any:
    """Followed by every answer that is not the unsteered one."""
    samples = [{"prompt": text, "instruction": "answer in capitals"} for text in PROMPTS]
    plain = ms.evaluate(model, ms.task(samples, "uppercase", max_new_tokens=4))["output"].tolist()
    return ms.task(samples, lambda text, sample: text not in plain, name="other words", max_new_tokens=4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tuning")


@pytest.fixture(scope="module")
def found(model: Any, task: Any, folder: Path) -> Any:
    with unchecked():
        return ms.tune(model, task, METHODS, floor=0.0, out=folder)


def same(first: Any, second: Any) -> None:
    for name in TABLES:
        assert_frame_equal(getattr(first, name), getattr(second, name), rtol=0, atol=0)
    assert first.findings == second.findings and repr(first.intervention) == repr(second.intervention)


def test_settings_that_are_only_tried_do_not_warn_of_sinks(model: Any) -> None:
    def check(text: str, sample: Any) -> bool:
        warnings.warn("a setting moves a sink", ms.SinkWarning, stacklevel=1)
        return True

    samples = [{"prompt": text, "instruction": "answer in capitals"} for text in PROMPTS]
    with unchecked():
        ms.tune(model, ms.task(samples, check, max_new_tokens=1), "guide", floor=0.0, budget=0.05, progress=False)
    with pytest.warns(ms.SinkWarning):
        check("", None)


def test_a_killed_tuning_goes_on_and_ends_the_same(
    model: Any, task: Any, found: Any, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, calls, ends = type(task).run, [], [3, 3]

    def run(self: Any, *args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if ends and len(calls) == ends[0]:
            calls.clear()
            ends.pop(0)
            raise KeyboardInterrupt
        return original(self, *args, **kwargs)

    monkeypatch.setattr(type(task), "run", run)
    with unchecked():
        while ends:
            with pytest.raises(KeyboardInterrupt):
                ms.tune(model, task, METHODS, floor=0.0, out=tmp_path)
        same(found, ms.tune(model, task, METHODS, floor=0.0, out=tmp_path))
        assert calls
        calls.clear()
        same(found, ms.tune(model, task, METHODS, floor=0.0, out=tmp_path))
        assert not calls
    for name in TABLES:
        assert (tmp_path / f"{name}.csv").read_bytes() == (folder / f"{name}.csv").read_bytes()


def test_the_halves_and_the_arms(model: Any, task: Any, found: Any) -> None:
    arms = list(found.test["name"])
    assert arms[0] == "unsteered" and arms[1].startswith("tuned: ") and arms[-1] == "without instruction"
    assert {"in capitals", "instruction last", "said twice"} <= set(arms)
    assert found.test["n"].eq(4).all() and int(found.curve["n"].max()) == 4
    assert sum(found.tokens.values()) == int(found.curve["n_tokens"].iloc[1:].sum())
    assert found.test["adherence"].iloc[0] == 0.0 and found.test["adherence"].iloc[1] > 0.0


def test_the_held_out_run_is_that_of_the_setting(model: Any, task: Any, found: Any, folder: Path) -> None:
    for name, steer, strategy in (("unsteered", None, None), (found.test["name"].iloc[1], *found.way)):
        rows = found.rows[found.rows["name"] == name]
        alone = ms.evaluate(model, task, steer=steer, strategy=strategy).set_index("prompt")
        assert rows["output"].tolist() == alone.loc[list(rows["prompt"]), "output"].tolist()
    if isinstance(found.intervention, Intervention):
        assert repr(Intervention.load(folder / "intervention.safetensors")) == repr(found.intervention)
    else:
        assert repr(found.intervention) in (folder / "tuning.json").read_text()


def test_strength_zero_afterwards_is_the_unsteered_model(model: Any, task: Any, found: Any) -> None:
    prompts = task.prompts(model)
    before = ms.generate(model, prompts, max_new_tokens=6)
    assert found.curve["method"].iloc[0] == "unsteered"
    after = ms.generate(model, prompts, steer=ms.attention_bias(delta=0.0), max_new_tokens=6)
    assert before.texts == after.texts and torch.equal(before.tokens, after.tokens)
    plain = found.rows[found.rows["name"] == "unsteered"]
    assert set(plain["output"]) <= {text for text in ms.generate(model, prompts, max_new_tokens=4).texts}


def test_it_shows_itself(found: Any, tmp_path: Path) -> None:
    text = found.to_html(tmp_path / "page.html").read_text()
    assert "one &lt;b&gt; two" in text and "data:image/png;base64," in text and "<b> two" not in text
    part = found._repr_html_()
    assert "<html" not in part and "Held-out prompts" in part and "Held-out prompts" in repr(found)
    assert found.findings[0] in repr(found) and len(found.plot().axes) == 2


def test_the_page_is_made_again_from_what_was_saved(found: Any, tmp_path: Path) -> None:
    text = (found.save(tmp_path) / "report.html").read_text("utf-8")
    (tmp_path / "report.html").unlink()
    assert repage(tmp_path).read_text("utf-8") == text and "ms.tune(ms.load(" in text


def test_what_another_tuning_left_in_the_folder_is_not_taken_for_its_own(found: Any, tmp_path: Path) -> None:
    for name in ("intervention.safetensors", "examples.parquet", "examples.csv"):
        (tmp_path / name).touch()
    replace(found, way=Way(strategy=ms.Directer()), examples=None).save(tmp_path)
    assert not [path for path in tmp_path.iterdir() if path.stem in ("intervention", "examples")]


def test_cells_of_the_map_have_answers(found: Any, tmp_path: Path) -> None:
    table = found.examples
    layered = found.curve[(found.curve["layer"] >= 0) & (found.curve["n"] > 0)]
    cells = ["method", "strength", "layer"]
    assert len(layered) and set(table[cells].itertuples(index=False)) == set(layered[cells].itertuples(index=False))
    assert table.groupby(cells).size().max() <= 4
    assert any(len(text) for text in table["steered"]) and all("answer in capitals" in text for text in table["prompt"])
    for _, part in table.groupby(cells):  # those first that differ
        same = (part["steered"] == part["unsteered"]).tolist()
        assert same == sorted(same)
    made = found.to_html(tmp_path / "page.html").read_text("utf-8")
    assert made.count('tabindex=0 data-cell="') == len(layered.drop_duplicates(cells))
    old = replace(found, examples=None).to_html(tmp_path / "old.html").read_text("utf-8")
    assert "data-heat" in old and 'tabindex=0 data-cell="' not in old


def test_instruct_llama_follows_again(instruct_llama: Any) -> None:
    model = instruct_llama
    parts = [
        replace(instructions("upper", notes=24, n=8, split=split), max_new_tokens=24)
        for split in ("evaluation", "validation")
    ]
    with unchecked():
        found = ms.tune(model, parts[0], ("guide", "directer"), validation=parts[1])
    tuned = found.test.set_index("name")
    name = next(one for one in tuned.index if one.startswith("tuned: "))
    assert tuned.loc[name, "adherence"] >= tuned.loc["unsteered", "adherence"] + 0.3
    assert tuned.loc[name, "quality"] >= 0.9 * tuned.loc["unsteered", "quality"]
    assert any("Asked as it is" in one for one in found.findings)


def test_the_command_line(mechsteer: Callable[..., tuple[int, str, str]], checkpoint: Any, tmp_path: Path) -> None:
    file = tmp_path / "mine.jsonl"
    file.write_text("\n".join(f'{{"prompt": "{text}", "instruction": "answer in capitals"}}' for text in PROMPTS))
    arguments = ["tune", checkpoint("llama-gqa"), file, "--check", "uppercase", "--methods", "guide"]
    arguments += ["--max-new-tokens", 5, "--out", tmp_path / "out"]
    with unchecked():
        code, out, err = mechsteer(*arguments)
    assert code == 0, err
    assert out.startswith("At most ") and "minutes on this machine" in out and "Asked as it is" in out
    assert "The unsteered model's answers have " in out and "minutes from the beginning" in out
    kept = {name: (tmp_path / "out" / f"{name}.csv").read_bytes() for name in TABLES}
    with unchecked():
        again = mechsteer(*arguments)
    assert again[0] == 0 and kept == {name: (tmp_path / "out" / f"{name}.csv").read_bytes() for name in TABLES}
    assert (tmp_path / "out" / "report.html").exists() and (tmp_path / "out" / "tuning.pdf").exists()
    assert mechsteer("tune", "organism:instruct-llama", file, "--check", "uppercase", "--methods", "gide")[0] == 2


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"methods": "gide"}, "Did you mean 'guide'"),
        ({"methods": ()}, "at least one"),
        ({"floor": 1.5}, "floor must be from 0 to 1"),
        ({"budget": 2.0}, "budget must be above 0 and at most 1"),
        ({"score": "adherance"}, "Did you mean 'adherence'"),
        ({"side": ms.tasks.opinion()}, "side must be a task whose answers are generated"),
        ({"side": replace(ms.task(["a"], "uppercase"), samples=())}, "side must be a task .* with samples"),
    ],
)
def test_what_makes_no_sense_is_refused(options: dict[str, Any], said: str, model: Any, task: Any) -> None:
    with pytest.raises(ms.MechsteerError, match=said):
        ms.tune(model, task, **options)


NO_SHARE = r"must be from 0 \(not followed\) to 1 .* is {} .*(4 of 4|8 of 8)"


@pytest.mark.parametrize(
    ("value", "said"),
    [(float("nan"), r"Sample \d: .* must be finite, got nan"), (27.0, NO_SHARE.format(27)), (-1, NO_SHARE.format(-1))],
)
@pytest.mark.parametrize("command", [ms.tune, ms.diagnose])
def test_scores_that_are_no_shares_are_refused(command: Any, value: float, said: str, model: Any) -> None:
    samples = [{"prompt": text, "instruction": "answer in capitals"} for text in PROMPTS]
    task = ms.task(samples, lambda text, sample: value, name="no share", max_new_tokens=2)
    with pytest.raises(ms.MechsteerError, match=said):
        command(model, task)


def test_checks_may_hold_what_has_no_description_and_score_kept_answers_again(model: Any, tmp_path: Path) -> None:
    samples = [{"prompt": text, "instruction": "answer in capitals"} for text in PROMPTS]

    class Judge:
        def __init__(self, good: bool) -> None:
            self.good, self.model = good, model

    def tuned(judge: Judge, pattern: re.Pattern[str]) -> Any:
        def check(text: str, sample: Any) -> bool:
            return judge.good and pattern.search(text) is None

        task = ms.task(samples, check, name="judged", max_new_tokens=2)
        return ms.tune(model, task, "guide", floor=0.0, budget=0.05, out=tmp_path)

    with unchecked():
        found = [tuned(Judge(good), re.compile("never")) for good in (False, True)]
    assert [one.test["adherence"].iloc[0] for one in found] == [0.0, 1.0]
    assert set(found[1].test["followed"]) == {1.0}


def test_side_scores_that_are_no_shares_are_refused_before_the_search(
    model: Any, task: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tune_run, "in_step", lambda *arguments: pytest.fail("searched"))
    with pytest.raises(ms.MechsteerError, match=r"must be from 0 \(not followed\) to 1"):
        ms.tune(model, task, "guide", side=ms.task(["the cat"], lambda text, sample: 7, max_new_tokens=2))


def test_methods_that_prompts_do_not_allow_are_left_out_with_the_reason(model: Any) -> None:
    plain = ms.task(PROMPTS, lambda text, sample: len(text) % 3 == 0, name="no instruction", max_new_tokens=5)
    with pytest.raises(ms.MechsteerError, match=r"None of the methods can be used\. guide: .*instruction"):
        ms.tune(model, plain, ("guide", "vector"))


def test_a_bundled_task_without_instructions_has_no_vectors(model: Any) -> None:
    task = replace(recall(), samples=recall().samples[:8], max_new_tokens=3)
    with pytest.raises(ms.MechsteerError, match=r"guide: .*instruction.*vector: The prompts of 'recall.* have no form"):
        ms.tune(model, task, ("guide", "vector"))


def test_the_budget_is_the_same_for_every_method(model: Any, task: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    budgets: list[int] = []
    original = tune_run.Search

    def search(*arguments: Any) -> Any:
        budgets.append(arguments[-1])
        return original(*arguments)

    monkeypatch.setattr(tune_run, "Search", search)
    with unchecked():
        ms.tune(model, task, ("guide", "spotlight", "project"))
    assert len(budgets) == 3 and len(set(budgets)) == 1


def test_together_is_each_alone(model: Any) -> None:
    samples = [{"prompt": text, "instruction": "answer in capitals"} for text in PROMPTS]
    task = ms.task(samples, "uppercase", max_new_tokens=6)
    direction = random_direction(model, layer=1, seed=0)
    steers = [ms.attention_bias(delta=2.0), ms.attention_bias(delta=6.0), ms.spotlight(target=0.7)]
    ways = [Way(one) for one in (*steers, ms.add(direction, 20.0, scope="content"), ms.pasta(alpha=0.01))]
    ways += [Way(), *(Way(strategy=ms.Directer(beta=beta)) for beta in (1e-4, 0.02, 0.9))]
    asked = (
        [Asked(way) for way in ways] + [Asked(way, (2, 5)) for way in ways] + [Asked(way, (0, 3), 2) for way in ways]
    )
    runs = Runs(model, task, None, 7)
    seen = set()
    for one, together in zip(asked, runs.many(asked), strict=True):
        alone = runs.rows(*one)
        first, end = one.stretch or (0, len(PROMPTS))
        assert together["output"].tolist() == alone["output"].tolist()
        assert together["sample"].tolist() == alone["sample"].tolist() == list(range(end - first))
        assert together["surprise"].tolist() == pytest.approx(alone["surprise"].tolist(), abs=1e-4)
        seen |= {tuple(alone["output"])}
    assert len({len(one) for one in seen}) > 1 and len(seen) > 6


def test_what_is_computed_together_is_of_like_size_and_no_more_than_is_kept(model: Any) -> None:
    task = ms.task([{"prompt": text, "instruction": "answer in capitals"} for text in PROMPTS], "uppercase")
    gates = [Way(strategy=ms.Directer(beta=beta)) for beta in (0.1, 0.5)]
    asked = [Asked(Way(ms.attention_bias(delta=float(delta))), (0, 3)) for delta in range(1, 9)]
    asked += [Asked(gate, (0, 3)) for gate in gates] + [Asked(Way(), (0, 3), 2)]
    parts = Runs(model, task, None, 8)._parts(asked)
    assert parts == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9], [10]]


def test_one_method_that_fails_takes_no_other_with_it(model: Any, task: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    original = Runs.many

    def many(self: Any, asked: Any) -> Any:
        if any(one.way.steer is not None and one.way.steer.edits[0].method == "pasta" for one in asked):
            raise ms.MechsteerError("the logits are NaN")
        return original(self, asked)

    monkeypatch.setattr(Runs, "many", many)
    with unchecked():
        found = ms.tune(model, task, ("guide", "pasta"), floor=0.0)
        monkeypatch.undo()
        alone = ms.tune(model, task, "guide", floor=0.0)
    assert found.left_out["pasta"] == "the logits are NaN" and set(found.tokens) == {"guide"}
    assert_frame_equal(found.curve, alone.curve)


def test_wordings_together_are_each_alone(model: Any, task: Any, found: Any) -> None:
    for name, wording in (("said twice", WORDINGS["said twice"]), ("without instruction", uninstructed)):
        rows = found.rows[found.rows["name"] == name].reset_index(drop=True)
        other = reworded(task, name, wording)
        assert other is not None
        alone = ms.evaluate(model, other).set_index("prompt")
        assert rows["output"].tolist() == alone.loc[list(rows["prompt"]), "output"].tolist()
        assert rows["task"].str.endswith(name).all() and rows["sample"].tolist() == list(range(4))
