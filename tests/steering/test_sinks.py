"""The scope ``"content"``, and the warning of an edit that moves an attention sink."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import mechsteer as ms
from mechsteer.models import is_encoder_decoder
from mechsteer.steering import Intervention
from tests.steering.naive import prompts_of
from tests.steering.planted import planted
from tests.steering.saes import make_sae
from tests.steering.steers import BOTH, direction, features
from tests.steering.test_passes import wanted, written

METHODS: dict[str, Callable[..., Intervention]] = {
    "add": lambda m, **at: ms.add(direction(m), 12.0, **at),
    "project": lambda m, **at: ms.project(direction(m), target=9.0, **at),
    "heads": lambda m, **at: ms.heads(direction(m, "z"), 2.0, **at),
    "features": lambda m, **at: features(m, 1.0, **at),
    "attention_bias": lambda m, **at: ms.attention_bias(delta=3.0, **at),
}


def rest(model: Any, make: Callable[..., Intervention], longest: int) -> Intervention:
    """All positions but the first, spelled out; of a decoder, what is generated."""
    if is_encoder_decoder(model):
        return make(model, scope="generated")
    return make(model, scope=list(range(1, longest + 8)))


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("family", BOTH)
def test_content_is_every_position_but_the_first(family: str, name: str, tiny: Callable, tmp_path: Path) -> None:
    model, make = tiny(family), METHODS[name]
    prompts = prompts_of(model)
    content = make(model, scope="content")
    if family == "t5" and name == "attention_bias":  # acts in the encoder too, where the first position is a token
        spelled = ms.attention_bias(delta=3.0, at="encoder", scope=list(range(1, 40)))
        spelled += ms.attention_bias(delta=3.0, at="cross", scope="generated")
    else:
        spelled = rest(model, make, max(map(len, prompts)))
    expected = ms.generate(model, prompts, steer=spelled, max_new_tokens=6)
    out = ms.generate(model, prompts, steer=content, max_new_tokens=6)
    assert out.tokens.equal(expected.tokens)
    torch.testing.assert_close(out.logprobs, expected.logprobs)
    again = ms.Intervention.load(content.save(tmp_path / "content"))
    assert again.edits[0].scope == content.edits[0].scope
    assert ms.generate(model, prompts, steer=again, max_new_tokens=6).tokens.equal(expected.tokens)


@pytest.mark.parametrize("name", METHODS)
def test_content_in_the_librarys_own_cached_generate(name: str, tiny: Callable) -> None:
    model = tiny("llama-gqa")
    prompt = prompts_of(model)[0]
    steer = METHODS[name](model, scope="content")
    expected = wanted(model, [prompt], steer)
    with model.hooks(fwd_hooks=steer.hooks(prompt)):
        assert written(model, prompt.tokens[None]).equal(expected)
        assert written(model, prompt.tokens[None], cache=False).equal(expected)


def test_every_prompt_has_the_span_content(tiny: Callable) -> None:
    model = tiny("llama-gqa")
    prompts = prompts_of(model)
    assert prompts[0].positions("content") == list(range(1, len(prompts[0])))
    parts = ms.add(direction(model), 12.0, scope="span:content") + ms.add(direction(model), 12.0, scope="generated")
    whole = ms.add(direction(model), 12.0, scope="content")
    a, b = (ms.generate(model, prompts, steer=s, max_new_tokens=6) for s in (parts, whole))
    assert a.tokens.equal(b.tokens)
    own = ms.Prompt("x", prompts[0].tokens, {"content": [(2, 4)]})
    assert own.positions("content") == [2, 3]
    bias = ms.attention_bias("content", 2.0)
    assert not ms.generate(model, prompts[0], steer=bias, max_new_tokens=6).tokens.equal(
        ms.generate(model, prompts[0], max_new_tokens=6).tokens
    )


def test_content_may_find_nothing_to_do(tiny: Callable) -> None:
    model = tiny("t5")
    steer = ms.add(direction(model), 12.0, scope="content")
    plain = ms.generate(model, "the cat", max_new_tokens=1)
    assert ms.generate(model, "the cat", steer=steer, max_new_tokens=1).logprobs.equal(plain.logprobs)


def said(run: Callable[[], Any]) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run()
    assert all(issubclass(w.category, ms.SinkWarning) for w in caught)
    return [str(w.message) for w in caught]


@pytest.mark.parametrize("family", ["llama-gqa", "gpt2"])
def test_an_edit_that_moves_a_sink_says_so_once_for_a_model(family: str, checkpoint: Callable[..., Path]) -> None:
    model, other = planted(checkpoint(family)), planted(checkpoint(family))
    prompts = prompts_of(model)
    steer = ms.project(direction(model), target=2.0)

    def run(model: Any, steer: Intervention, **options: Any) -> list[str]:
        return said(lambda: ms.generate(model, prompts, steer=steer, max_new_tokens=3, **options))

    (message,) = run(model, steer, batch_size=1)
    assert message.startswith("project at 'blocks.1.hook_resid_post' (scope 'all') changes the state of an attention")
    assert 'scope="content"' in message
    assert run(model, steer) == []
    assert len(run(other, steer)) == len(run(model, ms.project(direction(model), target=2.0))) == 1
    assert len(run(model, ms.project(direction(model), target=2.0, scope=[0]))) == 1
    for scope in ("content", "generated", "last_prompt", "span:instruction"):
        assert run(model, ms.project(direction(model), target=2.0, scope=scope)) == []


def test_features_that_depend_on_the_state_say_so_too_and_constant_changes_do_not(
    checkpoint: Callable[..., Path],
) -> None:
    for dtype in ("float32", "bfloat16"):
        model = planted(checkpoint("llama-gqa"), dtype=dtype)
        prompts = prompts_of(model)
        steer = ms.add(direction(model), 0.5) + ms.heads(direction(model, "z"), 0.5, scope="all")
        ms.generate(model, prompts, steer=steer, max_new_tokens=2)  # a warning is an error here
    model = planted(checkpoint("llama-gqa"))
    sae = make_sae(model, "topk")
    steer = ms.features(sae, {i: ("scale", 2.0) for i in range(sae.cfg.d_sae)})
    (message,) = said(lambda: ms.generate(model, prompts_of(model), steer=steer, max_new_tokens=2))
    assert message.startswith("features at ")


def test_hooks_without_a_prompt_and_encoders_say_it_too(checkpoint: Callable[..., Path]) -> None:
    model = planted(checkpoint("llama-gqa"))
    tokens = prompts_of(model)[0].tokens[None]
    hooks = ms.project(direction(model), target=2.0).hooks()
    assert len(said(lambda: model.run_with_hooks(tokens, fwd_hooks=hooks))) == 1
    t5 = planted(checkpoint("t5"), token=1)
    steer = ms.project(direction(t5, stack="encoder"), target=2.0)
    assert len(said(lambda: ms.generate(t5, prompts_of(t5), steer=steer, max_new_tokens=2))) == 1


def test_a_model_without_a_sink_says_nothing(tiny: Callable) -> None:
    model = tiny("llama-gqa")
    ms.generate(model, prompts_of(model), steer=ms.project(direction(model), target=50.0), max_new_tokens=2)
