"""``.hooks(prompt)`` in the library's own forward and cached ``generate`` means what it means in ours."""

from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch

import mechsteer as ms
from mechsteer.models.info import set_info
from tests.steering.naive import prompts_of
from tests.steering.steers import GENERAL, NO_ZERO, PASS_BY_PASS, direction

NEW = 6
MAKERS = GENERAL | NO_ZERO | PASS_BY_PASS
SCOPES: list[Any] = ["all", "prompt", "generated", "last_prompt", [0], [-2, 9, 11], "span:instruction"]
DECODERS = ["gpt2", "llama-gqa", "mistral"]


def written(model: Any, tokens: torch.Tensor, *, cache: bool = True, new: int = NEW) -> torch.Tensor:
    """What the library's own generate adds to rows of tokens."""
    options = dict(max_new_tokens=new, do_sample=False, stop_at_eos=False, prepend_bos=False, verbose=False)
    return model.generate(tokens, **options, use_past_kv_cache=cache, return_type="tokens")[:, tokens.shape[1] :]


def wanted(model: Any, prompts: list[ms.Prompt], steer: ms.Intervention | None) -> torch.Tensor:
    """The same by ours, which stops at no token either."""
    with endless(model):
        return ms.generate(model, prompts, steer=steer, max_new_tokens=NEW).tokens


@contextmanager
def endless(model: Any) -> Any:
    info = ms.model_info(model)
    set_info(model, replace(info, eos_ids=()))
    try:
        yield
    finally:
        set_info(model, info)


@pytest.mark.parametrize("name", MAKERS)
def test_every_method_writes_what_mechsteers_generate_writes(name: str, tiny: Callable) -> None:
    model = tiny("llama-gqa")
    prompt = prompts_of(model)[0]
    steer = MAKERS[name](model, 1.0)
    expected = wanted(model, [prompt], steer)
    with model.hooks(fwd_hooks=steer.hooks(prompt)):
        assert written(model, prompt.tokens[None]).equal(expected)
        assert written(model, prompt.tokens[None]).equal(expected)  # a second run starts anew
    changed = not expected.equal(wanted(model, [prompt], None))
    assert changed or name in ("spotlight, task", "project, last_prompt")  # not enough for other tokens here


@pytest.mark.parametrize("scope", SCOPES, ids=str)
@pytest.mark.parametrize("family", DECODERS)
def test_every_scope_means_the_same_with_and_without_a_cache(family: str, scope: Any, tiny: Callable) -> None:
    model = tiny(family)
    prompt = prompts_of(model)[0]
    at = {"scope": scope}
    steer = ms.project(direction(model), target=9.0, **at) + ms.heads(direction(model, "z", layer=0), 2.0, **at)
    steer = steer + ms.attention_bias(delta=3.0, **at) + ms.add(direction(model, layer=2), 9.0, scope="generated")
    expected = wanted(model, [prompt], steer)
    with model.hooks(fwd_hooks=steer.hooks(prompt)):
        assert written(model, prompt.tokens[None]).equal(expected)
        assert written(model, prompt.tokens[None], cache=False).equal(expected)
        assert written(model, prompt.tokens[None]).equal(expected)


@pytest.mark.parametrize("family", ["gpt2", "llama-gqa"])
@pytest.mark.parametrize("site", ["hook_pos_embed", "blocks.0.hook_resid_pre", "blocks.0.ln1.hook_normalized"])
def test_edits_before_the_first_attention_are_placed_too(family: str, site: str, tiny: Callable) -> None:
    model = tiny(family)
    if site not in model.hook_dict:
        pytest.skip("rotary embeddings have no hook point of their own")
    made = direction(model, layer=0)
    d = ms.Direction(made.vector, site, "random", mean_projection=1.0, meta=made.meta)
    prompt = prompts_of(model)[2]
    for scope in ("generated", "last_prompt", [1, len(prompt) + 1]):
        steer = ms.add(d, 9.0, scope=scope)
        expected = wanted(model, [prompt], steer)
        with model.hooks(fwd_hooks=steer.hooks(prompt)):
            assert written(model, prompt.tokens[None]).equal(expected)


def with_left_pads(model: Any, batch: ms.Batch) -> torch.Tensor:
    side, model.tokenizer.padding_side = model.tokenizer.padding_side, "left"
    try:
        return written(model, batch.tokens)
    finally:
        model.tokenizer.padding_side = side


@pytest.mark.parametrize("family", ["gpt2", "llama-gqa"])
def test_padded_batches_and_rows(family: str, tiny: Callable) -> None:
    model = tiny(family)
    prompts = prompts_of(model)
    batch = ms.batch(prompts, side="left", pad_id=0)
    steer = ms.add(direction(model), 12.0, scope="generated", rows=[0, 2]) + ms.attention_bias(delta=3.0, rows=[1])
    steer = steer + ms.project(direction(model, layer=2), target=5.0, scope=[0, -1, 12])
    expected = wanted(model, prompts, steer)
    with model.hooks(fwd_hooks=steer.hooks(batch)):
        assert with_left_pads(model, batch).equal(expected)


def test_a_batch_that_attends_to_its_padding_is_refused(tiny: Callable) -> None:
    model = tiny("llama-gqa")
    batch = ms.batch(prompts_of(model), side="left", pad_id=0)
    with (
        model.hooks(fwd_hooks=ms.add(direction(model), 1.0).hooks(batch)),
        pytest.raises(ms.MechsteerError, match=r"Prompt 0 attends to its padding"),
    ):
        written(model, batch.tokens)  # the tokenizer pads on the right, so the library masks nothing on the left


def test_other_numbers_of_rows_and_right_padding_are_refused(tiny: Callable) -> None:
    model = tiny("llama-gqa")
    prompts = prompts_of(model)
    steer = ms.add(direction(model), 1.0, scope="generated")
    with (
        model.hooks(fwd_hooks=steer.hooks(prompts)),
        pytest.raises(ms.MechsteerError, match="made for 3 prompts, but 2 rows are run"),
    ):
        model(torch.ones(2, 4, dtype=torch.long))
    right = ms.batch(prompts, side="right", pad_id=0)
    with (
        model.hooks(fwd_hooks=steer.hooks(right)),
        pytest.raises(ms.MechsteerError, match="padded on the right"),
    ):
        written(model, right.tokens)


def test_a_prompt_of_one_token_is_told_from_the_next_run_by_its_keys(tiny: Callable) -> None:
    model = tiny("llama-gqa")
    prompt = ms.Prompt("cat", torch.tensor([7]), {})
    steer = ms.add(direction(model, layer=0), 9.0, scope="generated")
    expected = wanted(model, [prompt], steer)
    with model.hooks(fwd_hooks=steer.hooks(prompt)):
        for _ in range(2):
            assert written(model, prompt.tokens[None]).equal(expected)
    made = direction(model, layer=0)
    early = ms.Direction(made.vector, "blocks.0.hook_resid_pre", "random", mean_projection=1.0, meta=made.meta)
    with model.hooks(fwd_hooks=ms.add(early, 9.0, scope="generated").hooks(prompt)):
        written(model, prompt.tokens[None])
        with pytest.raises(ms.MechsteerError, match=r"1 positions over 1 keys .* Use new \.hooks\(prompt\)"):
            written(model, prompt.tokens[None])


def test_a_loop_with_a_cache_of_ones_own_and_parts_of_a_prompt(tiny: Callable) -> None:
    from transformer_lens import TransformerLensKeyValueCache

    model = tiny("llama-gqa")
    prompt = prompts_of(model)[1]
    steer = ms.add(direction(model), 9.0, scope=[1, -1]) + ms.attention_bias(delta=2.0)
    whole = model.run_with_hooks(prompt.tokens[None], fwd_hooks=steer.hooks(prompt))
    cache = TransformerLensKeyValueCache.init_cache(model.cfg, model.cfg.device, 1)
    with model.hooks(fwd_hooks=steer.hooks(prompt)):
        parts = [model(prompt.tokens[None, a:b], past_kv_cache=cache) for a, b in ((0, 4), (4, 6), (6, None))]
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, atol=1e-4, rtol=1e-4)


def test_the_encoder_decoders_own_generate_is_right_without_a_cache(tiny: Callable) -> None:
    model = tiny("t5")
    prompt = prompts_of(model)[0]
    options: dict[str, Any] = dict(max_new_tokens=NEW, do_sample=False, stop_at_eos=False, verbose=False)
    for scope in ("all", "generated", "last_prompt", [2]):
        steer = ms.add(direction(model), 12.0, scope=scope) + ms.attention_bias(delta=2.0)
        expected = wanted(model, [prompt], steer)
        with model.hooks(fwd_hooks=steer.hooks(prompt)):
            out = model.generate(prompt.tokens[None], one_zero_attention_mask=torch.ones(1, len(prompt)), **options)
        assert out[:, 1:].equal(expected)
