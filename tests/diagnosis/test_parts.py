"""The parts of a diagnosis: the rules of the verdict, comparisons, controls, edits of prompts, tokens that decide."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mechsteer as ms
from mechsteer.analysis.mcnemar import exact_p
from mechsteer.diagnosis.cases import NO_ROOM, UNMARKED, cases_of
from mechsteer.diagnosis.decision import Decision, decision, margins
from mechsteer.diagnosis.editing import with_last, with_words_shuffled, without_span
from mechsteer.diagnosis.evidence import ABOVE, BELOW, NONE, Compared, compared
from mechsteer.diagnosis.facts import Better, Facts
from mechsteer.diagnosis.findings import findings_of, meaning
from mechsteer.diagnosis.formats import formats_for
from mechsteer.diagnosis.forms import forms_of
from mechsteer.diagnosis.measures.windows import CONTROLS, FIRST_TOKEN, windowed
from mechsteer.diagnosis.supporting import Supporting, sink_of
from mechsteer.diagnosis.supporting_findings import supporting_findings
from mechsteer.diagnosis.verdict import CAUSES, cause_of
from mechsteer.diagnosis.wording import beside
from mechsteer.stats import Interval, share_interval
from tests.planted import CHAT, OTHER_CHAT, tokenizer


def share(followed: int, n: int = 20) -> Interval:
    return Interval(followed / n, *share_interval(followed, n), n)


def arm(name: str, repaired: int, p: float, group: str = "form") -> Better:
    return Better(name, group, share(repaired), share(repaired), 0.0, repaired, 0, p)


def against(up: int, down: int) -> Compared:
    return Compared(1.0, 0.0, 0.0, 2.0, up, down, exact_p(up, down), up + down)


HELPS, NOT = 0.001, 0.4
LESS = (against(0, 12), against(0, 12))
NEAR = {"instruction last": against(12, 0)}
IGNORED = Facts(20, {}, followed=share(2))


@pytest.mark.parametrize(
    ("cause", "facts"),
    [
        ("truncated away", Facts(20, {"not whole": 10})),
        ("truncated away", Facts(20, {"not whole": 4, UNMARKED: 8, NO_ROOM: 4})),
        ("no evidence", Facts(20, {NO_ROOM: 20})),
        ("nothing to fix", Facts(20, {UNMARKED: 12}, followed=share(8, 8))),
        ("nothing to fix", Facts(20, {}, followed=share(18))),
        ("no evidence", Facts(3, {}, followed=share(3, 3))),
        ("wrong template", replace(IGNORED, others=[arm("chat template", 12, HELPS)])),
        ("wrong template", replace(IGNORED, others=[arm("ChatML template", 12, HELPS)])),
        ("lost by distance", replace(IGNORED, others=[arm("instruction last", 12, HELPS)], nearer_pull=NEAR)),
        ("attended but outweighed", replace(IGNORED, others=[arm("instruction last", 12, HELPS)])),
        (
            "attended but outweighed",
            replace(
                IGNORED,
                others=[arm("instruction last", 12, HELPS), arm("context shuffled", 11, HELPS)],
                nearer_pull=NEAR,
            ),
        ),
        ("never attended", replace(IGNORED, slight=LESS)),
        ("never attended", replace(IGNORED, slight=LESS, others=[arm("attention + 4", 12, HELPS, "push")])),
        (
            "attended but outweighed",
            replace(IGNORED, slight=LESS, supplied=against(12, 0), pull={"all": against(12, 0)}),
        ),
        ("attended but outweighed", replace(IGNORED, others=[arm("attention + 1", 12, HELPS, "push")])),
        ("incapable when instructed", replace(IGNORED, others=[arm("instruction last", 1, NOT)])),
        ("no evidence", replace(IGNORED, others=[arm("instruction last", 5, NOT)])),
        ("no evidence", Facts(20, {}, followed=share(10), others=[arm("instruction last", 1, NOT)])),
        ("no evidence", replace(IGNORED, others=[replace(arm("instruction last", 0, 1.0), followed=share(0, 4))])),
        ("no evidence", replace(IGNORED, slight=(LESS[0], against(5, 7)))),
    ],
)
def test_the_first_rule_that_holds_decides(cause: str, facts: Facts) -> None:
    assert cause in CAUSES and cause_of(facts) == cause


@given(st.lists(st.tuples(st.floats(-5, 5), st.floats(-5, 5)), max_size=12))
def test_swapping_swaps_the_comparison(pairs: list[tuple[float, float]]) -> None:
    values, controls = [a for a, _ in pairs], [b for _, b in pairs]
    one, other = compared(values, controls), compared(controls, values)
    assert (one.up, one.down, one.p) == (other.down, other.up, other.p) and one.n == len(pairs)
    assert {one.says, other.says} in ({ABOVE, BELOW}, {NONE})
    assert compared(values, values).says == NONE and compared(values, values).p == 1


def test_small_differences_are_ties_and_families_are_adjusted() -> None:
    assert compared([1.0004] * 9, [1.0] * 9).says == NONE
    assert compared([0.05] * 9, [0.0] * 9, least=0.1).says == NONE
    assert compared([0.5] * 9, [0.0] * 9).says == ABOVE
    assert compared([0.5] * 9, [0.0] * 9, tests=20).says == NONE
    assert compared([float("nan"), 1.0], [0.0, 0.0]).n == 1


def test_a_control_is_named_before_its_interval() -> None:
    facts = Facts(12, {}, followed=share(2, 12), mass=against(12, 0), state=against(5, 7))
    said = {one.about: one.sentence for one in findings_of(facts)}
    assert "against 0 for other text of its length (difference 0 to 2, 95 % interval; 5 of 12 above" in said["attended"]
    assert said["attended"].endswith("no evidence of a difference).")


def test_what_is_said_of_few_prompts_and_of_answers_that_collapse_agrees_with_its_numbers() -> None:
    assert meaning("no evidence", Facts(3, {}, followed=share(3, 3))).startswith("3 of 3 are followed, too few")
    assert meaning("no evidence", Facts(4, {}, followed=share(3, 4))).startswith("1 ignored prompt is too few")
    lenient = Facts(
        20, {}, followed=share(20), without=Better("without", "as asked", share(19), share(19), 0, 0, 1, 1.0)
    )
    assert meaning("nothing to fix", lenient).startswith("The check passes, but without the instruction too")
    few = Better("without", "as asked", share(1, 6), share(1, 6), 0, 0, 5, 0.0625)
    said = meaning("nothing to fix", Facts(6, {}, followed=share(6, 6), without=few))
    assert said.startswith("The check passes, but without the instruction too, for 1 of 6: no evidence")
    none = replace(few, followed=share(0, 5))
    said = meaning("nothing to fix", Facts(6, {}, followed=share(6, 6), without=none))
    assert said.startswith("The check passes, without the instruction for 0 of 5: no evidence")
    better = Better("without", "as asked", share(100, 100), share(100, 100), 0, 10, 0, 0.002)
    said = meaning("nothing to fix", Facts(100, {}, followed=share(90, 100), without=better))
    assert said.startswith("The check passes, but without the instruction too, for 100 of 100")
    strict = Better("without", "as asked", share(1), share(1), 0, 0, 19, 1e-5)
    assert meaning("nothing to fix", replace(lenient, without=strict)) == "The model follows the instruction."
    bare = Better("without", "as asked", share(0), share(12), 0.6, 0, 2, 0.5)
    own, one = findings_of(Facts(20, {}, followed=share(2), collapsed=0.85, without=bare))[:2]
    assert str(own) == "Followed as asked: 10 % (2 of 20; 95 % interval 2 to 33 %), 85 % of the answers collapsed."
    assert "passes: 0 % (0 of 20; 95 % interval 0 to 20 %), 60 % of the answers collapsed; 2 prompts with it" in str(
        one
    )


def test_a_mild_method_that_moves_the_decision_away_is_said_to() -> None:
    away = Compared(-1.0, 0.0, -2.0, -0.5, 0, 12, 0.005, 12)
    found = supporting_findings(Supporting(9, 3, 5, methods={"GUIDE, 1 nat": away, "SpotLight, .1": away}))
    (one,) = (one for one in found if one.about == "methods")
    assert one.says == BELOW and "away from it in most prompts" in str(one) and "no evidence" not in str(one)


def test_a_sink_of_the_decoder_is_none_of_the_encoder() -> None:
    rows = [("encoder", 1, 0, 12.0), ("encoder", 2, 0, 11.0), ("decoder", 3, 0, 40.0)]
    sinks = pd.DataFrame(rows, columns=["stack", "layer", "position", "ratio"])
    mass = pd.DataFrame({"span": [FIRST_TOKEN], "mass": [0.25]})
    for table, start in (
        (sinks, "Position 0 of the decoder is an attention sink after 1 layers, from layer 3 on: its norm is up to 40"),
        (sinks.iloc[:2], "Position 0 of the encoder is an attention sink after 2 layers, from layer 1 on: its norm"),
        (sinks.iloc[:2].drop(columns="stack"), "Position 0 is an attention sink after 2 layers, from layer 1 on: its"),
    ):
        found = supporting_findings(Supporting(9, 3, 5, sink=sink_of(table, mass)))
        (one,) = (str(one) for one in found if one.about == "sinks")
        assert one.startswith(start) and ("takes 25 % of the attention" in one) == ("decoder" not in one)


def test_one_prompt_has_no_interval_and_small_p_values_are_named_once() -> None:
    assert beside(compared([0.5], [0.25]), "elsewhere") == (
        "against 0.25 elsewhere (difference +0.25, without an interval; "
        "1 of 1 above, p = 1, no evidence of a difference)"
    )
    said = beside(compared([0.5 + 0.01 * k for k in range(30)], [0.25] * 30), "elsewhere")
    assert said.endswith("30 of 30 above, p < 0.0001)")


@settings(max_examples=40)
@given(before=st.integers(0, 6), size=st.integers(1, 4), behind=st.integers(2, 12), seed=st.integers(0, 99))
def test_controls_are_as_long_and_elsewhere(
    tiny: Callable[..., Any], before: int, size: int, behind: int, seed: int
) -> None:
    words = ["the"] * before + ["<!!->", *["answer"] * size, "<-!!>"] + ["cat"] * behind
    made = ms.prompt(tiny("llama"), " ".join(words))
    found = windowed(made, seed)
    assert found is not None and found.positions(FIRST_TOKEN) == [0]
    inside = set(made.positions("instruction"))
    for name in CONTROLS:
        places = found.positions(name)
        assert len(places) == min(size, before + behind - 1)
        assert not inside & set(places) and max(places) < len(made) and 0 not in places


def test_parts_of_a_prompt_move_with_their_spans(tiny: Callable[..., Any]) -> None:
    model = tiny("llama-gqa", chat=True)
    made = ms.prompt(model, "the cat sat", instruction="answer in capitals", context="a dog , a mat")
    near = without_span(model, made, "context")
    assert near.tokens.tolist() == ms.prompt(model, "the cat sat", instruction="answer in capitals").tokens.tolist()
    assert near.span_text("instruction") == "answer in capitals" and near.span_text("task") == "the cat sat"
    base = ms.prompt(model, "the cat sat", context="a dog , a mat")
    last = with_last(model, base, "answer in capitals")
    order = ("context", "task", "instruction")
    other = ms.prompt(model, "the cat sat", instruction="answer in capitals", context="a dog , a mat", order=order)
    assert last.tokens.tolist() == other.tokens.tolist()
    assert {k: last.span_text(k) for k in order} == {k: other.span_text(k) for k in order}
    mixed = with_words_shuffled(model, made, "context", 1)
    assert sorted(mixed.span_text("context").split()) == sorted("a dog , a mat".split())
    assert len(mixed) == len(made) and mixed.span_text("task") == "the cat sat"


def test_of_a_conversation_no_other_template_is_made(tiny: Callable[..., Any]) -> None:
    model, instruction = tiny("llama-gqa", chat=True), "answer in capitals"
    system = {"role": "system", "content": instruction}
    before = [{"role": "user", "content": "a dog"}, {"role": "assistant", "content": "red"}]
    user = {"role": "user", "content": "the cat sat\n"}
    whole = {"role": "user", "content": f"{instruction} , the cat sat\n"}
    made = {1: [whole], 2: [system, user], 4: [*before, system, user], 3: [*before, whole]}
    for count, turns in made.items():
        task = ms.task([{"prompt": turns, "instruction": instruction}], "uppercase", max_new_tokens=2)
        forms = forms_of(model, cases_of(model, task).readable, 2)
        assert ("no template" in forms) == (count == 1) and "instruction last" in forms
        plain = forms.get("no template", [])
        assert all(one is not None and one.text.strip() == whole["content"].strip() for one in plain)


def test_an_instruction_that_a_task_knows_and_does_not_mark_is_found_in_its_prompts(trap_t5: Any) -> None:
    task = replace(ms.tasks.memotrap(), samples=ms.tasks.memotrap().samples[:2])
    for trap, case in zip(task.samples, cases_of(trap_t5, task).readable, strict=True):
        assert case.prompt.span_text("instruction") == f"{trap.instruction}:"
        assert case.without is not None and case.without.text == trap.stem.strip()


def test_formats_whose_marks_the_template_lacks() -> None:
    assert [one.name for one in formats_for(tokenizer(OTHER_CHAT))] == ["ChatML"]
    assert [one.name for one in formats_for(tokenizer(""))] == ["ChatML"]
    assert not list(formats_for(tokenizer(CHAT)))


def test_decisions_are_where_answers_part(tiny: Callable[..., Any]) -> None:
    assert decision([5, 6, 7], [5, 8]) == Decision((5,), 6, 8)
    assert decision([5, 6], [5, 6, 7]) is None
    model = tiny("llama-gqa")
    prompts = [ms.prompt(model, text) for text in ("the cat sat", "a dog on the mat")]
    both: list[Decision | None] = [Decision((5, 9), 6, 8), None]
    found = margins(model, prompts, both)
    words = [model.tokenizer.decode([token]) for token in (5, 9, 6, 8)]
    texts = [[f" {words[0]} {words[1]} {words[2]}", f" {words[0]} {words[1]} {words[3]}"]]
    follow, ignore = ms.score(model, prompts[:1], texts)[0].tolist()
    assert found[0] == pytest.approx(follow - ignore, abs=1e-4) and found[1] != found[1]
