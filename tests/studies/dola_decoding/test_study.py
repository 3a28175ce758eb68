"""DoLa against greedy decoding: the summary counts what the outputs show, and the tracking is DoLa's own step."""

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import torch
from pandas.testing import assert_frame_equal

import mechsteer as ms
from mechsteer.decoding import DoLa, Greedy
from mechsteer.decoding.repetition import penalised
from mechsteer.files import read_json, read_table
from mechsteer.models.info import set_info
from mechsteer.studies.core import cells
from mechsteer.studies.core.result import Result, redraw
from mechsteer.studies.dola_decoding import study as dola_decoding
from mechsteer.studies.dola_decoding.figures import _tick, bars, tracking
from mechsteer.studies.dola_decoding.study import METHODS, compared, run, scores
from mechsteer.studies.dola_decoding.word_ranks import FIGURE_5, first_token, track
from mechsteer.studies.registry import STUDIES
from mechsteer.tasks.ifeval import IFEvalPrompt
from tests.typecheck import unchecked

NAMES = ["bars_trap-t5", "tracking_trap-t5"]


@pytest.fixture(scope="module")
def small(trap_t5: Any, tmp_path_factory: pytest.TempPathFactory) -> Result:
    """The study on a few samples of the bundled encoder-decoder. Its folder is not to be changed."""
    with unchecked():
        return run(trap_t5, tmp_path_factory.mktemp("dola"), n=24, progress=False)


# --------------------------------------------------------------------------------------------------------- the summary


def test_the_summary_counts_what_evaluate_scores(small: Result, trap_t5: Any) -> None:
    task = ms.tasks.memotrap()
    task = replace(task, samples=task.samples[:24])
    before = ms.evaluate(trap_t5, task, strategy=Greedy(repetition_penalty=1.2))
    found: Any = small.summary.set_index(["task", "scoring", "method"])
    assert found.loc[("memotrap", "strict", "baseline"), "percent"] == pytest.approx(100 * before["strict"].mean())
    changed = 0
    for method, strategy in METHODS.items():
        after = ms.evaluate(trap_t5, task, strategy=strategy)
        for scoring in ("strict", "memorised", "success"):
            row = found.loc[("memotrap", scoring, method)]
            assert row["percent"] == pytest.approx(100 * after[scoring].mean())
            assert row["increased"] == (after[scoring] & ~before[scoring]).sum()
            assert row["decreased"] == (~after[scoring] & before[scoring]).sum()
            assert row["n"] == 24 and row["low_percent"] < row["percent"] < row["high_percent"]
            changed += row["increased"] + row["decreased"]
    assert changed > 0
    assert set(small.summary["task"]) == {"memotrap", "recall", "copy"}
    assert small.summary["published_percent"].isna().all()
    assert (small.summary["model_name"] == "organism:trap-t5").all()


def test_every_output_is_in_the_samples(small: Result) -> None:
    samples = small.tables["samples"]
    assert samples.groupby("decoding").size().to_dict() == dict.fromkeys(METHODS, 72)
    assert samples.groupby("decoding")["strategy"].unique().map(list).to_dict() == {
        name: [repr(strategy)] for name, strategy in METHODS.items()
    }
    for name, table in small.tables.items():
        assert_frame_equal(read_table(small.folder / f"{name}.parquet"), table)
    assert read_json(small.folder / "study.json")["study"] == dola_decoding.NAME


def test_a_finished_run_computes_nothing_again(
    small: Result, trap_t5: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    again = shutil.copytree(small.folder, tmp_path / "again")
    monkeypatch.setattr(cells, "evaluate", lambda *_, **__: pytest.fail("computed again"))
    with unchecked():
        result = run(trap_t5, again, n=24, progress=False)
    for name, table in small.tables.items():
        assert_frame_equal(result.tables[name], table)


def test_instructions_are_counted_by_kind() -> None:
    task = ms.tasks.instructions(["upper", "list"], n=2)
    table = pd.DataFrame(
        {"sample": range(4), "kind": ["upper", "upper", "list", "list"], "adherence": [True, False, True, True],
         "fidelity": [1.0, 0.5, 0.0, 1.0]}
    )  # fmt: skip
    after = table.assign(adherence=[True, True, False, False], fidelity=[0.5, 0.75, 0.25, 1.0])
    made = compared(task, {"baseline": scores(task, table), "dola": scores(task, after)})
    found: Any = made.set_index(["group", "scoring", "method"])
    columns = ["percent", "n", "increased", "decreased", "p_value"]
    assert found.loc[("upper", "adherence", "dola"), columns].tolist() == [100.0, 2, 1, 0, 1.0]
    assert found.loc[("list", "adherence", "dola"), columns].tolist() == [0.0, 2, 0, 2, 0.5]
    assert found.loc[("all kinds", "adherence", "dola"), columns].tolist() == [50.0, 4, 1, 2, 1.0]
    assert found.loc[("all kinds", "fidelity", "dola"), columns].tolist() == [62.5, 4, 2, 1, 1.0]
    assert math.isnan(found.loc[("upper", "adherence", "baseline"), "p_value"])


# ------------------------------------------------------------------------------------------------------------- IFEval


@pytest.fixture
def checkers(monkeypatch: pytest.MonkeyPatch) -> Callable[[IFEvalPrompt, str], tuple[list[bool], list[bool]]]:
    """In lm-eval's place: an instruction is followed strictly when the output is long, loosely always."""

    def followed(sample: IFEvalPrompt, output: str) -> tuple[list[bool], list[bool]]:
        strict = [len(output) % (2 + place) == 0 for place in range(len(sample.instructions))]
        return strict, [True] * len(sample.instructions)

    for name in ("mechsteer.tasks.ifeval", "mechsteer.studies.dola_decoding.study"):
        monkeypatch.setattr(import_module(name), "followed", followed)
        monkeypatch.setattr(import_module(name), "require_checkers", lambda: SimpleNamespace())
    return followed


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    """A file in IFEval's format."""
    ids = [["keywords:existence", "keywords:frequency"], ["startend:quotation"], ["keywords:existence"]]
    arguments = {
        "keywords:existence": {"keywords": ["early"]},
        "keywords:frequency": {"keyword": "early", "frequency": 1, "relation": "at least"},
        "startend:quotation": {},
    }
    texts = [ms.tasks.memotrap().samples[i].prompt for i in range(3)]
    path = tmp_path / "ifeval.jsonl"
    rows = [
        {"key": 7, "prompt": text, "instruction_id_list": names, "kwargs": [arguments[name] for name in names]}
        for text, names in zip(texts, ids, strict=True)
    ]
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return path


def test_ifeval_is_counted_by_prompt_instruction_category_and_id(
    checkers: Callable, prompts: Path, trap_t5: Any, tmp_path: Path
) -> None:
    info = ms.model_info(trap_t5)
    try:
        set_info(trap_t5, replace(info, name="google/flan-t5-base"))
        result = run(trap_t5, tmp_path / "out", data=prompts, progress=False)
    finally:
        set_info(trap_t5, info)
    task, samples = ms.tasks.ifeval(prompts), result.tables["samples"]
    found: Any = result.summary.set_index(["level", "group", "scoring", "method"])
    for method in METHODS:
        outputs = samples.loc[samples["decoding"] == method, "output"]
        strict = [checkers(sample, output)[0] for sample, output in zip(task.samples, outputs, strict=True)]
        expected = {
            ("task", "prompt-level"): [all(each) for each in strict],
            ("task", "instruction-level"): [*strict[0], *strict[1], *strict[2]],
            ("category", "keywords"): [*strict[0], *strict[2]],
            ("category", "startend"): strict[1],
            ("instruction", "keywords:existence"): [strict[0][0], strict[2][0]],
            ("instruction", "keywords:frequency"): [strict[0][1]],
        }
        for (level, group), right in expected.items():
            row = found.loc[(level, group, "strict", method)]
            assert (row["percent"], row["n"]) == (pytest.approx(100 * sum(right) / len(right)), len(right))
            assert found.loc[(level, group, "loose", method), "percent"] == 100
    paper = found["published_percent"]
    assert paper[("category", "keywords", "loose", "baseline")] == 34.97
    assert paper[("task", "prompt-level", "loose", "dola")] == 12.01
    assert paper.xs("dola, paper's equations", level="method").isna().all()
    assert sorted(result.figures()) == ["bars_google-flan-t5-base"]
    axes: Any = result.figures()["bars_google-flan-t5-base"].axes[0]
    (points,) = (p for p in axes.collections if p.get_label() == "published")
    assert points.get_offsets()[:, 1].tolist() == pytest.approx([34.97, 11.94])


def test_the_papers_prompt_is_tracked_where_dola_writes_its_word(
    checkers: Callable, trap_t5: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text, dola = ms.tasks.memotrap().samples[0].prompt, METHODS["dola"]
    answer = ms.generate(trap_t5, text, strategy=dola).texts[0]
    monkeypatch.setattr("mechsteer.studies.dola_decoding.word_ranks.FIGURE_5", (text[:20], (answer, f"{answer}s")))
    path = tmp_path / "one.jsonl"
    row = {"key": 1, "prompt": text, "instruction_id_list": ["startend:quotation"], "kwargs": [{}]}
    path.write_text(json.dumps(row), encoding="utf-8")
    table = run(trap_t5, tmp_path / "out", data=path, progress=False).tables["tracking"]
    part = table[(table["method"] == "dola") & (table["distribution"] == "dola")]
    assert part.set_index("word")["rank"][answer] == 1
    assert FIGURE_5[1][0] == "lacking"


# ------------------------------------------------------------------------------------------------------------ tracking


@pytest.mark.parametrize("family", ["t5-gated", "llama-gqa"])
@pytest.mark.parametrize("strategy", [DoLa([0, 1], relative_top=0.001), DoLa([0, 1], compat="released")])
def test_the_tracking_is_dolas_own_step(family: str, strategy: DoLa, tiny: Callable) -> None:
    model = tiny(family)
    prompt = ms.prompt(model, "the cat sat on mat")
    out = ms.generate(model, prompt, strategy=strategy, max_new_tokens=4)
    step = out.lengths[0] - 1
    assert step >= 1
    trace = out.trace.iloc[step]
    chosen = model.tokenizer.convert_ids_to_tokens([int(trace["token"])])[0]
    table = track(model, prompt, [chosen, "dog"], strategy=strategy, step=step)
    assert table["written"].unique().tolist() == [model.tokenizer.decode(out.tokens[0, :step])]
    by = table.set_index(["distribution", "layer", "word"])
    last = len(model.decoder) if family == "t5-gated" else len(model.blocks)
    assert by.loc[("dola", last, chosen), "rank"] == 1
    assert table.loc[table["chosen"], "layer"].unique().tolist() == [trace["layer"]]
    for e in (0, 1):
        assert by.loc[("exit", e, "dog"), "jsd"] == pytest.approx(trace[f"jsd_{e}"], rel=1e-3, abs=1e-6)
    logits = model.run_with_hooks(prompt.tokens[None], torch.tensor([[0, *out.tokens[0, :step]]]))[0, -1] if (
        family == "t5-gated"
    ) else model(torch.cat([prompt.tokens, out.tokens[0, :step]])[None], prepend_bos=False)[0, -1]  # fmt: skip
    seen = ([0] if family == "t5-gated" else prompt.tokens.tolist()) + out.tokens[0, :step].tolist()
    final = penalised(logits[None].detach(), [seen], 1.2)[0]
    dog = first_token(model, "dog")
    assert by.loc[("final", last, "dog"), "rank"] == 1 + int((final > final[dog]).sum())


def test_words_with_the_same_first_token_are_both_there(tiny: Callable) -> None:
    table = track(tiny("llama-gqa"), "the cat", ["dog", "dog mat", "red"])
    ranks = table.groupby("word", sort=False)["rank"].apply(list)
    assert list(ranks.index) == ["dog", "dog mat", "red"] and ranks["dog"] == ranks["dog mat"] != ranks["red"]


def test_a_token_that_dola_leaves_out_has_no_rank(tiny: Callable) -> None:
    table = track(tiny("llama-gqa"), "the cat", ["dog", "cat", "red"], strategy=DoLa([0], relative_top=1.0))
    assert table.loc[table["distribution"] == "dola", "rank"].isna().sum() >= 2
    assert table.loc[table["distribution"] != "dola", "rank"].notna().all()


def test_a_step_after_the_end_is_refused(trap_t5: Any) -> None:
    trap = ms.tasks.memotrap().samples[0]
    with pytest.raises(ms.MechsteerError, match=r"writes \d tokens after this prompt; there is no step 30"):
        track(trap_t5, trap.prompt, [trap.target], step=30)


def test_the_study_tracks_a_trap_that_dola_gets_right(small: Result, trap_t5: Any) -> None:
    table, samples = small.tables["tracking"], small.tables["samples"]
    assert list(dict.fromkeys(table["method"])) == ["dola", "dola, paper's equations"]
    traps = samples[samples["task"] == "memotrap"].set_index(["decoding", "sample"])["strict"]
    for method, part in table.groupby("method"):
        gained = [i for i in range(24) if traps[(method, i)] and not traps[("baseline", i)]]
        trap = ms.tasks.memotrap().samples[gained[0] if gained else 0]
        assert part["prompt"].unique().tolist() == [trap.prompt]
        assert list(dict.fromkeys(part["word"])) == [trap.target, trap.trap]
        assert list(dict.fromkeys(part["layer"])) == [8, 6, 4, 2, 0]


# ------------------------------------------------------------------------------------------------------------- figures


def test_figures_are_drawn_from_tables_alone_byte_for_byte(small: Result, tmp_path: Path) -> None:
    for path in small.folder.glob("*.parquet"):
        shutil.copy(path, tmp_path)
    made = redraw(STUDIES["dola-decoding"], tmp_path)
    assert sorted(path.name for path in made) == sorted(f"{name}.{kind}" for name in NAMES for kind in ("pdf", "png"))
    for path in made:
        assert path.read_bytes() == (small.folder / "figures" / path.name).read_bytes()
    (tmp_path / "summary.parquet").write_bytes(b"PAR1")
    with pytest.raises(ms.MechsteerError, match=r"summary\.parquet"):
        redraw(STUDIES["dola-decoding"], tmp_path)


def test_bars_show_the_summary(small: Result) -> None:
    axes: Any = bars(small.summary).axes[0]
    rows = small.summary[~small.summary["scoring"].isin(["success"])]
    for container, method in zip((c for c in axes.containers if hasattr(c, "patches")), METHODS, strict=False):
        expected = rows.loc[rows["method"] == method, "percent"].tolist()
        assert [bar.get_height() for bar in container.patches] == pytest.approx(expected)


def test_lines_show_the_tracking(small: Result) -> None:
    table = small.tables["tracking"]
    axes: Any = tracking(table).axes[0]
    part = table[table["method"] == "dola"]
    for line, word in zip(axes.lines, dict.fromkeys(part["word"]), strict=False):
        ranks = part[(part["word"] == word) & part["rank"].notna()]["rank"].tolist()
        dola, final, *exits = ranks
        assert line.get_ydata().tolist() == [*reversed(exits), final, dola]
    assert any("*" in label.get_text() for label in axes.get_xticklabels())


# ----------------------------------------------------------------------------------------------------------- bad input


def test_a_model_that_is_given_twice_is_run_once(trap_t5: Any, tmp_path: Path) -> None:
    with unchecked():
        table = run([trap_t5, trap_t5], tmp_path / "out", n=1, draw=False, progress=False).summary
    assert not table.duplicated(["task", "level", "group", "scoring", "method"]).any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n": 0}, "n must be an integer of at least 1"),
        ({"batch_size": 0}, "batch_size must be an integer of at least 1"),
        ({"models": []}, "No models were given"),
        ({"data": Path("nosuch.jsonl")}, "No such file: nosuch.jsonl"),
        ({"traps": Path("nosuch.csv")}, "No such file: nosuch.csv"),
    ],
)
def test_bad_arguments_are_refused_and_nothing_is_written(
    tmp_path: Path, trap_t5: Any, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ms.MechsteerError, match=message):
        run(**({"models": trap_t5, "out": tmp_path / "out"} | arguments))
    assert list(tmp_path.iterdir()) == []


def test_ticks_name_the_task_without_its_file() -> None:
    assert _tick("memotrap choice:small.csv", "as_released") == "memotrap\nchoice\nas released"
    assert _tick("keywords:existence", "strict") == "keywords:existence\nobeyed"
    with ms.plots.paper(3.3):
        assert _tick("memotrap choice:small.csv", "correct") == "memotrap choice\nright"
