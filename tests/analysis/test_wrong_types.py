"""What is no prompt, list or name, in every measurement: as users meet it, without the type checks of the tests."""

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import mechsteer as ms
from mechsteer import analysis
from mechsteer.analysis import mcnemar

PAIRS = [("cat", "dog"), ("red", "blue")]
RUN: dict[str, Callable[..., Any]] = {
    "attention": lambda m, p, **k: analysis.attention(m, p, 0, **k),
    "cross_attention_shift": lambda m, p, **k: analysis.cross_attention_shift(m, p, **k),
    "frozen_cross_attention": lambda m, p, **k: analysis.frozen_cross_attention(m, p, **({"targets": PAIRS} | k)),
    "influence": lambda m, p, **k: analysis.influence(m, p, **k),
    "layer_sensitivity": lambda m, p, **k: analysis.layer_sensitivity(m, p, **k),
    "logit_lens": lambda m, p, **k: analysis.logit_lens(m, p, **k),
    "rollout": lambda m, p, **k: analysis.rollout(m, p, **k),
    "separability": lambda m, p, **k: analysis.separability(m, p, **({"folds": 2} | k)),
    "similarity": lambda m, p, **k: analysis.similarity(m, p, **k),
    "volatility": lambda m, p, **k: analysis.volatility(m, p, **k),
}
PAIRED = ("separability", "similarity")


def given(model: Any, name: str) -> Any:
    """What the measurement takes."""
    made = [ms.prompt(model, text, instruction="answer in capitals") for text in ("the cat sat", "one two")]
    plain = [ms.prompt(model, text) for text in ("the cat sat", "one two")]
    return list(zip(made, plain, strict=True)) if name in PAIRED else made[0] if name == "attention" else made


@pytest.mark.parametrize("name", RUN)
def test_what_is_right_is_measured(name: str, tiny: Callable) -> None:
    assert len(RUN[name](tiny("t5"), given(tiny("t5"), name)))


@pytest.mark.parametrize("prompts", [3, None, [3], [], [("the",)], ["the", None]])
@pytest.mark.parametrize("name", RUN)
def test_what_is_no_prompt_is_refused(name: str, prompts: Any, tiny: Callable, unchecked: None) -> None:
    kind = "pairs?" if name in PAIRED else "prompts?"
    with pytest.raises(ms.MechsteerError, match=rf"(?i){kind} (must be a list|is |of prompts were|were) ?.*"):
        RUN[name](tiny("t5"), prompts)


@pytest.mark.parametrize("name", RUN)
def test_what_is_no_intervention_is_refused(name: str, tiny: Callable, unchecked: None) -> None:
    with pytest.raises(ms.MechsteerError, match="steer must be an intervention"):
        RUN[name](tiny("t5"), given(tiny("t5"), name), steer=3)


@pytest.mark.parametrize("name", ["influence", "layer_sensitivity", "logit_lens", "rollout", "volatility"])
def test_prompts_longer_than_the_context_are_refused(name: str, tiny: Callable) -> None:
    long = ms.prompt(tiny("gpt2"), "the cat " * 80, instruction="answer")
    with pytest.raises(ms.MechsteerError, match="this model's context"):
        RUN[name](tiny("gpt2"), [long])


@pytest.mark.parametrize("span", [3, None, [], ["nope"], [["task"]], "nope"])
@pytest.mark.parametrize("name", ["influence", "rollout", "layer_sensitivity"])
def test_what_is_no_span_is_refused(name: str, span: Any, tiny: Callable, unchecked: None) -> None:
    with pytest.raises(ms.MechsteerError, match=r"(?i)span"):
        RUN[name](tiny("t5"), given(tiny("t5"), name), span=span)


@pytest.mark.parametrize("name", ["influence", "rollout", "layer_sensitivity", "cross_attention_shift"])
@pytest.mark.parametrize("ranges", [[], [(3, 99)]])
def test_empty_spans_and_those_outside_the_prompt_are_refused(
    name: str, ranges: list[tuple[int, int]], tiny: Callable
) -> None:
    model = tiny("t5")
    broken = [replace(p, spans={"instruction": ranges}) for p in given(model, name)]
    with pytest.raises(ms.MechsteerError, match=r"has no tokens|is empty|is not within"):
        RUN[name](model, broken, span="instruction")


def test_an_empty_instruction_has_no_attention_mass(tiny: Callable) -> None:
    prompt = replace(given(tiny("t5"), "attention"), spans={"instruction": []})
    assert analysis.cross_attention_shift(tiny("t5"), prompt)["attention_mass"].isna().all()


WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("attention", {"continuation": 3}, "A continuation must be a text, got 3"),
    ("attention", {"stack": []}, r"Unknown stack \[\]"),
    ("cross_attention_shift", {"targets": 3}, "targets must be a list, got 3"),
    ("cross_attention_shift", {"targets": [3, 3]}, "A target is a .* pair of words or token ids, got 3"),
    ("cross_attention_shift", {"targets": [(0.5, 1)] * 2}, "word or a token id from 0 to 95, got 0.5"),
    ("cross_attention_shift", {"targets": [SimpleNamespace(target=None, trap="x")] * 2}, "token id .* got None"),
    ("cross_attention_shift", {"span": ["task"]}, "Unknown span"),
    ("frozen_cross_attention", {"targets": None}, "targets must be a list, got None"),
    ("frozen_cross_attention", {"which": 3}, "which must be a list, got 3"),
    ("frozen_cross_attention", {"which": []}, "which names no layers to freeze"),
    ("frozen_cross_attention", {"which": [["one"]]}, "Unknown choice of layers to freeze"),
    ("frozen_cross_attention", {"seed": "a"}, "seed must be an integer, got 'a'"),
    ("influence", {"continuation": 3}, "continuation must be a list, got 3"),
    ("influence", {"delta": [[1]]}, "delta must be a number"),
    ("logit_lens", {"targets": 3}, "targets must be a list, got 3"),
    ("logit_lens", {"targets": [3.5]}, "targets must be one list of words or token ids"),
    ("logit_lens", {"positions": 3}, "positions must be a list, got 3"),
    ("logit_lens", {"positions": ["a"]}, "'last', 'all' or a list of integers, got .'a'"),
    ("logit_lens", {"continuation": [3, 3]}, "A continuation must be a text, got 3"),
    ("separability", {"layers": 3}, "layers must be a list, got 3"),
    ("separability", {"seed": None}, "seed must be an integer, got None"),
    ("similarity", {"instructions": 3}, "instructions must be a list, got 3"),
    ("similarity", {"layers": ["a"]}, "layer must be an integer, got 'a'"),
    ("similarity", {"layers": [True]}, "layer must be an integer, got True"),
    ("similarity", {"site": 3}, "A site is a name, e.g. 'resid_post', got 3"),
    ("similarity", {"stack": []}, r"Unknown stack \[\]"),
    ("volatility", {"seed": 1.5}, "seed must be an integer, got 1.5"),
]


@pytest.mark.parametrize(("name", "options", "message"), WRONG)
def test_wrong_types_are_named(
    name: str, options: dict[str, Any], message: str, tiny: Callable, unchecked: None
) -> None:
    with pytest.raises(ms.MechsteerError, match=message):
        RUN[name](tiny("t5"), given(tiny("t5"), name), **options)


ONES = torch.ones(2, 3, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((3, torch.ones(3)), r"attention must be a tensor \[layers, pos, pos\], got 3"),
        ((ONES[:0], torch.ones(3)), r"attention must be a tensor \[layers, pos, pos\], got Tensor \[0, 3, 3\]"),
        ((ONES[..., :2], torch.ones(3)), r"attention must be a tensor .* got Tensor \[2, 3, 2\]"),
        ((ONES, torch.ones(2)), r"start must be a tensor \[3\], got Tensor \[2\]"),
        ((ONES, None), r"start must be a tensor \[3\], got None"),
        ((ONES * torch.nan, torch.ones(3)), "attention has NaN or infinite numbers"),
    ],
)
def test_weights_that_do_not_fit_are_named(arguments: Any, message: str, unchecked: None) -> None:
    with pytest.raises(ms.MechsteerError, match=message):
        analysis.rollout_of(*arguments)
    with pytest.raises(ms.MechsteerError, match=message):
        analysis.influence_of(arguments[0], torch.ones(2, 3), torch.ones(2, 3), arguments[1])


@pytest.mark.parametrize("norms", [None, torch.ones(3), torch.ones(2, 1), torch.ones(3, 3)])
def test_norms_that_do_not_fit_are_named(norms: Any, unchecked: None) -> None:
    for both in ((norms, torch.ones(2, 3)), (torch.ones(2, 3), norms)):
        with pytest.raises(ms.MechsteerError, match=r"_norms must be a tensor \[2, 3\], got"):
            analysis.influence_of(ONES, *both, torch.ones(3))


@pytest.mark.parametrize("verdicts", [3, None, "ab", [torch.tensor([1, 0])], ["a"], [float("nan")]])
def test_what_is_no_list_of_verdicts_is_refused(verdicts: Any, unchecked: None) -> None:
    for both in ((verdicts, [1]), ([1], verdicts)):
        with pytest.raises(ms.MechsteerError, match=r"must be a list|is for right and wrong"):
            mcnemar(*both)
