"""The page of what is here of the papers: it is its table, and the table names what there is."""

import re
from pathlib import Path

import pytest

import mechsteer
from benchmarks.coverage import PAGE, PAPERS, STATUS, page, rows
from mechsteer.files import data_path
from mechsteer.studies.registry import STUDIES

PACKAGE = Path(mechsteer.__file__).parent
ROWS = rows()
OURS = {"steering", "inside", "compose", "questions"}
"""Studies of no paper's table."""

UNUSED = {
    "guide_quality": "win rates by reference summaries of a 70B model and by a judge, which we do not have",
    "steer_instruct_layers": "layers of other models; ours are in the table layers",
    "steer_instruct_validation": "validation of other models by their layers",
    "steer_instruct_words_validation": "validation of other models by their layers and coefficients",
    "t5_dola_judge": "three answers of other models, judged by GPT-4",
    "t5_dola_lens": "ranks of three tokens in FLAN-T5-Large at one step of one prompt of IFEval",
}
"""Published numbers that no study shows, each with the reason."""


def shown() -> set[str]:
    """The files of published numbers that a module of the package names."""
    source = "\n".join(path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py"))
    return set(re.findall(r"\"([a-z0-9_]+)\"", source)) & {path.stem for path in data_path("published").glob("*.csv")}


def test_published_numbers_are_beside_ours_or_there_is_a_reason() -> None:
    known = {path.stem for path in data_path("published").glob("*.csv")}
    assert known - shown() == set(UNUSED)
    assert all(UNUSED.values())


def test_the_page_is_its_table() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(ROWS), "run: python -m benchmarks.coverage"


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row['paper']} {row['item']}")
def test_a_row_names_what_there_is(row: dict[str, str]) -> None:
    assert row["paper"] in PAPERS and row["status"] in STATUS and row["item"] and row["what"]
    assert not row["published"] or data_path("published", f"{row['published']}.csv").exists()
    if row["status"] in ("not", "drawing"):
        assert not row["study"] and (row["why"] or row["status"] == "drawing")
        return
    assert row["study"] in STUDIES
    folder = PACKAGE / "studies" / STUDIES[row["study"]].folder
    names = "\n".join(path.read_text(encoding="utf-8") for path in folder.glob("*.py"))
    assert f'"{row["table"]}"' in names, "no table of that name in the study"


def test_every_study_and_every_published_file_has_a_row() -> None:
    assert {row["study"] for row in ROWS} - {""} == set(STUDIES) - OURS
    known = {path.stem for path in data_path("published").glob("*.csv")}
    assert known - {row["published"] for row in ROWS} == set()
