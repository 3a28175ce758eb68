"""Tables and ``study.json`` of a folder always belong together."""

import html
import os
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
from matplotlib.figure import Figure

from mechsteer import files
from mechsteer.command import reproduce
from mechsteer.errors import MechsteerError
from mechsteer.files import read_record, read_table
from mechsteer.studies.core import result
from mechsteer.studies.core.result import finish
from mechsteer.studies.core.study import Study
from mechsteer.studies.registry import STUDIES


def table(value: float) -> pd.DataFrame:
    return pd.DataFrame({"value": [value]})


def told(folder: Path) -> dict[str, Any]:
    return read_record(folder / "study.json", "record of a study")


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_an_earlier_runs_tables_go_with_its_record(tmp_path: Path) -> None:
    (tmp_path / "mine.parquet").write_bytes(b"not the study's")
    finish(tmp_path, {"study": "x", "n": 1}, {"summary": table(1), "extra": table(1)})
    finish(tmp_path, {"study": "x", "n": 2}, {"summary": table(2)})
    assert told(tmp_path) == {"study": "x", "n": 2, "tables": ["summary"]}
    assert names(tmp_path) == {"mine.parquet", "study.json", "summary.csv", "summary.parquet"}
    assert read_table(tmp_path / "summary.parquet")["value"].tolist() == [2]


@pytest.mark.parametrize("written", [0, 1, 2])
def test_one_that_is_stopped_while_writing_leaves_no_record_of_other_tables(
    written: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish(tmp_path, {"n": 1}, {"a": table(1), "b": table(1)})
    real, count = files.write_table, [0]

    def stopped(*arguments: Any) -> Any:
        if count[0] == written:
            raise KeyboardInterrupt
        count[0] += 1
        return real(*arguments)

    monkeypatch.setattr(files, "write_table", stopped)
    with pytest.raises(KeyboardInterrupt):
        finish(tmp_path, {"n": 2}, {"a": table(2), "b": table(2), "c": table(2)})
    assert "study.json" not in names(tmp_path)


def test_a_damaged_record_is_replaced(tmp_path: Path) -> None:
    finish(tmp_path, {"n": 1}, {"a": table(1)})
    path = tmp_path / "study.json"
    path.write_bytes(path.read_bytes().replace(b'"n": 1', b'"n": 3'))
    with pytest.raises(MechsteerError, match="is damaged"):
        told(tmp_path)
    finish(tmp_path, {"n": 2}, {"a": table(2)})
    assert told(tmp_path)["n"] == 2


def test_the_page_of_a_study_is_made_again_from_its_folder(study: Any, tmp_path: Path, mechsteer: Any) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(study.folder, folder)
    text = (folder / "report.html").read_text("utf-8").replace(str(study.folder), str(folder))
    (folder / "report.html").unlink()
    code, printed, err = mechsteer("report", folder)
    assert (code, err, printed.split()) == (0, "", [str(folder / "report.html")])
    assert (folder / "report.html").read_text("utf-8") == text, "the same bytes, without a model"
    assert study.findings[0].replace("'", "&#x27;") in text and "data-cell=" in text and "reproduce t5-dola" in text
    sample = study.tables["samples"].iloc[0]
    assert html.escape(sample["prompt"]) in text and text.count("data-table=") == len(study.tables) - 1
    assert "organism:trap-t5" in text and "<img" in text and "http://" not in text


def test_a_folder_without_results_has_no_page(tmp_path: Path, mechsteer: Any) -> None:
    code, _, err = mechsteer("report", tmp_path)
    assert code == 2 and "none of study.json, comparison.json, tuning.json, diagnosis.json" in err


def test_figures_for_a_page(study: Any, tmp_path: Path, mechsteer: Any) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(study.folder, folder, ignore=shutil.ignore_patterns("figures"))
    (tmp_path / "mine.mplstyle").write_text("font.size: 7")
    options = ["--format", "svg", "--width", 3.3, "--style", tmp_path / "mine.mplstyle"]
    code, printed, err = mechsteer("figures", folder, *options)
    assert (code, err) == (0, "")
    paths = [Path(line) for line in printed.splitlines()]
    assert sorted(paths) == sorted((folder / "figures").iterdir()) and {path.suffix for path in paths} == {".svg"}
    first = [path.read_bytes() for path in paths]
    assert all(b'width="237.6pt"' in one for one in first)
    mechsteer("figures", folder, *options)
    assert [path.read_bytes() for path in paths] == first


def test_figures_of_two_widths_side_by_side(study: Any, tmp_path: Path, mechsteer: Any) -> None:
    folder, out = tmp_path / "copy", tmp_path / "new" / "column"
    for place in (folder, folder / "part"):  # a study that another one has in its folder
        shutil.copytree(study.folder, place, ignore=shutil.ignore_patterns("figures", "part"))
    code, printed, err = mechsteer("figures", folder, "--format", "svg", "--width", 3.3, "--out", out)
    assert (code, err) == (0, "")
    paths = [Path(line) for line in printed.splitlines()]
    assert sorted(paths) == sorted(out.rglob("*.svg")) and {path.parent for path in paths} == {out, out / "part"}
    assert not list(folder.rglob("figures"))


def test_a_refused_figure_is_named_and_the_others_are_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def save(figure: Any, stem: Path) -> list[Path]:
        if stem.name == "wide":
            raise MechsteerError("A figure 1 inches wide has no room.")
        return [stem]

    monkeypatch.setattr(result.plots, "save", save)
    made = SimpleNamespace(TABLES=(), draw=lambda tables: {"one": Figure(), "wide": Figure(), "last": Figure()})
    monkeypatch.setattr(Study, "module", lambda self, job: made)
    with pytest.raises(MechsteerError, match=r"1 of 3 figures could not be drawn.*wide: A figure 1 inches wide"):
        result.redraw(STUDIES["guide"], tmp_path)
    drawn = []

    def redraw(study: Study, folder: Path, out: Path | None = None) -> list[Path]:
        drawn.append(folder)
        if folder == tmp_path:
            raise MechsteerError("1 of 3 figures could not be drawn: wide.")
        return [folder / "figures" / "one.pdf"]

    monkeypatch.setattr(result, "redraw", redraw)
    for folder in (tmp_path, tmp_path / "part"):
        folder.mkdir(exist_ok=True)
        finish(folder, {"study": "guide"}, {})
    with pytest.raises(MechsteerError, match="wide"):  # the command ends with 2
        reproduce.figures(reproduce.Figures(tmp_path))
    assert drawn == [tmp_path, tmp_path / "part"] and "one.pdf" in capsys.readouterr().out


def test_a_page_takes_no_figure_of_other_tables_and_none_that_is_half_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    widths: list[float] = []

    def draw(tables: Any) -> dict[str, Figure]:
        widths.append(1.0 + len(widths))
        return {"one": Figure(figsize=(widths[-1], 1))}

    made = SimpleNamespace(TABLES=("summary",), draw=draw)
    monkeypatch.setattr(Study, "module", lambda self, job: made)
    finish(tmp_path, {"study": "guide"}, {"summary": table(1)})
    first = result.pictures(STUDIES["guide"], tmp_path)
    (tmp_path / "figures" / ".two.png.abcdefgh.mechsteer.tmp.png").write_bytes(b"half")
    assert result.pictures(STUDIES["guide"], tmp_path) == first and len(widths) == 1
    finish(tmp_path, {"study": "guide"}, {"summary": table(2)})  # and is killed before it draws
    (tmp_path / "figures" / "old.png").write_bytes((tmp_path / "figures" / "one.png").read_bytes())
    for name in ("one.png", "old.png"):
        os.utime(tmp_path / "figures" / name, (0, 0))
    second = result.pictures(STUDIES["guide"], tmp_path)
    assert second.keys() == {"one"} and second != first and len(widths) == 2
