"""MemoTrap: what a file must look like, how its rows are split, and what each score means."""

import csv
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import mechsteer as ms
from mechsteer.tasks import MemoTrap, Trap, memotrap
from mechsteer.tasks.memotrap import last_word, obeyed, succeeded

HEADER = ["prompt", "classes", "answer_index"]
GOOD = ['Write a quote that ends in the word "fog": All is well, that ends', "[' well', ' fog']", "1"]


@pytest.fixture
def file(tmp_path: Path) -> Callable[..., Path]:
    """A function that writes rows as CSV."""

    def write(rows: Sequence[Sequence[str]], header: Sequence[str] = HEADER) -> Path:
        path = tmp_path / "traps.csv"
        with path.open("w", newline="", encoding="utf-8") as out:
            csv.writer(out).writerows([header, *rows])
        return path

    return write


def numbered(count: int) -> list[list[str]]:
    return [[f'End in the word "w{i}": stem {i}', f"[' a{i}', ' w{i}']", "1"] for i in range(count)]


def refused(path: Path, message: str) -> str:
    with pytest.raises(ms.MechsteerError, match=message) as caught:
        memotrap(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


# ------------------------------------------------------------------------------------------------ the bundled traps


def test_bundled_splits_share_neither_proverb_nor_word() -> None:
    task = memotrap()
    assert len(task.mining) >= 30 and len(task.samples) >= 50 and task.dropped == 0
    assert {t.stem for t in task.mining}.isdisjoint({t.stem for t in task.samples})
    assert {t.target for t in task.mining}.isdisjoint({t.target for t in task.samples})


def test_bundled_traps_quote_the_target_and_not_the_trap() -> None:
    task = memotrap()
    for trap in (*task.mining, *task.samples):
        assert trap.target != trap.trap
        assert f'"{trap.target}"' in trap.instruction
        assert trap.stem and f'"{trap.trap}"' not in trap.instruction


# ------------------------------------------------------------------------------------------------ reading


def test_quotes_commas_and_apostrophes_survive_the_file(file: Callable[..., Path]) -> None:
    quoted = ["Say \"so, it's\": Don't count, ever", str([" you're", " can't"]), "0"]
    mined, read = memotrap(file([GOOD, quoted])).mining[0], memotrap(file([GOOD, quoted])).samples[0]
    assert mined == Trap(GOOD[0], (" well", " fog"), 1, "mining")
    assert read == Trap("Say \"so, it's\": Don't count, ever", (" you're", " can't"), 0, "evaluation")
    assert (read.target, read.trap) == ("you're", "can't")
    assert (read.instruction, read.stem) == ('Say "so, it\'s"', "Don't count, ever")


def test_full_stops_and_spaces_are_no_part_of_the_words() -> None:
    trap = Trap("End it: now", (" well. ", " fog."), 1)
    assert (trap.target, trap.trap) == ("fog", "well")


def test_a_byte_order_mark_and_extra_columns_do_not_matter(tmp_path: Path) -> None:
    path = tmp_path / "excel.csv"
    rows = [["note", *HEADER], ["x", *GOOD], ["y", 'End in "a": b', "[' c', ' a']", "1"]]
    with path.open("w", newline="", encoding="utf-8-sig") as out:
        csv.writer(out).writerows(rows)
    assert [t.target for t in (*memotrap(path).mining, *memotrap(path).samples)] == ["fog", "a"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ([GOOD[0], "well, fog", "1"], "classes must be a list of two or more words, got 'well, fog'"),
        ([GOOD[0], "[' well']", "0"], "classes must be a list"),
        ([GOOD[0], "[' well', 3]", "0"], "classes must be a list"),
        ([GOOD[0], "[' well', ' .']", "0"], "classes must be a list"),
        ([GOOD[0], "{[1]: 2}", "0"], "classes must be a list"),
        ([GOOD[0], "-" * 100_000 + "1", "0"], "classes must be a list"),
        ([GOOD[0], GOOD[1], "2"], "answer_index must be 0 to 1, got '2'"),
        ([GOOD[0], GOOD[1], "-1"], "answer_index must be 0 to 1, got '-1'"),
        ([GOOD[0], GOOD[1], "one"], "answer_index must be 0 to 1, got 'one'"),
        ([GOOD[0], GOOD[1], "²"], "answer_index must be 0 to 1, got '²'"),
        ([GOOD[0], GOOD[1], ""], "answer_index must be 0 to 1, got ''"),
        ([GOOD[0], GOOD[1]], "2 fields, but the header has 3"),
        ([*GOOD, "more"], "4 fields, but the header has 3"),
        (["  ", GOOD[1], "1"], "the prompt is empty"),
    ],
)
def test_a_broken_row_is_named_by_its_line(file: Callable[..., Path], row: list[str], message: str) -> None:
    path = file([*numbered(3), row, *numbered(2)])
    assert refused(path, message).startswith(f"{path}, line 5: ")


def test_classes_are_read_and_never_run(file: Callable[..., Path], tmp_path: Path) -> None:
    made = tmp_path / "made"
    for code in (f"[__import__('pathlib').Path({str(made)!r}).touch()]", f"open({str(made)!r}, 'w')"):
        refused(file([GOOD, [GOOD[0], code, "0"]]), "line 3: classes must be a list")
        assert not made.exists()


def test_lines_are_counted_in_the_file_not_in_rows(file: Callable[..., Path]) -> None:
    multi = ["Three\nlines,\nno less: stem", GOOD[1], "1"]
    assert memotrap(file([GOOD, multi])).samples[0].prompt == multi[0]
    refused(file([multi, [GOOD[0], "no list", "1"]]), "line 5: classes")
    refused(file([GOOD, [multi[0], "no list", "1"]]), "line 3: classes")


def test_empty_lines_are_skipped_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "gaps.csv"
    path.write_text('prompt,classes,answer_index\n\nA: b,"[1]",1\n')
    refused(path, "line 3: classes")


@pytest.mark.parametrize("row", ['"so"much,[],1', '"never closed,[],1\nx,y,0'])
def test_broken_quoting_is_named_by_the_line_it_begins_on(tmp_path: Path, row: str) -> None:
    path = tmp_path / "quotes.csv"
    path.write_text(f"prompt,classes,answer_index\nA: b,\"[' c', ' d']\",1\n{row}\n")
    refused(path, "line 3: not readable as CSV")


def test_a_bad_split_is_named_by_its_line(file: Callable[..., Path]) -> None:
    rows = [[*GOOD, "mining"], [*numbered(1)[0], "evaluation"], [*numbered(2)[1], "test"]]
    refused(file(rows, [*HEADER, "split"]), "line 4: split must be one of .*, got 'test'")


def test_a_missing_column_names_the_nearest(file: Callable[..., Path]) -> None:
    refused(file([GOOD], ["prompt", "class", "answer_index"]), "lacks the column 'classes'. Did you mean 'class'")
    refused(file([GOOD], ["text", "label", "no"]), "lacks the column 'prompt'. It has: label, no, text")


def test_files_without_rows_are_refused(tmp_path: Path, file: Callable[..., Path]) -> None:
    refused(file([]), "has no rows")
    (tmp_path / "empty.csv").write_text("")
    refused(tmp_path / "empty.csv", "lacks the column 'prompt'")


def test_files_that_are_missing_or_no_text_are_refused(tmp_path: Path) -> None:
    refused(tmp_path / "nosuch.csv", "No such file")
    (tmp_path / "binary.csv").write_bytes(bytes(range(256)) * 8)
    refused(tmp_path / "binary.csv", "is not a readable CSV file")
    refused(tmp_path, "a folder is not a readable CSV file")


# ------------------------------------------------------------------------------------------------ splits


def test_a_public_file_is_split_as_in_the_paper(file: Callable[..., Path]) -> None:
    task = memotrap(file(numbered(450)))
    assert [t.target for t in task.mining] == [f"w{i}" for i in range(100)]
    assert [t.target for t in task.samples] == [f"w{i}" for i in range(100, 400)]


@pytest.mark.parametrize(("rows", "mining"), [(101, 100), (100, 25), (8, 2), (2, 1)])
def test_a_smaller_file_mines_a_quarter(file: Callable[..., Path], rows: int, mining: int) -> None:
    task = memotrap(file(numbered(rows)))
    assert (len(task.mining), len(task.samples)) == (mining, rows - mining)


def test_evaluation_rows_with_a_mined_proverb_are_dropped(file: Callable[..., Path]) -> None:
    rows = numbered(8)
    rows[5] = ['End in the word "other": stem 1', "[' a1', ' other']", "1"]
    task = memotrap(file(rows))
    assert task.dropped == 1
    assert [t.target for t in task.samples] == ["w2", "w3", "w4", "w6", "w7"]


def test_a_split_column_decides(file: Callable[..., Path]) -> None:
    rows = [[*row, "evaluation" if i else "mining"] for i, row in enumerate(numbered(5))]
    task = memotrap(file(rows, [*HEADER, "split"]))
    assert ([t.target for t in task.mining], len(task.samples)) == (["w0"], 4)


def test_a_file_that_leaves_a_split_empty_is_refused(file: Callable[..., Path]) -> None:
    refused(file(numbered(1)), "leaves 1 traps to mine and 0 to evaluate")
    refused(file([[*GOOD, "evaluation"]], [*HEADER, "split"]), "leaves 0 traps to mine and 1 to evaluate")


def test_on_chooses_the_split() -> None:
    task = replace(memotrap(), max_new_tokens=5)
    mining = task.on("mining")
    assert task.on("evaluation") == task
    assert (mining.name, mining.samples, mining.max_new_tokens) == ("memotrap[mining]", task.mining, 5)
    assert mining.data_hash != task.data_hash
    with pytest.raises(ms.MechsteerError, match=r"Unknown split 'minning'\. Did you mean 'mining'"):
        task.on("minning")


def test_the_data_hash_depends_on_every_field() -> None:
    trap = Trap("p: q", (" a", " b"), 1)
    others = [replace(trap, prompt="p: r"), replace(trap, classes=(" a", " c")), replace(trap, answer_index=0)]
    assert len({MemoTrap("t", (t,)).data_hash for t in (trap, *others)}) == 4
    assert MemoTrap("t", (trap,)).data_hash == MemoTrap("u", (trap,)).data_hash


# ------------------------------------------------------------------------------------------------ scores

TRAP = Trap('Write a quote that ends in the word "fog": All is well that ends', (" well", " fog"), 1)
SCORES = [
    ("All is well that ends fog.", True, True),
    ("FOG", True, True),
    (TRAP.prompt, True, False),  # the echo: the paper's measure counts it
    (TRAP.prompt + " fog", True, False),
    ("The fog is all well", True, False),
    ("All is well that ends foggy", True, False),  # a substring is enough for the paper's measure
    ("All is well that ends well", False, False),
    ("", False, False),
]


@pytest.mark.parametrize(("output", "success", "strict"), SCORES)
def test_success_is_a_substring_and_strict_the_last_word_without_an_echo(
    output: str, success: bool, strict: bool
) -> None:
    assert (succeeded(output, TRAP), obeyed(output, TRAP)) == (success, strict)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("It ends in Fog.", "fog"),
        ("that's \"it's\"!", "it's"),
        ("a well-known", "well-known"),
        ("tail_end 42 ...", "42"),
        ("Straße, café", "café"),
        ("... !", ""),
        ("", ""),
    ],
)
def test_last_word_is_lower_case_without_punctuation(text: str, word: str) -> None:
    assert last_word(text) == word


# ------------------------------------------------------------------------------------------------ on a model


def test_run_reports_one_row_a_trap_with_its_log_probabilities(trap_t5: Any) -> None:
    full = memotrap()
    three = Trap(full.samples[0].prompt, (*full.samples[0].classes, " slow"), full.samples[0].answer_index)
    plain = replace(full, samples=full.samples[:9])
    table = plain.run(trap_t5)
    assert list(table.columns) == (
        "sample prompt target trap output correct success strict memorised sound logprob_target logprob_trap".split()
    )
    assert table["sample"].tolist() == list(range(9))
    assert table["prompt"].tolist() == [t.prompt for t in plain.samples]
    for row, trap in zip(table.to_dict("records"), plain.samples, strict=True):
        logprobs = ms.score(trap_t5, [trap.prompt], [list(trap.classes)])[0]
        right, wrong = float(logprobs[trap.answer_index]), float(logprobs[1 - trap.answer_index])
        assert row["logprob_target"] == pytest.approx(right, abs=1e-4)
        assert row["logprob_trap"] == pytest.approx(wrong, abs=1e-4)
        assert row["correct"] == (right > wrong)
        output = ms.generate(trap_t5, trap.prompt, max_new_tokens=20).texts[0]
        assert row["output"] == output
        assert row["success"] == succeeded(output, trap) and row["strict"] == obeyed(output, trap)
        assert row["memorised"] == (last_word(output) == trap.trap)
    assert table["correct"].nunique() == 2, "the organism obeys some of these traps and not others"

    logprobs = ms.score(trap_t5, [three.prompt], [list(three.classes)])[0]
    others = torch.cat([logprobs[: three.answer_index], logprobs[three.answer_index + 1 :]])
    best = replace(full, samples=(three,)).run(trap_t5).loc[0, "logprob_trap"]
    assert best == pytest.approx(float(others.max()), abs=1e-4)


def test_traps_of_two_and_of_three_classes_may_stand_in_one_task(trap_t5: Any) -> None:
    first, second, third = memotrap().samples[:3]
    more = replace(second, classes=(*second.classes, " slow"))
    found = replace(memotrap(), samples=(first, more, third)).run(trap_t5)
    each = [replace(memotrap(), samples=(trap,)).run(trap_t5) for trap in (first, more, third)]
    assert found["target"].tolist() == [trap.target for trap in (first, more, third)]
    for name in ("logprob_target", "logprob_trap"):
        assert found[name].tolist() == pytest.approx([float(table[name][0]) for table in each], abs=1e-4)


def test_the_mining_split_is_scored_like_any_other(trap_t5: Any) -> None:
    task = replace(memotrap(), mining=memotrap().mining[:3])
    table = task.on("mining").run(trap_t5)
    assert table["target"].tolist() == [t.target for t in task.mining]
