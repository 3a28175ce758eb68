"""Run a diagnosis: ask, measure, compare with controls, and say what it comes to."""

import os
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mechsteer.diagnosis.arms import IN_PLACE, WITHOUT, Arm, asked_arms, other_arms, run_arm
from mechsteer.diagnosis.attended import attention_mass
from mechsteer.diagnosis.cases import SPAN, Case, Cases, cases_of
from mechsteer.diagnosis.cutting import ALL, cut, cut_effects
from mechsteer.diagnosis.decision import FIRST, Decision, answer_ids, decision, margins
from mechsteer.diagnosis.decodable import decodability
from mechsteer.diagnosis.estimate import estimate
from mechsteer.diagnosis.evidence import Compared, compared
from mechsteer.diagnosis.facts import TINY, Facts, arm_facts, cut_facts, decodable_fact, mass_facts
from mechsteer.diagnosis.findings import MEANINGS, Finding, findings_of
from mechsteer.diagnosis.forms import NEARER, forms_of
from mechsteer.diagnosis.kept import kept
from mechsteer.diagnosis.page import page, text
from mechsteer.diagnosis.verdict import cause_of, compliant
from mechsteer.diagnosis.windows import windowed
from mechsteer.errors import positive_int
from mechsteer.files import atomic_path, writable_dir, write_table
from mechsteer.identity import cell_key
from mechsteer.models import model_info

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Diagnosis:
    """Why an instruction is ignored.

    Attributes:
        cause: One of :data:`mechsteer.diagnosis.verdict.CAUSES`.
        findings: What was found, a sentence each.
        tables: The tables that they stand on, by name.
        title: Task and model.
    """

    cause: str
    findings: tuple[Finding, ...]
    tables: "dict[str, pd.DataFrame]" = field(repr=False)
    title: str = ""

    @property
    def verdict(self) -> str:
        """The cause and what it means."""
        return f"{self.cause}. {MEANINGS[self.cause]}"

    def to_html(self, path: str | os.PathLike[str]) -> Path:
        """Write a page that needs nothing else: verdict, findings and tables."""
        with atomic_path(path) as temporary:
            temporary.write_text(page(self), encoding="utf-8")
        return Path(path)

    def _repr_html_(self) -> str:
        return page(self, whole=False)

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
    the answer (:mod:`mechsteer.diagnosis.attended`), is it decodable from the state there
    (:mod:`mechsteer.diagnosis.decodable`), and what happens when attention to it is cut
    (:mod:`mechsteer.diagnosis.cutting`); each beside a control. The rules of the verdict are those of
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
        MechsteerError: for a task without instructions or prompts, or a score that is not there.

    Example:
        >>> ms.diagnose(model, ms.task("own.jsonl", check="sentences:1")).to_html("why.html")
    """
    positive_int("batch_size", batch_size)
    cases = cases_of(model, task)
    if progress:
        print(estimate(model, cases, batch_size), file=sys.stderr)
    run = _Run(model, cases, score, batch_size, None if out is None else writable_dir(out), progress)
    tables = run.tables()
    facts = _facts(cases, tables)
    found = findings_of(facts)
    tables["findings"] = _findings_table(found)
    if run.out is not None:
        for name, table in tables.items():
            write_table(table, run.out / name)
    return Diagnosis(cause_of(facts), tuple(found), tables, f"{task.name}, {model_info(model).name}")


@dataclass(frozen=True)
class _Run:
    """What is run, and how."""

    model: Any
    cases: Cases
    score: str | None
    batch_size: int
    out: Path | None
    progress: bool

    def tables(self) -> "dict[str, pd.DataFrame]":
        import pandas as pd

        made = {"prompts": _prompts_table(self.cases)}
        readable = self.cases.readable
        if not readable:
            return made
        answers = [self.arm(arm) for arm in asked_arms(readable)]
        if not compliant(Facts(0, {}, arm_facts(pd.concat(answers))[0])):
            answers += [self.arm(arm) for arm in other_arms(self.model, readable, self.cases.max_new_tokens)]
        made["answers"] = pd.concat(answers, ignore_index=True)
        return made | self.measured(made["answers"])

    def arm(self, arm: Arm) -> "pd.DataFrame":
        return run_arm(
            self.model,
            self.cases,
            arm,
            score=self.score,
            batch_size=self.batch_size,
            out=None if self.out is None else self.out / "answers-of",
            progress=self.progress,
        )

    def measured(self, answers: "pd.DataFrame") -> "dict[str, pd.DataFrame]":
        """The tables of the two questions and of the test of cause."""
        cases = [(case, made) for case in self.cases.readable if (made := windowed(case.prompt, case.number))]
        if not cases:
            return {}
        numbers = [case.number for case, _ in cases]
        prompts = [made for _, made in cases]
        own = _texts(answers, IN_PLACE)
        first = [
            answer_ids(self.model, made, own[number])[:FIRST] for number, made in zip(numbers, prompts, strict=True)
        ]
        decisions = [self.decision(case, answers) for case, _ in cases]
        pairs = [(made, case.without) for case, made in cases if case.without is not None]
        size = self.batch_size

        def numbered(table: "pd.DataFrame") -> "pd.DataFrame":
            named = table.assign(place=[numbers[place] for place in table["place"]])
            return named.rename(columns={"place": "case"})

        makers: dict[str, Callable[[], pd.DataFrame]] = {
            "mass": lambda: numbered(attention_mass(self.model, prompts, first)),
            "cut": lambda: numbered(cut_effects(self.model, prompts, first, decisions, size)),
            "decodable": lambda: decodability(self.model, pairs, size),
            "nearer": lambda: self.nearer(answers, dict(zip(numbers, decisions, strict=True))),
        }
        about = [[case.prompt, case.without, made] for case, made in cases], first, decisions, list(answers["output"])
        return {name: self.kept(name, about, make) for name, make in makers.items()}

    def nearer(self, answers: "pd.DataFrame", decisions: dict[int, Decision | None]) -> "pd.DataFrame":
        """Attention mass and pull of the instruction in the forms with it nearer to the answer."""
        import pandas as pd

        frames = []
        tried = set(answers["arm"])
        forms = forms_of(self.model, self.cases.readable, self.cases.max_new_tokens)
        for name in (form for form in NEARER if form in tried):
            texts = _texts(answers, name)
            pairs = zip(self.cases.readable, forms[name], strict=True)
            made = {case.number: windowed(one, case.number) for case, one in pairs if one is not None}
            chosen = {number: one for number, one in made.items() if one is not None}
            first = [answer_ids(self.model, one, texts[number])[:FIRST] for number, one in chosen.items()]
            prompts, numbers = list(chosen.values()), list(chosen)
            mass = attention_mass(self.model, prompts, first, [SPAN]).groupby("place")["mass"].mean()
            deciding = [decisions.get(number) for number in numbers]
            with_it, cut_off = (
                margins(self.model, prompts, deciding, steer=steer, batch_size=self.batch_size)
                for steer in (None, cut(SPAN))
            )
            pull = [a - b for a, b in zip(with_it, cut_off, strict=True)]
            frames.append(pd.DataFrame({"case": numbers, "form": name, "mass": mass.to_numpy(), "pull": pull}))
        return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()

    def decision(self, case: Case, answers: "pd.DataFrame") -> Decision | None:
        """Where the first answer that follows and the one that ignores part; of the answers that were seen."""
        rows = answers[answers["case"] == case.number]
        follows = rows[rows["followed"] & (rows["arm"] != WITHOUT)]
        ignores = rows[~rows["passed"] & rows["arm"].isin([IN_PLACE, WITHOUT])]
        if follows.empty or ignores.empty:
            return None
        one, other = (
            answer_ids(self.model, case.prompt, str(row["output"]), ended=not row["truncated"])
            for row in (follows.iloc[0], ignores.iloc[0])
        )
        return decision(one, other)

    def kept(self, name: str, about: Any, make: "Callable[[], pd.DataFrame]") -> "pd.DataFrame":
        if self.out is None:
            return make()
        return kept(self.out, name, cell_key(self.model, about, options={"part": name}), make)


def _texts(answers: "pd.DataFrame", arm: str) -> dict[int, str]:
    rows = answers[answers["arm"] == arm]
    return dict(zip(rows["case"].astype(int), rows["output"].astype(str), strict=True))


def _prompts_table(cases: Cases) -> "pd.DataFrame":
    """Where the instruction is in each prompt."""
    import pandas as pd

    rows = []
    for case in cases.all:
        spans = case.prompt.spans.get(SPAN) or [(-1, -1)]
        start, end = spans[0][0], spans[-1][1]
        known = start >= 0
        rows.append(
            {
                "case": case.number,
                "tokens": len(case.prompt),
                "start": start if known else None,
                "instruction_tokens": sum(b - a for a, b in spans) if known else 0,
                "distance": len(case.prompt) - end if known else None,
                "missing": case.missing,
                "prompt": case.prompt.text,
            }
        )
    return pd.DataFrame(rows)


def _facts(cases: Cases, tables: "dict[str, pd.DataFrame]") -> Facts:
    missing = Counter(case.missing.lstrip("0123456789 ") for case in cases.all if case.missing)
    facts = Facts(len(cases.all), dict(missing))
    if "answers" not in tables:
        return facts
    answers = tables["answers"]
    followed, without, others = arm_facts(answers)
    facts = replace(facts, followed=followed, without=without, others=others)
    if "mass" not in tables:
        return facts
    own = answers[answers["arm"] == IN_PLACE]
    ignored = own.loc[~own["followed"], "case"].tolist()
    chosen = own["case"].tolist() if compliant(facts) else ignored
    mass, layers, slight = mass_facts(tables["mass"], chosen)
    cuts = cut_facts(tables["cut"], chosen)
    nearer_mass, nearer_pull = _nearer(tables, chosen)
    return replace(
        facts,
        mass=mass,
        mass_layers=layers,
        state=cuts.state,
        slight=(slight, cuts.slight),
        answer=cuts.answer,
        pull=cuts.pull,
        supplied=cuts.supplied,
        nearer_mass=nearer_mass,
        nearer_pull=nearer_pull,
        decodable=decodable_fact(tables["decodable"]),
    )


def _nearer(tables: "dict[str, pd.DataFrame]", cases: Sequence[int]) -> tuple[dict[str, Compared], dict[str, Compared]]:
    """Attention mass (mean over layers) and pull of the instruction in each nearer form, beside those in place."""
    forms, mass, effects = tables["nearer"], tables["mass"], tables["cut"]
    if forms.empty:
        return {}, {}
    own = mass[(mass["span"] == SPAN) & mass["case"].isin(cases)].groupby("case")["mass"].mean()
    whole = effects[(effects["span"] == SPAN) & (effects["layers"] == ALL)].set_index("case")
    masses, pulls = {}, {}
    for name, table in forms.groupby("form", sort=False):
        there = table.set_index("case")
        common = [case for case in own.index if case in there.index]
        masses[str(name)] = compared(there.loc[common, "mass"], own.loc[common])
        pulls[str(name)] = compared(there.loc[common, "pull"], whole.loc[common, "margin"], least=TINY)
    return masses, pulls


def _findings_table(found: Sequence[Finding]) -> "pd.DataFrame":
    import pandas as pd

    return pd.DataFrame([(one.about, one.says, one.sentence) for one in found], columns=["about", "says", "sentence"])
