"""Everything that is generated and measured, table by table; a folder keeps what was done."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mechsteer.analysis.sinks import sinks
from mechsteer.diagnosis.arms import IN_PLACE, WITHOUT, Arm, asked_arms, other_arms, run_arm
from mechsteer.diagnosis.cases import SPAN, Case, Cases
from mechsteer.diagnosis.decision import FIRST, Decision, answer_ids, decision, margins
from mechsteer.diagnosis.facts import Facts
from mechsteer.diagnosis.forms import LAST, NEARER, forms_of
from mechsteer.diagnosis.measures.attended import attention_mass, influence_at_answer
from mechsteer.diagnosis.measures.cutting import cut, cut_effects
from mechsteer.diagnosis.measures.decodable import best_layer, decodability
from mechsteer.diagnosis.measures.lens import deciding_lens
from mechsteer.diagnosis.measures.mild_steering import mild_methods
from mechsteer.diagnosis.measures.windows import windowed
from mechsteer.diagnosis.reading import arm_facts
from mechsteer.diagnosis.verdict import compliant
from mechsteer.identity import cell_key
from mechsteer.models import predicting_stack
from mechsteer.prompts import Prompt
from mechsteer.studies.core.cells import cell

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Measures:
    """What is run, and how.

    Attributes:
        model: A loaded model.
        cases: The prompts.
        score: The score that says whether one is followed; None for the task's own.
        batch_size: Prompts computed together.
        out: Where rows and tables are kept; None for nowhere.
        progress: Show bars.
    """

    model: Any
    cases: Cases
    score: str | None
    batch_size: int
    out: Path | None
    progress: bool

    def tables(self) -> "dict[str, pd.DataFrame]":
        """Every table but that of the findings; computed where they are not kept."""
        import pandas as pd

        made = {"prompts": _prompts_table(self.cases)}
        readable = self.cases.readable
        if not readable:
            return made
        answers = [self._arm(arm) for arm in asked_arms(readable)]
        if not compliant(Facts(0, {}, arm_facts(pd.concat(answers))[0])):
            answers += [self._arm(arm) for arm in other_arms(self.model, readable, self.cases.max_new_tokens)]
        made["answers"] = pd.concat(answers, ignore_index=True)
        return made | self._measured(made["answers"])

    def _arm(self, arm: Arm) -> "pd.DataFrame":
        return run_arm(
            self.model,
            self.cases,
            arm,
            score=self.score,
            batch_size=self.batch_size,
            out=None if self.out is None else self.out / "answers-of",
            progress=self.progress,
        )

    def _measured(self, answers: "pd.DataFrame") -> "dict[str, pd.DataFrame]":
        """The tables of the two questions and of the test of cause."""
        cases = [(case, made) for case in self.cases.readable if (made := windowed(case.prompt, case.number))]
        if not cases:
            return {}
        numbers = [case.number for case, _ in cases]
        prompts = [made for _, made in cases]
        first = self._first(answers, IN_PLACE, dict(zip(numbers, prompts, strict=True)))
        decisions = [self._decision(case, answers) for case, _ in cases]
        pairs = [(made, case.without) for case, made in cases if case.without is not None]
        size = self.batch_size

        def numbered(table: "pd.DataFrame") -> "pd.DataFrame":
            named = table.assign(place=[numbers[place] for place in table["place"]])
            return named.rename(columns={"place": "case"})

        makers: dict[str, Callable[[], pd.DataFrame]] = {
            "mass": lambda: numbered(attention_mass(self.model, prompts, first)),
            "influence": lambda: numbered(influence_at_answer(self.model, prompts)),
            "cut": lambda: numbered(cut_effects(self.model, prompts, first, decisions, size)),
            "decodable": lambda: decodability(self.model, pairs, size),
            "nearer": lambda: self._nearer(answers, dict(zip(numbers, decisions, strict=True))),
            "lens": lambda: numbered(deciding_lens(self.model, prompts, decisions, size)),
            "sinks": lambda: sinks(self.model, prompts, batch_size=size),
        }
        about = [[case.prompt, case.without, made] for case, made in cases], first, decisions, list(answers["output"])
        made = {name: self._kept(name, about, make) for name, make in makers.items()}
        layer = best_layer(made["decodable"], predicting_stack(self.model)[1])
        last = forms_of(self.model, [case for case, _ in cases], self.cases.max_new_tokens).get(LAST)
        made["methods"] = self._kept(
            "methods",
            (about, layer),
            lambda: numbered(
                mild_methods(
                    self.model,
                    prompts,
                    last or [None] * len(prompts),
                    pairs,
                    decisions,
                    layer=layer,
                    batch_size=size,
                )
            ),
        )
        return made

    def _first(self, answers: "pd.DataFrame", arm: str, prompts: dict[int, Prompt]) -> list[list[int]]:
        """The first tokens of the answers to some prompts; the end token, where they ended before the limit."""
        rows = answers[answers["arm"] == arm].to_dict("records")
        said = {int(row["case"]): (str(row["output"]), not row["truncated"]) for row in rows}
        texts = ((made, *said[number]) for number, made in prompts.items())
        return [answer_ids(self.model, made, text, ended=ended)[:FIRST] for made, text, ended in texts]

    def _nearer(self, answers: "pd.DataFrame", decisions: dict[int, Decision | None]) -> "pd.DataFrame":
        """Attention mass and pull of the instruction in the forms with it nearer to the answer."""
        import pandas as pd

        frames = []
        tried = set(answers["arm"])
        forms = forms_of(self.model, self.cases.readable, self.cases.max_new_tokens)
        for name in (form for form in NEARER if form in tried):
            pairs = zip(self.cases.readable, forms[name], strict=True)
            made = {case.number: windowed(one, case.number) for case, one in pairs if one is not None}
            chosen = {number: one for number, one in made.items() if one is not None}
            first = self._first(answers, name, chosen)
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

    def _decision(self, case: Case, answers: "pd.DataFrame") -> Decision | None:
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

    def _kept(self, name: str, about: Any, make: "Callable[[], pd.DataFrame]") -> "pd.DataFrame":
        if self.out is None:
            return make()
        return cell(self.out, cell_key(self.model, about, options={"part": name}), make)


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
