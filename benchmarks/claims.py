"""Every number that README and docs claim, beside what the committed tables say and what is measured now.

The list is :mod:`benchmarks.sentences`. Without options it reads the tables, runs the study of ``make demo`` and
measures what takes seconds: two or three minutes. ``--full`` (``make claims FULL=1``) measures all: the other studies
(about 45 minutes), the benchmarks, the real model. Nothing is left out in silence: what was not measured has its
command in the last column. The exit code is 1 where a number falls short.

Run: ``make claims``, or ``.venv/bin/python -m benchmarks.claims [--full] [--out FOLDER]``.
"""

import subprocess
import sys
import textwrap
from collections import Counter
from collections.abc import Callable
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import tyro

from benchmarks.golden import TABLES
from benchmarks.measures import MEASURES
from benchmarks.sentences import ROOT, all_agree, committed, listed, pages, said, source_of, unlisted, values_in
from mechsteer.files import write_table
from mechsteer.studies.registry import STUDIES

QUICK = ("t5-dola",)
"""Studies that are run without ``--full``."""

SPEED = 0.25
"""By what part a ratio of times may be another one on another machine, or another day."""

COMMANDS = {
    "ifeval": "mechsteer reproduce ifeval --model SmolLM2-135M-Instruct --data FILE (see docs/results/ifeval.md)",
    "ifeval_vectors": "ms.studies.ifeval_vectors.run(...) (see docs/results/ifeval.md)",
    "questions_smollm2": "ms.studies.questions.run(...) (see docs/results/questions.md)",
    "seeds": "python -m benchmarks.seeds NAME",
    "tuning": "python -m benchmarks.tuning --out FOLDER --seeds 5",
}
"""How tables in docs/results are made that no study makes on its bundled model: in hours."""


@dataclass(frozen=True)
class Options:
    """What is measured."""

    full: bool = False
    """Measure everything, which takes hours."""
    out: Path = Path("results/claims")
    """Folder for the table and for what studies compute; give a new one when the code has changed."""
    model: Annotated[str | None, tyro.conf.arg(metavar="MODEL")] = None
    """With --full: the checkpoint of docs/results/ifeval.md, SmolLM2-135M-Instruct."""
    data: Path | None = None
    """With --full: IFEval's file."""


@dataclass(frozen=True)
class Claim:
    """A sentence of a page, and what became of its numbers."""

    page: str
    sentence: str
    claimed: str
    table: str
    now: str
    verdict: str
    command: str


@dataclass(frozen=True)
class Source:
    """Where numbers come from: the command that makes them, and how they are measured here, if they are."""

    command: str
    measure: Callable[[], Any] | None = None
    about: float = 0.0


def source(name: str, options: Options) -> Source:
    """The source of that name: a study, a measurement, or a folder of tables."""
    if name in TABLES:
        run = options.full or name in QUICK
        return Source(f"python -m benchmarks.golden {name}", (lambda: _study(name, options.out)) if run else None)
    if name in MEASURES:
        measure = MEASURES[name]
        return Source(measure.command, measure.run if options.full or not measure.long else None)
    if name == "benchmarks/results":
        return Source("make bench", _benchmarks if options.full else None, SPEED)
    study = name.removeprefix("docs/results/")
    if study in COMMANDS:
        given = study == "ifeval" and options.full and options.model and options.data
        return Source(COMMANDS[study], (lambda: _ifeval(options)) if given else None)
    return Source(f"mechsteer reproduce {study}", (lambda: _study(study, options.out)) if options.full else None)


def _study(name: str, out: Path) -> dict[str, pd.DataFrame]:
    return STUDIES[name].run(out=out / name, batch_size=128, draw=False).tables


def _benchmarks() -> dict[str, pd.DataFrame]:
    before = committed("benchmarks/results")  # read before they are written again
    subprocess.run([sys.executable, "benchmarks/run_all.py"], cwd=ROOT, check=True)
    return {name: pd.read_csv(ROOT / "benchmarks" / "results" / f"{name}.csv") for name in before}


def _ifeval(options: Options) -> dict[str, pd.DataFrame]:
    import mechsteer as ms

    sizes: dict[str, Any] = {"n": 200, "methods": ["GUIDE"], "validation": 20, "batch_size": 32}
    return ms.studies.ifeval.run(options.model, options.out / "ifeval", data=options.data, **sizes).tables


def judged(sentence: dict[str, Any], texts: dict[str, str], made: Any, where: Source) -> list[Claim]:
    """The claims of one sentence, one for each page that has it.

    Args:
        sentence: An entry of the list.
        texts: The pages.
        made: What was measured now: tables, or the numbers; None if nothing was.
        where: The source.
    """
    table = values_in(sentence, committed(source_of(sentence))) if "cells" in sentence else None
    now = values_in(sentence, made) if isinstance(made, dict) else made
    found = []
    for page, text in texts.items():
        for numbers in said(sentence["text"], text):
            bad = [what for what, values, about in (("the table", table, 0.0), ("what is measured", now, where.about))
                   if values is not None and not all_agree(numbers, values, sentence, about)]  # fmt: skip
            verdict = "FALLS SHORT of " + " and ".join(bad) if bad else _held(table, now)
            words = sentence["text"].split("#")
            filled = "".join(a + b for a, b in zip(words, [*numbers, ""], strict=True))
            found.append(Claim(page, filled, " ".join(numbers), _shown(table), _shown(now), verdict, where.command))
    return found or [Claim("", sentence["text"], "", _shown(table), _shown(now), "no page says it", where.command)]


def _held(table: list[float] | None, now: list[float] | None) -> str:
    if now is not None:
        return "holds"
    return "holds in the table, not measured now" if table is not None else "not measured now"


def _shown(values: list[float] | None) -> str:
    return "-" if values is None else " ".join(f"{value:.5g}" for value in values)


def claims(options: Options) -> list[Claim]:
    """All claims of the list; each source is measured once."""
    texts, found, made = pages(), [], {}
    for sentence in listed()["sentence"]:
        name = source_of(sentence)
        where = source(name, options)
        if name not in made:
            print(f"{name}: {where.command}" if where.measure else f"{name}: not measured", file=sys.stderr, flush=True)
            made[name] = where.measure() if where.measure else None
        found += judged(sentence, texts, made[name], where)
    return found


def main(options: Options) -> None:
    """Print, write the table, and end with 1 where something falls short."""
    found = claims(options)
    for claim in found:
        print(textwrap.shorten(f"{claim.page}: {claim.sentence}", 140))
        print(
            f"    claimed {claim.claimed} | table {claim.table} | now {claim.now} | {claim.verdict} | {claim.command}"
        )
    names = list(Claim.__dataclass_fields__)
    write_table(pd.DataFrame([astuple(claim) for claim in found], columns=names), options.out / "claims")
    entries = listed()
    texts = [entry["text"] for kind in ("sentence", "no_claim") for entry in entries[kind]]
    left, count = unlisted((ROOT / "README.md").read_text(encoding="utf-8"), texts)
    print(
        f"\n{len(found)} claims: " + ", ".join(f"{n} {what}" for what, n in Counter(c.verdict for c in found).items())
    )
    print(f"README has {count} numbers, {len(left)} of them not in the list. Table: {options.out / 'claims.csv'}")
    print("\n".join(left))
    if left or any(not claim.verdict.startswith(("holds", "not measured")) for claim in found):
        sys.exit(1)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
