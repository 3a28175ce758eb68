"""The study's figures in one column of a paper, from the tables that stand in the documentation."""

from pathlib import Path

import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg

from mechsteer import plots
from mechsteer.studies.registry import STUDIES

TABLES = Path(__file__).parents[3] / "docs" / "results" / "questions"


def test_the_figures_fit_one_column(tmp_path: Path) -> None:
    tables = {path.stem: pd.read_csv(path) for path in TABLES.glob("*.csv")}
    with plots.paper(3.3, formats=["png"]):
        figures = STUDIES["questions"].draw(tables)
        assert set(figures) == {"numbers", "architectures", "compound", "linear"}
        for name, made in figures.items():
            plots.save(made, tmp_path / name)
            renderer = FigureCanvasAgg(made).get_renderer()
            for axes in made.axes:
                assert axes.get_window_extent(renderer).width > made.bbox.width / 4, name
                texts = [axes.title, axes.xaxis.label, axes.yaxis.label]
                boxes = [text.get_window_extent(renderer) for text in texts if text.get_text()]
                assert min(box.x0 for box in boxes) > -1, name
                assert max(box.x1 for box in boxes) < made.bbox.width + 1, name
    rows = [[label.get_text() for label in axes.get_yticklabels()] for axes in figures["compound"].axes]
    assert all(any(row) for row in rows), "panels that stand below each other each name their bars"
