"""Run a diagnosis: ask, measure, compare with controls, and say what it comes to."""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mechsteer.diagnosis.cases import cases_of
from mechsteer.diagnosis.estimate import estimate
from mechsteer.diagnosis.finding import Finding
from mechsteer.diagnosis.findings import findings_of, meaning
from mechsteer.diagnosis.html_report import part, report_of, text
from mechsteer.diagnosis.measures.tables import Measures
from mechsteer.diagnosis.reading import facts_of
from mechsteer.diagnosis.supporting import supporting_of
from mechsteer.diagnosis.supporting_findings import supporting_findings
from mechsteer.diagnosis.verdict import cause_of
from mechsteer.errors import positive_int
from mechsteer.files import read_record, read_table, tables_of, writable_dir, written_together
from mechsteer.html_report import write
from mechsteer.html_report.page import NAME as PAGE
from mechsteer.models import model_info
from mechsteer.plots.diagnosis import diagnosis_figure
from mechsteer.running_command import command, running

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


RECORD = "diagnosis.json"


@dataclass(frozen=True)
class Diagnosis:
    """Why an instruction is ignored.

    Attributes:
        cause: One of :data:`mechsteer.diagnosis.verdict.CAUSES`.
        findings: What was found, a sentence each; the verdict first.
        tables: The tables that they stand on, by name.
        title: Task and model.

    Example:
        >>> found = ms.diagnose(model, task)  # doctest: +SKIP
        >>> found.cause, found.findings[0], found.tables.keys()  # doctest: +SKIP
    """

    cause: str
    findings: tuple[Finding, ...]
    tables: "dict[str, pd.DataFrame]" = field(repr=False)
    title: str = ""

    @property
    def verdict(self) -> str:
        """The cause and what it means."""
        return str(self.findings[0])

    def plot(self) -> "Figure":
        """Attention by layer, probes by layer, and the cuts, each beside its control.

        Raises:
            MechsteerError: if no prompt could be read.
        """
        return diagnosis_figure(self.tables)

    def to_html(self, path: str | os.PathLike[str]) -> Path:
        """Write a page that needs nothing else: verdict, findings and tables."""
        return write(report_of(self, command()), path)

    def _repr_html_(self) -> str:
        return part(self)

    def __repr__(self) -> str:
        return text(self)


def diagnose(
    model: Any,
    task: Any,
    *,
    score: str | None = None,
    batch_size: int = 16,
    out: str | os.PathLike[str] | None = None,
    progress: bool = False,
) -> Diagnosis:
    """Say why a model ignores an instruction, with the evidence.

    The prompts are answered as they are, without their instruction, in other forms (:mod:`mechsteer.diagnosis.forms`)
    and with attention to the instruction pushed. Then, of the prompts as they are: is the instruction attended to at
    the answer (:mod:`mechsteer.diagnosis.measures.attended`), is it decodable from the state there
    (:mod:`mechsteer.diagnosis.measures.decodable`), and what happens when attention to it is cut
    (:mod:`mechsteer.diagnosis.measures.cutting`); each beside a control. The rules of the verdict are those of
    :mod:`mechsteer.diagnosis.verdict`.

    Args:
        model: A loaded model.
        task: Prompts with an instruction and a check, e.g. :func:`mechsteer.task`.
        score: The score that says whether a prompt is followed: from 0.5 on it is. Default: the task's adherence, or
            its first.
        batch_size: Prompts computed together; does not change the result.
        out: A folder; rows and tables are kept there, and a killed diagnosis goes on and gives the same.
        progress: Say first what it will take, and show bars.

    Raises:
        MechsteerError: for a task without instructions or prompts, a score that is not there, or one that is
            not from 0 to 1.

    Example:
        >>> ms.diagnose(model, ms.task("own.jsonl", check="sentences:1")).to_html("why.html")  # doctest: +SKIP
    """
    positive_int("batch_size", batch_size)
    cases = cases_of(model, task)
    if progress:
        print(estimate(model, cases, batch_size), file=sys.stderr)
    run = Measures(model, cases, score, batch_size, None if out is None else writable_dir(out), progress)
    tables = run.tables()
    facts = facts_of(tables)
    cause = cause_of(facts)
    verdict = Finding("verdict", cause, f"{cause}. {meaning(cause, facts)}")
    found = [verdict, *findings_of(facts), *supporting_findings(supporting_of(tables))]
    tables["findings"], title = _findings_table(found), f"{task.name}, {model_info(model).name}"
    made = Diagnosis(cause, tuple(found), tables, title)
    if run.out is not None:
        _keep(made, run.out)
    return made


def _keep(found: Diagnosis, out: Path) -> None:
    """Write the tables and the record."""
    with written_together(out / RECORD, found.tables) as about:
        about.update(cause=found.cause, title=found.title, command=command())


def repage(folder: Path) -> Path:
    """Write ``report.html`` of a diagnosis again, from what :func:`diagnose` kept.

    Raises:
        MechsteerError: if something of it is missing or damaged.
    """
    record = read_record(folder / RECORD, "record of a diagnosis")
    tables = {name: read_table(folder / f"{name}.parquet") for name in tables_of(record, folder / RECORD)}
    found = tuple(Finding(*row) for row in tables["findings"].itertuples(index=False))
    with running(record["command"]):
        return Diagnosis(record["cause"], found, tables, record["title"]).to_html(folder / PAGE)


def _findings_table(found: Sequence[Finding]) -> "pd.DataFrame":
    import pandas as pd

    return pd.DataFrame([(one.about, one.says, one.sentence) for one in found], columns=["about", "says", "sentence"])
