"""The published numbers: every file parses, every row says where it is from, and known numbers are what they are."""

import csv
from pathlib import Path

import pytest

from mechsteer.files import data_path

FOLDER = data_path("published")
FILES = sorted(FOLDER.glob("*.csv"))
PAPERS = ("t5_dola", "steer_instruct", "guide", "directer")
BASE, LARGE = "google/flan-t5-base", "google/flan-t5-large"


def rows(name: str) -> list[dict[str, str]]:
    with (FOLDER / name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def only(name: str, value: str, **where: str) -> str:
    """The one cell of column ``value`` in the row that ``where`` describes."""
    (row,) = (row for row in rows(name) if all(row[key] == wanted for key, wanted in where.items()))
    return row[value]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_file_is_a_table_with_sources(path: Path) -> None:
    table = rows(path.name)
    assert path.stem.startswith(PAPERS)
    assert table
    for row in table:
        assert None not in row and None not in row.values(), "a row is longer or shorter than the header"
        assert row["source"]
    assert len({tuple(row.values()) for row in table}) == len(table), "a row stands there twice"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_numbers_are_numbers_in_range(path: Path) -> None:
    for row in rows(path.name):
        for column, text in row.items():
            if not text:
                continue
            if column.endswith("_percent") or column == "percent":
                assert 0 <= float(text) <= 100
            elif column in {"accuracy", "success_rate", "win_rate_vs_raw", "quality", "auc"}:
                assert 0 <= float(text) <= 1
            elif column.endswith(("_pp", "_delta")) or column in {"cosine", "pearson_r", "n", "strength"}:
                float(text)


def test_card_names_every_file() -> None:
    card = (FOLDER / "README.md").read_text(encoding="utf-8")
    for paper in PAPERS:
        stems = [path.stem.removeprefix(paper) for path in FILES if path.stem.startswith(paper)]
        assert stems
        assert [stem for stem in stems if f"{stem}.csv`" not in card] == []


def test_heatmap_is_complete() -> None:
    cells = {(row["model"], int(row["layer"]), int(row["strength"])) for row in rows("t5_dola_heatmap.csv")}
    layers = {"google/flan-t5-small": range(6), BASE: range(12), LARGE: range(0, 24, 2)}
    assert cells == {(m, la, s) for m, span in layers.items() for la in span for s in (500, 1000, 1500)}


@pytest.mark.parametrize(
    ("model", "layer", "strength", "improvement"),
    [(BASE, "5", "1000", 33.0), (BASE, "0", "1500", -60.3), (LARGE, "2", "500", -47.0), (LARGE, "10", "1000", 47.7)],
)
def test_heatmap_cells(model: str, layer: str, strength: str, improvement: float) -> None:
    cell = only("t5_dola_heatmap.csv", "improvement_pp", model=model, layer=layer, strength=strength)
    assert float(cell) == improvement


@pytest.mark.parametrize("best", rows("t5_dola_best.csv"), ids=lambda row: row["model"])
def test_best_table_agrees_with_the_heatmap(best: dict[str, str]) -> None:
    cells = [row for row in rows("t5_dola_heatmap.csv") if row["model"] == best["model"]]
    top = max(cells, key=lambda row: float(row["improvement_pp"]))
    assert (top["layer"], top["strength"]) == (best["best_layer"], best["best_strength"])
    assert float(top["improvement_pp"]) == float(best["delta_pp"])
    gain = float(best["best_percent"]) - float(best["baseline_percent"])
    assert gain == pytest.approx(float(best["delta_pp"]), abs=1e-9)


def test_percentages_are_the_counts() -> None:
    for row in rows("t5_dola_memotrap_classification.csv"):
        if row["correct"]:
            parts = [int(row[f"{kind}_correct"]) for kind in ("option", "sentence", "both")]
            assert sum(parts) == int(row["correct"])
            assert float(row["accuracy_percent"]) == pytest.approx(100 * int(row["correct"]) / 837, abs=0.006)
    best = rows("t5_dola_best.csv")
    assert [round(float(row["best_percent"]) * 3) for row in best] == [277, 296, 299]


def test_ifeval_has_every_metric_for_every_model() -> None:
    loose = [row for row in rows("t5_dola_ifeval.csv") if row["scoring"] == "loose"]
    metrics = {row["metric"] for row in loose}
    assert len([metric for metric in metrics if ":" in metric]) == 25
    assert len(loose) == len(metrics) * 4 * 2
    where = {"metric": "instruction-level", "model": LARGE, "method": "dola", "scoring": "loose"}
    assert only("t5_dola_ifeval.csv", "accuracy_percent", **where) == "26.74"


def test_format_accuracies_follow_from_the_instructions() -> None:
    """Phi-3 is given for all 13 instructions: its overall accuracy must be their sum over 163 prompts."""
    model = "microsoft/Phi-3-mini-4k-instruct"
    for setting in ("with_instruction", "without_instruction"):
        for method, layers in (("none", ""), ("steered", "perplexity filter")):
            parts = [
                round(float(row["accuracy"]) * int(row["n"]))
                for row in rows("steer_instruct_format_by_instruction.csv")
                if (row["model"], row["setting"], row["method"]) == (model, setting, method)
            ]
            overall = [
                float(row["accuracy_percent"])
                for row in rows("steer_instruct_format.csv")
                if (row["model"], row["setting"], row["layer_choice"]) == (model, setting, layers)
                and row["scoring"] == "loose"
                and row["source"].startswith("recomputed")
            ]
            assert overall == [round(100 * sum(parts) / 163, 1)]


def test_directer_averages_are_the_means_of_their_columns() -> None:
    table = rows("directer_main.csv")
    for method in ("zero-shot", "directer", "pasta (alpha 0.1)", "spotlight (psi 0.1)"):
        mine = [row for row in table if row["method"] == method]
        (average,) = (float(row["percent"]) for row in mine if row["benchmark"] == "all seven columns")
        columns = [float(row["percent"]) for row in mine if row["metric"] != "mean"]
        assert len(columns) == 7
        assert sum(columns) / 7 == pytest.approx(average, abs=0.06)
