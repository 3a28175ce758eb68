"""Whatever is put in the model's place, or in another argument's, is refused in one line that says the fix."""

from collections.abc import Callable
from typing import Any

import pytest

import mechsteer as ms
from mechsteer.directions import random_direction
from mechsteer.errors import shown

TRAPS: list[Any] = [type("Trap", (), {"prompt": "the cat", "target": "red", "trap": "blue"})()]
CALLS: dict[str, Callable[[Any], Any]] = {
    "add.check": lambda m: ms.Intervention().check(m),
    "attention": lambda m: ms.analysis.attention(m, "the cat", 0),
    "capture": lambda m: ms.capture(m, "the cat", sites=["resid_post"]),
    "cross_attention_shift": lambda m: ms.cross_attention_shift(m, "the cat"),
    "difference_in_means": lambda m: ms.difference_in_means(m, [("the cat", "cat")], layer=0),
    "evaluate": lambda m: ms.evaluate(m, ms.tasks.memotrap()),
    "explain": lambda m: ms.Intervention().explain(m, "the cat"),
    "generate": lambda m: ms.generate(m, "the cat"),
    "gradient_direction": lambda m: ms.gradient_direction(m, TRAPS, layer=0),
    "influence": lambda m: ms.influence(m, "the cat", "task"),
    "instruction_features": lambda m: ms.instruction_features(m, None, [("the cat", "cat")]),
    "layer_sensitivity": lambda m: ms.layer_sensitivity(m, "the cat", span="task"),
    "logit_lens": lambda m: ms.logit_lens(m, "the cat"),
    "match_influence": lambda m: ms.match_influence(m, "the cat", 0.5, "task"),
    "model_info": ms.model_info,
    "prompt": lambda m: ms.prompt(m, "the cat"),
    "random_direction": lambda m: random_direction(m, seed=0, layer=0),
    "rollout": lambda m: ms.rollout(m, "the cat", "task"),
    "score": lambda m: ms.score(m, ["the cat"], [" sat"]),
    "separability": lambda m: ms.separability(m, [("the cat", "cat")] * 4),
    "similarity": lambda m: ms.similarity(m, [("the cat", "cat")] * 2),
    "site": lambda m: ms.site(m, "resid_post", layer=0),
    "sites": ms.sites,
    "sparse_direction": lambda m: ms.sparse_direction(m, [("the cat", " sat")], layer=0),
    "verify": lambda m: ms.verify(m),
    "volatility": lambda m: ms.volatility(m, "the cat"),
}


@pytest.fixture(scope="module")
def plain(checkpoint: Callable) -> Any:
    """Hugging Face's own model."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(checkpoint("llama-gqa"))


@pytest.mark.parametrize("name", CALLS)
def test_what_is_no_hooked_model_is_refused_in_one_line(name: str, plain: Any, unchecked: None) -> None:
    for wrong, said in (
        (plain, r"got a LlamaForCausalLM: .*ms\.load\('"),
        ("gpt2", r"got 'gpt2': the model comes first; ms\.load\('gpt2'\)"),
        (["the cat"] * 99, r"got \['the cat', .*…: .*arguments swapped\?$"),
        (None, "got None"),
    ):
        with pytest.raises(ms.MechsteerError, match=said) as found:
            CALLS[name](wrong)
        assert "\n" not in str(found.value) and len(str(found.value)) < 300


@pytest.mark.parametrize(
    "call",
    [
        lambda m: ms.generate("the cat", m),  # pyright: ignore[reportArgumentType]
        lambda m: ms.generate(m, m),
        lambda m: ms.generate(m, [m]),
        lambda m: ms.generate(m, "the cat", strategy=m),
        lambda m: ms.generate(m, "the cat", max_new_tokens=m),
        lambda m: ms.generate(m, "the cat", stop=m),
        lambda m: ms.generate(m, "the cat", steer=m),
        lambda m: ms.score(m, "the cat", m),
        lambda m: ms.score(m, ["the cat"], [m]),
        lambda m: ms.evaluate(m, m),
        lambda m: ms.evaluate(ms.tasks.memotrap(), m),  # pyright: ignore[reportArgumentType]
        lambda m: ms.logit_lens(m, "the cat", m),
        lambda m: ms.logit_lens(m, "the cat", [m]),
        lambda m: ms.influence(m, "the cat", m),
        lambda m: ms.influence(m, "the cat", "task", continuation=m),
        lambda m: ms.difference_in_means(m, m, layer=0),
        lambda m: ms.difference_in_means(m, [m], layer=0),
        lambda m: ms.gradient_direction(m, m, layer=0),
        lambda m: ms.sparse_direction(m, m, layer=0),
        lambda m: ms.sparse_direction(m, [m], layer=0),
        lambda m: ms.capture(m, m, sites=["resid_post"]),
        lambda m: ms.prompt(m, m),
        lambda m: ms.prompt(m, "the cat", instruction=m),
        lambda m: ms.site(m, m),
        lambda m: ms.site(m, "resid_post", layer=m),
        lambda m: ms.Intervention().hooks(m),
        lambda m: ms.generate(m, "the cat", strategy=ms.Greedy),  # pyright: ignore
        lambda m: ms.capture(m, "the cat", sites="resid_post", generate=1, strategy=ms.Greedy),  # pyright: ignore
        lambda m: ms.cell_key(["the cat"]),
        lambda m: ms.add(m),
        lambda m: ms.add(2.0, 1.0),  # pyright: ignore[reportArgumentType]
        lambda m: ms.project(m),
        lambda m: ms.heads(m),
    ],
)
def test_a_model_in_another_place_is_one_line_too(call: Callable, tiny: Callable, unchecked: None) -> None:
    with pytest.raises(ms.MechsteerError) as found:
        call(tiny("llama-gqa"))
    assert "\n" not in str(found.value) and len(str(found.value)) < 300


def test_values_are_shown_in_one_short_line() -> None:
    import pandas as pd

    assert shown([1, 2]) == "[1, 2]" and shown("a\nb") == r"'a\nb'"
    assert len(shown("x" * 999)) == 80 and shown(pd.DataFrame({"a": [1]})) == "a DataFrame"
