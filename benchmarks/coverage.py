"""Which tables and figures of the five papers are here: the page ``docs/coverage.md``, from ``docs/coverage.csv``.

Run: ``.venv/bin/python -m benchmarks.coverage``.
"""

import csv
from pathlib import Path

DOCS = Path(__file__).parents[1] / "docs"
TABLE, PAGE = DOCS / "coverage.csv", DOCS / "coverage.md"

PAPERS = {
    "2512.03803": "DoLa for T5 and gradient steering",
    "2410.12877": "Instruction vectors",
    "2409.19001": "GUIDE and Influence",
    "2603.06745": "DIRECTER",
    "2502.06115": "Layerwise additive intervention",
}
STATUS = {
    "in form": "the same table or figure, on a small model or data of ours; the command runs on any model",
    "on a real model": "the same, and a run on a model that was not made for it is in the repository",
    "reproduced": "the paper's own model and data, with its numbers",
    "not": "it is not here, and why",
    "drawing": "a drawing of the method",
}
HEAD = """# What of the five papers is here

Every table and figure that is known to us. Of most papers the full text was not at hand
([what was](../data/published/README.md)), so figures without a number go by what they show. None of the papers' own
models was run for this page, which `python -m benchmarks.coverage` makes from `docs/coverage.csv`.

"""


def rows() -> list[dict[str, str]]:
    """The table."""
    with TABLE.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def page(table: list[dict[str, str]]) -> str:
    """The page."""
    counts = {status: sum(row["status"] == status for row in table) for status in STATUS}
    told = [f"- **{status}** ({counts[status]}): {meaning}." for status, meaning in STATUS.items() if counts[status]]
    parts = [HEAD + "\n".join(told) + "\n"]
    for paper, title in PAPERS.items():
        lines = [_line(row) for row in table if row["paper"] == paper]
        head = f"\n## {title} ([{paper}](https://arxiv.org/abs/{paper}))\n\n"
        columns = (
            "| in the paper | what | here | study and table | published numbers | note |\n|---|---|---|---|---|---|\n"
        )
        parts.append(head + columns + "\n".join(lines) + "\n")
    return "".join(parts)


def _line(row: dict[str, str]) -> str:
    study = f"`{row['study']}`: `{row['table']}`" if row["study"] else ""
    known = f"`{row['published']}.csv`" if row["published"] else ""
    return f"| {row['item']} | {row['what']} | {row['status']} | {study} | {known} | {row['why']} |"


if __name__ == "__main__":
    PAGE.write_text(page(rows()), encoding="utf-8")
