"""The study of IFEval, on a small random model and with checkers that need no data."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from pandas.testing import assert_frame_equal

import mechsteer as ms
from mechsteer.errors import MechsteerError
from mechsteer.stats import clustered_interval, share_interval
from mechsteer.studies.core.result import Result
from mechsteer.studies.ifeval.choose import choose
from mechsteer.studies.ifeval.methods import METHODS, marked, named
from mechsteer.studies.ifeval.report import report
from mechsteer.studies.ifeval.tables import by_instruction, summary
from mechsteer.studies.sweep import Processes
from mechsteer.tasks.ifeval import IFEval
from tests.typecheck import unchecked

NO_COMMA, LOWER = "punctuation:no_comma", "change_case:english_lowercase"


@pytest.fixture
def checkers(monkeypatch: pytest.MonkeyPatch) -> None:
    nltk = pytest.importorskip("nltk")
    pytest.importorskip("lm_eval.tasks.ifeval.utils")
    monkeypatch.setattr(nltk.data, "find", lambda name: name)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    words = ["cat", "dog", "sun", "sea", "tree", "bee"]
    rows = [
        {
            "key": number,
            "prompt": f"the {word} sat . no red",
            "prompt_without_instruction": f"the {word} sat .",
            "instruction_id_list": [NO_COMMA] if number % 2 else [NO_COMMA, LOWER],
            "kwargs": [{}] if number % 2 else [{}, {}],
        }
        for number, word in enumerate(words)
    ]
    path = tmp_path / "ifeval.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


@pytest.fixture
def result(checkers: None, data: Path, tiny: Callable[..., Any], tmp_path: Path) -> Result:
    return small(tiny("llama"), data, tmp_path / "out")


def small(model: Any, data: Any, out: Path) -> Result:
    with unchecked():
        return ms.studies.ifeval.run(
            model, out, data=data, methods=["GUIDE"], validation=2, max_new_tokens=4, draw=False, progress=False
        )


def test_tables(result: Result, data: Path, tiny: Callable[..., Any], tmp_path: Path) -> None:
    table, rows, tried = (result.tables[name] for name in ("summary", "rows", "validation"))
    assert list(table["name"]) == ["unsteered", "*-marked", "GUIDE"] and (table["n"] == 6).all()
    for name in table["name"]:
        mine = rows[rows["name"] == name]
        assert sorted(mine["key"]) == list(range(6)), "each prompt once"
        row = table.set_index("name").loc[name]
        assert row["prompt_loose_percent"] == pytest.approx(100 * mine["loose"].mean())
        whole = mine[mine["collapsed"] == 0]["loose"]
        assert row["uncollapsed_loose_percent"] == pytest.approx(100 * whole.mean(), nan_ok=True)
        done = 100 * mine["n_strict"].sum() / mine["n_instructions"].sum()
        assert row["instruction_strict_percent"] == pytest.approx(done)
        assert row["instruction_strict_low"] <= done <= row["instruction_strict_high"]
    by = result.tables["by_instruction"]
    assert set(by["instruction"]) == {NO_COMMA, LOWER} and set(by[by["instruction"] == NO_COMMA]["n"]) == {6}
    assert len(tried) == 2 * len(METHODS["GUIDE"].ladder) and tried["chosen"].sum() == 2
    keys = rows[rows["name"] == "GUIDE"].groupby("strength")["key"].apply(set)
    assert set(keys.index) == {float(s) for s in str(table["settings"].iloc[2]).split(", ")}
    assert (
        "IFEval on" in report(result)
        and "Choice of settings" in report(result)
        and set(result.figures()) == {"prompts"}
    )
    unsteered = ms.evaluate(tiny("llama"), ms.tasks.ifeval(data, max_new_tokens=4))
    plain = rows[rows["name"] == "unsteered"].sort_values("key")
    assert list(plain["output"]) == list(unsteered.sort_values("key")["output"])


def test_a_run_goes_on_and_gives_the_same(
    result: Result, data: Path, tiny: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = sorted((result.folder / "answers").iterdir())
    for gone in answers[::2]:
        shutil.rmtree(gone)
    (result.folder / "study.json").unlink()
    again = small(tiny("llama"), data, result.folder)
    for name, table in result.tables.items():
        assert_frame_equal(
            again.tables[name].drop(columns="seconds_ratio", errors="ignore"),
            table.drop(columns="seconds_ratio", errors="ignore"),
        )


def test_what_cannot_be_run_is_refused(checkers: None, data: Path, tiny: Callable[..., Any], tmp_path: Path) -> None:
    model = tiny("llama")
    line = json.loads(data.read_text(encoding="utf-8").splitlines()[0])
    del line["prompt_without_instruction"]
    plain = tmp_path / "plain.jsonl"
    plain.write_text(json.dumps(line), encoding="utf-8")
    with pytest.raises(MechsteerError, match=r"1 of 1 prompts do not say where their instruction is, e.g. key 0"):
        small(model, plain, tmp_path / "none")
    with pytest.raises(MechsteerError, match="needs IFEval's prompts"):
        ms.studies.ifeval.run(model, tmp_path / "none")
    with pytest.raises(MechsteerError, match="Did you mean 'GUIDE'"):
        ms.studies.ifeval.run(model, tmp_path / "none", data=data, methods=["GUIDES"])
    with pytest.raises(MechsteerError, match="no workers"):
        ms.studies.ifeval.run(model, tmp_path / "none", data=data, executor=Processes(2))
    with pytest.raises(MechsteerError, match="None of 6 prompts fits"):
        ms.studies.ifeval.run(model, tmp_path / "none", data=data, max_new_tokens=model.cfg.n_ctx)


def test_a_method_is_named_as_one_text_and_counts_once() -> None:
    assert named("GUIDE") == named(["GUIDE", "GUIDE"]) == (METHODS["GUIDE"],)


def test_lines_with_one_prompt_and_other_keys_are_told_apart(data: Path, checkers: None) -> None:
    task = ms.tasks.ifeval(data)
    first, second = task.samples[0], replace(task.samples[0], key=99, instructions=(NO_COMMA,), kwargs=({},))
    asked = replace(task, samples=(first, second))
    rows = pd.DataFrame([{"name": "a", "key": s.key, "prompt": s.prompt, "output": "A."} for s in asked.samples])
    found = by_instruction(rows, asked).set_index("instruction")["n"]
    assert found.to_dict() == {NO_COMMA: 2, LOWER: 1}


def test_marked_prompts(data: Path, tiny: Callable[..., Any]) -> None:
    task = ms.tasks.ifeval(data)
    starred = marked(task)
    assert isinstance(starred, IFEval) and starred.data_hash != task.data_hash
    for before, after, prompt in zip(task.samples, starred.samples, starred.prompts(tiny("llama")), strict=True):
        assert after.prompt == before.prompt and "*no red*" in prompt.text


def answered(n: int, loose: float, collapsed: float = 0.0) -> pd.DataFrame:
    """Rows of so many prompts: these shares, from the first prompt on."""
    places = range(n)
    follows = [place < round(loose * n) for place in places]
    broken = [place < round(collapsed * n) for place in places]
    return pd.DataFrame(
        {"key": places, "prompt": "p", "strict": follows, "loose": follows, "collapsed": broken}
    ).sample(frac=1, random_state=n)


def chosen(n: int, loose: list[float], collapsed: list[float], plain: float = 0.0) -> pd.DataFrame:
    tried = [answered(n, a, b) for a, b in zip(loose, collapsed, strict=True)]
    return choose(METHODS["GUIDE"], tried, answered(n, 0.2, plain)).set_index("setting")


def picked(table: pd.DataFrame, rule: str = "chosen") -> float:
    (setting,) = table.index[table[rule]]
    return float(setting)


def test_a_setting_is_better_only_where_the_prompts_can_tell() -> None:
    none = [0.0] * 4
    few, many = chosen(20, [0.2, 0.3, 0.35, 0.3], none), chosen(200, [0.2, 0.3, 0.32, 0.3], none)
    assert picked(few) == 0.5 and picked(few, "by_points") == 1.5
    assert picked(many) == 1.0 and picked(many, "by_points") == 1.5, "4 more of 200 cannot be told either, 20 can"
    assert picked(chosen(2000, [0.2, 0.3, 0.32, 0.3], none)) == 1.5
    row = many.loc[1.0]
    assert row["gain"] == pytest.approx(0.1) and 0 < row["gain_low"] < 0.1 < row["gain_high"]
    assert few.loc[1.5, "gain_low"] < 0 and few["edge"].tolist() == [False, False, False, True]


def test_a_setting_is_left_aside_for_more_collapsed_answers_than_chance_makes() -> None:
    loose = [0.2, 0.2, 0.2, 0.9]
    for n, share, sound in (
        (20, 0.1, True),
        (20, 0.25, False),
        (200, 0.1, False),
        (200, 0.05, True),
        (2000, 0.05, True),
    ):
        table = chosen(n, loose, [0.0, 0.0, 0.0, share])
        assert bool(table.loc[2.0, "sound"]) == sound and picked(table) == (2.0 if sound else 0.5), (n, share)
    assert picked(chosen(200, loose, [0.0, 0.0, 0.0, 0.1], plain=0.1)) == 2.0
    lost = chosen(200, loose, [0.5] * 4)
    assert not lost["sound"].any() and picked(lost) == 0.5 and picked(lost, "by_points") == 0.5
    assert picked(chosen(20, loose, [0.0, 0.0, 0.0, 0.1]), "by_points") == 0.5
    assert [m.name for m in named(None)] == list(METHODS)


def test_repaired_and_broken_are_of_the_same_prompts() -> None:
    def rows(name: str, loose: list[bool]) -> pd.DataFrame:
        return pd.DataFrame(
            {
                "name": name,
                "key": [1, 2, 3, 4] if name == "first" else [4, 3, 2, 1],
                "prompt": list("abcd") if name == "first" else list("dcba"),
                **{form: loose for form in ("strict", "loose")},
                **{form: [int(v) for v in loose] for form in ("n_strict", "n_loose")},
                **{column: 0.0 for column in ("collapsed", "empty", "truncated", "n_tokens", "repetition", "surprise")},
                "n_instructions": 1,
            }
        )

    both = pd.concat([rows("first", [True, False, False, False]), rows("other", [True, True, False, False])])
    table = summary(both, {"other": [1.0, 2.0]}, {"first": 2.0, "other": 3.0}).set_index("name")
    assert tuple(table.loc["other", ["repaired", "broken", "seconds_ratio"]]) == (2, 1, 1.5)
    assert table.loc["other", "settings"] == "1, 2"


def test_an_interval_of_clusters_is_wider() -> None:
    assert clustered_interval(5, 10, 10) == share_interval(5, 10)
    low, high = clustered_interval(15, 30, 10)
    assert low <= share_interval(15, 30)[0] and high >= share_interval(15, 30)[1]
    assert clustered_interval(0, 30, 10)[0] == 0.0 and clustered_interval(0, 30, 10)[1] == share_interval(0, 10)[1]
    with pytest.raises(MechsteerError, match="clusters"):
        clustered_interval(1, 2, 3)
