"""``diagnose``: the same tables however it is run, sentences with numbers, errors, pages, the command line."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from pandas.testing import assert_frame_equal

import mechsteer as ms
from mechsteer.diagnosis.html_report import report_of
from mechsteer.diagnosis.measures import tables as measures
from mechsteer.errors import MechsteerError
from tests.planted import PLANTS, planted_task, varied, write_plant


@pytest.fixture(scope="module")
def plant() -> Any:
    return varied(PLANTS["lost by distance"], 0)


@pytest.fixture(scope="module")
def folder(plant: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_plant(plant, tmp_path_factory.mktemp("plant"), 0)


@pytest.fixture(scope="module")
def model(folder: Path) -> Any:
    return ms.load(str(folder))


@pytest.fixture(scope="module")
def task(model: Any, plant: Any) -> Any:
    return planted_task(model, plant, 0, n=8)


@pytest.fixture(scope="module")
def found(model: Any, task: Any) -> Any:
    """The one run that is checked; the others do the same."""
    return ms.diagnose(model, task)


@pytest.mark.usefixtures("found", "unchecked")
def test_batches_do_not_matter(model: Any, task: Any, found: Any) -> None:
    again = ms.diagnose(model, task, batch_size=3)
    assert again.cause == found.cause
    for name in set(found.tables) - {"findings"}:
        assert_frame_equal(found.tables[name], again.tables[name], check_dtype=False, rtol=1e-3, atol=1e-4)


@pytest.mark.usefixtures("found", "unchecked")
def test_killed_and_continued_it_gives_the_same(
    model: Any, task: Any, found: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*arguments: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(measures, "decodability", killed)
        with pytest.raises(KeyboardInterrupt):
            ms.diagnose(model, task, out=tmp_path)
    assert not (tmp_path / "findings.csv").exists()
    asked: list[int] = []
    mass = measures.attention_mass

    def counted(model: Any, prompts: Any, *arguments: Any) -> Any:
        asked.append(len(prompts))
        return mass(model, prompts, *arguments)

    monkeypatch.setattr(measures, "attention_mass", counted)
    monkeypatch.setattr("mechsteer.evaluation_run.Run.rows", killed)
    again = ms.diagnose(model, task, out=tmp_path)
    assert asked == [8, 8]  # the two nearer forms; what was measured before is found
    assert again.cause == found.cause and set(again.tables) == set(found.tables)
    for name, table in found.tables.items():
        assert_frame_equal(again.tables[name], table, check_dtype=False, rtol=0, atol=1e-6)
        assert_frame_equal(pd.read_parquet(tmp_path / f"{name}.parquet"), again.tables[name], check_dtype=False)


def test_every_finding_has_its_number(found: Any) -> None:
    asked = "how often|where|form|push|attended|decodable|cut|lens|sinks|methods"
    verdict, *others = found.findings
    assert {one.about for one in others} == set(asked.split("|"))
    assert (verdict.about, verdict.says) == ("verdict", found.cause) and found.verdict in verdict.sentence
    for one in others:
        assert any(letter.isdigit() for letter in one.sentence), one
        assert (one.says == "no evidence") == ("no evidence" in one.sentence), one
    assert list(found.tables["findings"]["sentence"]) == [str(one) for one in found.findings]


def test_pages_stand_alone_and_escape(model: Any, found: Any, tmp_path: Path) -> None:
    text = found.to_html(tmp_path / "why.html").read_text(encoding="utf-8")
    assert (
        text.startswith("<!DOCTYPE html>")
        and "Verdict: lost by distance" in text
        and "<img" in text
        and 'src="http' not in text
    )
    shown = ms.Diagnosis("no evidence", found.findings[:1], {}, "a <b> task")._repr_html_()
    assert "a &lt;b&gt; task" in shown and "<b> task" not in shown
    assert repr(found).splitlines()[2].startswith("Verdict: lost by distance.")


def test_what_cannot_be_diagnosed_is_said(model: Any) -> None:
    with pytest.raises(MechsteerError, match="has an instruction that is marked"):
        ms.diagnose(model, ms.task(["about q1 ?"], "uppercase"))
    with pytest.raises(MechsteerError, match="needs a task with an instruction"):
        ms.diagnose(model, ["reply loudly"])
    task = ms.task([{"prompt": "about q1 ?", "instruction": "reply loudly"}], "uppercase", max_new_tokens=2)
    with pytest.raises(MechsteerError, match="no score 'loud'"):
        ms.diagnose(model, task, score="loud")


def test_prompts_without_an_instruction_are_not_truncated(model: Any) -> None:
    samples = [{"prompt": "about q1 ?", "instruction": "reply loudly"}, "about q2 ?", "about q3 ?"]
    found = ms.diagnose(model, ms.task(samples, "uppercase", max_new_tokens=2))
    assert found.cause == "no evidence" and "1 of 1 are followed" in found.verdict
    said = "2 of 3 prompts were left out: no instruction is marked in them."
    assert [str(one) for one in found.findings if one.about == "reading"] == [said]


def test_prompts_without_room_for_the_answer_are_not_truncated(model: Any, tmp_path: Path) -> None:
    samples = [{"prompt": f"about q{n} ?", "instruction": "reply loudly"} for n in (1, 2)]
    found = ms.diagnose(model, ms.task(samples, "uppercase", max_new_tokens=model.cfg.n_ctx), out=tmp_path)
    assert found.verdict == "no evidence. No prompt could be asked."
    assert str(found.findings[1]).startswith("2 of 2 prompts were left out: the context has no room behind them for")
    assert found.to_html(tmp_path / "why.html").exists()


def test_an_answer_that_the_limit_cut_off_did_not_end(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    task = ms.task([{"prompt": "about q1 ?", "instruction": "reply loudly"}], lambda text, sample: False)
    read: dict[int, list[int]] = {}

    def effects(model: Any, prompts: Any, answers: Any, *more: Any) -> pd.DataFrame:
        read[limit] = list(answers[0])
        raise KeyboardInterrupt

    monkeypatch.setattr(measures, "cut_effects", effects)
    for limit in (1, 4):
        with pytest.raises(KeyboardInterrupt):
            ms.diagnose(model, replace(task, max_new_tokens=limit))
    assert len(read[1]) == 1 and read[4] == [*read[1], model.tokenizer.eos_token_id]


def test_scores_may_be_called_like_columns_of_its_tables(model: Any) -> None:
    samples = [{"prompt": f"about q{n} ?", "instruction": "please"} for n in (1, 2)]
    task = ms.task(samples, lambda text, sample: {"case": True, "arm": 3.0, "group": False}, max_new_tokens=2)
    found = ms.diagnose(model, task, score="case")
    answers = found.tables["answers"]
    assert answers["case"].tolist() == [0, 1] * 2 and set(answers["group"]) == {"as asked"} and answers["passed"].all()
    shown = report_of(found).samples
    assert shown is not None and all(said.startswith("followed") for row in shown.answers for _, said, _ in row)


def test_prompts_that_are_all_instruction_are_asked_and_not_measured(model: Any, tmp_path: Path) -> None:
    alone = [{"prompt": f"<!!-> reply loudly {word} <-!!>"} for word in ("about", "please", "q1")]
    beside = [{"prompt": f"about q{n} ?", "instruction": "reply loudly"} for n in range(3)]
    for samples, followed in ((alone + beside, 3), (alone, 0)):
        task = ms.task(samples, lambda text, sample: "?" in sample["prompt"], max_new_tokens=3)
        found = ms.diagnose(model, task)
        said = {one.about: str(one) for one in found.findings}
        assert found.cause == "no evidence" and "3 ignored prompts are too few" in found.verdict
        assert found.tables["answers"].query("arm == 'in place'")["passed"].sum() == followed
        assert said["attended"].startswith("Attention to the instruction: no evidence, for 0 of these prompts")
        assert found.to_html(tmp_path / "why.html").exists()


def test_answers_that_collapse_as_asked_are_said(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    samples = [{"prompt": f"about q{n} ?", "instruction": "please"} for n in (1, 2, 3, 4)]
    task = ms.task(samples, lambda text, sample: True, max_new_tokens=2)
    run_arm = measures.run_arm

    def collapsed(*arguments: Any, **how: Any) -> pd.DataFrame:
        rows = run_arm(*arguments, **how).assign(collapsed=[True, True, True, False])
        return rows.assign(followed=~rows["collapsed"])

    monkeypatch.setattr(measures, "run_arm", collapsed)
    (said,) = (str(one) for one in ms.diagnose(model, task).findings if str(one).startswith("Followed as asked"))
    assert said.startswith("Followed as asked: 25 % (1 of 4;") and said.endswith(", 75 % of the answers collapsed.")


def test_prompts_that_are_there_before_are_said(model: Any) -> None:
    task = ms.task([{"prompt": "about q1 ?", "instruction": "please"}] * 2, lambda text, sample: True, max_new_tokens=2)
    found = ms.diagnose(model, task)
    assert any(str(one).startswith("1 of the 2 prompts repeats another one") for one in found.findings)


def test_one_prompt_gives_no_evidence(model: Any) -> None:
    task = ms.task([{"prompt": "about q1 ?", "instruction": "please"}], "uppercase", max_new_tokens=2)
    found = ms.diagnose(model, task)
    assert found.cause == "no evidence" and "1 ignored prompt is too few" in found.verdict
    assert found.plot().axes[1].get_legend() is None
    assert all(one.says in ("no evidence", "measured") for one in found.findings[1:])


@pytest.mark.usefixtures("unchecked")
def test_the_command_line(mechsteer: Callable[..., Any], folder: Path, task: Any, tmp_path: Path) -> None:
    rows = [
        {"prompt": sample.asked, "instruction": sample.instruction, "context": sample.context}
        for sample in task.samples
    ]
    file = tmp_path / "own.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    options = ("--check", "uppercase", "--max-new-tokens", 4, "--out", tmp_path / "out")
    code, out, err = mechsteer("diagnose", folder, file, *options)
    assert code == 0 and "Verdict: lost by distance" in out
    assert "8 prompts asked in" in err and "megabytes" in err
    text = (tmp_path / "out" / "report.html").read_text("utf-8")
    assert mechsteer("report", tmp_path / "out")[0] == 0
    assert (tmp_path / "out" / "report.html").read_text("utf-8") == text and "mechsteer diagnose" in text
    assert len(pd.read_csv(tmp_path / "out" / "prompts.csv")) == 8
    assert mechsteer("diagnose", folder, tmp_path / "none.jsonl")[0] == 2
