"""``evaluate(out=, quality=)``: rows as they come, a killed run that goes on, and the columns of quality."""

import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from pandas.testing import assert_frame_equal

import mechsteer as ms
from mechsteer.tasks import instructions, memotrap

PROMPTS = ["the cat sat on", "a dog", "write a word , the cat", "one two", "a red house in"]
QUALITY = ["n_tokens", "truncated", "empty", "repetition", "compressibility", "copied"]
SURPRISE = ["surprise", "surprise_p95", "surprise_excess", "collapsed", "collapse_reason"]


def own(check: Any = "lowercase", **options: Any) -> Any:
    return ms.task([{"prompt": text, "instruction": "answer in capitals"} for text in PROMPTS], check, **options)


@pytest.fixture
def model(tiny: Callable[..., Any]) -> Any:
    return tiny("llama-gqa")


class KilledError(Exception):
    pass


def dies_after(task: Any, parts: int, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Let the task's ``run`` fail at its next call but so many."""
    original, calls = type(task).run, []

    def run(self: Any, *args: Any, **kwargs: Any) -> Any:
        calls.append(len(self.samples))
        if len(calls) == parts + 1:
            raise KilledError
        return original(self, *args, **kwargs)

    monkeypatch.setattr(type(task), "run", run)
    return calls


STRATEGIES = {"greedy": None, "sample": ms.Sample(temperature=2.0, seed=3), "directer": ms.Directer()}


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_killed_run_gives_the_same_table(
    name: str, model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, options = own(max_new_tokens=6), {"strategy": STRATEGIES[name], "batch_size": 2, "quality": True}
    whole = ms.evaluate(model, task, out=tmp_path / "whole", **options)
    plain = ms.evaluate(model, task, **options)
    assert_frame_equal(whole, plain, rtol=0, atol=1e-4)
    calls = dies_after(task, 2, monkeypatch)
    with pytest.raises(KilledError):
        ms.evaluate(model, task, out=tmp_path / "killed", **options)
    assert not (tmp_path / "killed" / "rows.parquet").exists()
    assert_frame_equal(ms.evaluate(model, task, out=tmp_path / "killed", **options), whole)
    assert calls == [2, 2, 1, 1] and pd.read_parquet(tmp_path / "killed" / "rows.parquet").equals(
        pd.read_parquet(tmp_path / "whole" / "rows.parquet")
    )
    assert json.loads((tmp_path / "whole" / "evaluation.json").read_text())["complete"] is True


def test_other_settings_are_not_mixed_up(model: Any, tmp_path: Path) -> None:
    short, long = own(max_new_tokens=3), own(max_new_tokens=6)
    first = ms.evaluate(model, short, out=tmp_path)
    second = ms.evaluate(model, long, out=tmp_path)
    steered = ms.evaluate(model, short, steer=ms.attention_bias(delta=9.0), out=tmp_path)
    assert len({tuple(rows["output"]) for rows in (first, second, steered)}) == 3
    assert pd.read_parquet(tmp_path / "rows.parquet")["output"].tolist() == steered["output"].tolist()
    assert_frame_equal(ms.evaluate(model, short, out=tmp_path), first)


@dataclass(frozen=True)
class Echo:
    """A task class of one's own, with an option that is in none of its samples."""

    before: str = ""
    name: str = "echo"
    samples: tuple[str, ...] = ("the cat",)
    data_hash: str = "the same"

    def run(self, model: Any, **how: Any) -> pd.DataFrame:
        return pd.DataFrame({"sample": [0], "output": [self.before + self.samples[0]]})


class Loud(Echo):
    """The same rows by another way to run."""

    def run(self, model: Any, **how: Any) -> pd.DataFrame:
        return super().run(model).assign(output="THE CAT")


def test_a_task_of_ones_own_counts_with_its_options_and_its_code(model: Any, tmp_path: Path) -> None:
    for task, output in ((Echo(), "the cat"), (Echo("now "), "now the cat"), (Loud(), "THE CAT"), (Echo(), "the cat")):
        assert ms.evaluate(model, task, out=tmp_path)["output"].tolist() == [output]
    judged = Echo()
    object.__setattr__(judged, "judge", model)  # what cannot be described does no harm
    assert ms.evaluate(model, judged, out=tmp_path)["output"].tolist() == ["the cat"]


def test_samples_may_hold_what_a_table_does(model: Any, tmp_path: Path) -> None:
    rows = pd.DataFrame({"prompt": PROMPTS, "day": pd.Timestamp("2026-01-02"), "price": Decimal("1.5")})
    samples = [row | {"wanted": re.compile(f"{number}")} for number, row in enumerate(rows.to_dict("records"))]
    task = ms.task(samples, lambda text, sample: sample["wanted"].search(text) is None, max_new_tokens=2)
    assert_frame_equal(ms.evaluate(model, task, out=tmp_path, batch_size=2), ms.evaluate(model, task))
    assert len(list((tmp_path / "parts").iterdir())) == 1
    later = ms.task([row | {"day": pd.Timestamp("2026-01-03")} for row in samples], task.check, max_new_tokens=2)
    ms.evaluate(model, later, out=tmp_path)
    assert len(list((tmp_path / "parts").iterdir())) == 2


def test_scores_are_made_again_with_the_check_of_now(
    model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = {"word": "cat"}
    task = own(lambda text, sample: wanted["word"] in text, max_new_tokens=6)
    outputs = ms.evaluate(model, task, out=tmp_path)["output"]
    wanted["word"] = outputs[0].split()[0]
    assert ms.evaluate(model, task, out=tmp_path)["adherence"][0]


def test_samples_with_scores_of_other_names_are_continued_too(model: Any, tmp_path: Path) -> None:
    def check(text: str, sample: Any) -> Any:
        return len(text) > 3 if sample["n"] in (0, 3) else {"adherence": 0.25, "loose": True, "share": 0.5}

    task = ms.task([{"prompt": text, "n": n} for n, text in enumerate(PROMPTS)], check, max_new_tokens=3)
    plain = ms.evaluate(model, task)
    assert plain[["adherence", "loose", "share"]].dtypes.unique().tolist() == [float]
    for killed in (slice(0, 1), slice(1, 3), slice(0, 0)):
        for path in sorted((tmp_path / "parts").rglob("*.parquet"))[killed]:
            path.unlink()
        assert_frame_equal(ms.evaluate(model, task, out=tmp_path, batch_size=1), plain)


def test_the_first_score_is_the_same_one_in_a_folder(model: Any, tmp_path: Path) -> None:
    scores: list[dict[str, Any]] = [{"b": True}, {"a": 0.5}, {"a": 0.25, "b": False}, {"c": True, "b": True}]

    def check(text: str, sample: Any) -> Any:
        return scores[sample["n"] % 4]

    task = ms.task([{"prompt": text, "n": n} for n, text in enumerate(PROMPTS)], check, max_new_tokens=3)
    plain = ms.evaluate(model, task)
    assert list(plain.columns)[list(plain.columns).index("output") + 1] == "b"
    assert_frame_equal(ms.evaluate(model, task, out=tmp_path, batch_size=1), plain)


@pytest.mark.parametrize("family", ["llama-gqa", "t5"])
def test_columns(family: str, tiny: Callable[..., Any]) -> None:
    model, task = tiny(family), own(max_new_tokens=5)
    rows = ms.evaluate(model, task, quality=True)
    assert list(rows.columns)[-len(QUALITY + SURPRISE) :] == QUALITY + SURPRISE
    made = ms.generate(model, task.prompts(model), max_new_tokens=5)
    ends = set(ms.model_info(model).eos_ids)
    for place, row in rows.iterrows():
        ids = made.tokens[place][: made.lengths[place]].tolist()
        ended = ids[-1] in ends
        assert (row["n_tokens"], row["truncated"]) == (len(ids) - ended, not ended)
        assert math.isnan(row["surprise"]) == (len(ids) == ended)
        assert row["collapsed"] == bool(row["collapse_reason"])
    assert set(QUALITY) <= set(ms.evaluate(model, task).columns) and "surprise" not in ms.evaluate(model, task)


def test_changed_is_against_other_rows_or_texts(model: Any) -> None:
    task = own(max_new_tokens=4)
    plain = ms.evaluate(model, task)
    steered = ms.evaluate(model, task, steer=ms.attention_bias(delta=9.0), against=plain)
    assert steered["changed"].tolist() == (steered["output"] != plain["output"]).tolist() and steered["changed"].any()
    assert not ms.evaluate(model, task, against=list(plain["output"]))["changed"].any()
    others = ((plain.assign(prompt="y"), "of other prompts"), (plain.drop(columns="output"), "against has none"))
    for against, said in ((["x"], "1 outputs"), *others):
        with pytest.raises(ms.MechsteerError, match=said):
            ms.evaluate(model, task, against=against)


def test_bundled_tasks_too(trap_t5: Any, tmp_path: Path) -> None:
    from dataclasses import replace

    traps = replace(memotrap(), samples=memotrap().samples[:5])
    whole = ms.evaluate(trap_t5, traps)
    parts = ms.evaluate(trap_t5, traps, out=tmp_path, batch_size=2)
    assert_frame_equal(parts, whole, rtol=0, atol=1e-4)
    assert parts["sample"].tolist() == [0, 1, 2, 3, 4] and parts["n_tokens"].min() >= 1


def test_layers_shuffled_by_prompt_are_one_part(model: Any, tmp_path: Path) -> None:
    task, shuffled = own(max_new_tokens=4), ms.Directer(order="random", seed=1)
    whole = ms.evaluate(model, task, strategy=shuffled)
    assert ms.evaluate(model, task, strategy=shuffled, out=tmp_path, batch_size=1)["output"].equals(whole["output"])
    assert len(list(tmp_path.glob("parts/*/*.parquet"))) == 1


def test_an_edit_of_some_rows_is_one_part(model: Any, tmp_path: Path) -> None:
    task = own(max_new_tokens=4)
    steer = ms.add(ms.random_direction(model, layer=1, seed=0), 900.0, rows=[3])
    whole = ms.evaluate(model, task, steer=steer)
    assert ms.evaluate(model, task, steer=steer, out=tmp_path, batch_size=1)["output"].equals(whole["output"])
    assert whole["output"].ne(ms.evaluate(model, task)["output"]).tolist() == [i == 3 for i in range(5)]


def test_good_answers_of_the_organism_have_not_collapsed_and_broken_ones_have(instruct_llama: Any) -> None:
    model = instruct_llama
    task = instructions("lower", n=4)
    plain = ms.evaluate(model, task, quality=True)
    assert not plain["collapsed"].any() and not plain["truncated"].any()
    direction = ms.random_direction(model, layer=2, seed=1)
    broken = ms.evaluate(model, task, steer=ms.add(direction, 60.0), quality=True, against=plain)
    assert (
        broken["collapsed"].all()
        and broken["changed"].all()
        and set(broken["collapse_reason"]) <= {"loop", "word salad"}
    )
