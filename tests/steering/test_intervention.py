"""Interventions do what they say, where they say it, in the stated order, and leave nothing behind."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import mechsteer as ms
from mechsteer.directions import random_direction
from mechsteer.models import is_encoder_decoder
from mechsteer.steering import Edit, Intervention, Scope

BOTH = ["llama-gqa", "t5"]
TEXTS = ["the cat sat on mat", "one", "write red blue house ."]


def direction(model: Any, seed: int = 0, layer: int = 1, site: str = "resid_post") -> ms.Direction:
    return random_direction(model, seed=seed, layer=None if "." in site else layer, site=site)


def edit(name: str, function: Callable[[Tensor], Tensor], site: str) -> Intervention:
    return Intervention((Edit(name, site, Scope(), 1.0, lambda edit, x, where: function(x)),))


@torch.no_grad()
def run(model: Any, prompts: list[ms.Prompt], hooks: list[Any], fed: int = 3) -> tuple[Tensor, dict[str, Tensor]]:
    """The library's own forward over a padded batch, with hooks: logits and every activation."""
    if is_encoder_decoder(model):
        batch = ms.batch(prompts, side="right")
        decoder = torch.arange(fed).repeat(len(prompts), 1) + 4
        decoder[:, 0] = model.cfg.decoder_start_token_id
        arguments = (batch.tokens, decoder)
        keywords = {"one_zero_attention_mask": batch.mask.float()}
    else:
        batch = ms.batch(prompts, side="left")
        arguments, keywords = (batch.tokens,), {"attention_mask": batch.mask.int(), "prepend_bos": False}
    seen: dict[str, Tensor] = {}

    def keep(x: Tensor, hook: Any) -> None:
        seen[hook.name] = x.clone()

    every = [(name, keep) for name in model.hook_dict]
    return model.run_with_hooks(*arguments, **keywords, fwd_hooks=hooks + every), seen


@pytest.mark.parametrize("family", BOTH)
def test_add_is_x_plus_c_times_the_unit_vector_at_the_scope(family: str, tiny: Callable) -> None:
    model = tiny(family)
    d = direction(model)
    prompts = [ms.prompt(model, text) for text in TEXTS]
    steer = ms.add(ms.Direction(3.0 * d.vector, d.site, "x", meta=d.meta), -2.5, scope=[0, -1], rows=[0, 2])
    _, before = run(model, prompts, [])
    _, after = run(model, prompts, steer.hooks(prompts))
    moved = after[d.site] - before[d.site]
    expected = torch.zeros_like(moved)
    for row in (0, 2):
        starts = 0 if is_encoder_decoder(model) else moved.shape[1] - len(prompts[row])
        last = 0 if is_encoder_decoder(model) else moved.shape[1] - 1
        expected[row, starts] = expected[row, last] = -2.5 * d.vector / d.vector.norm()
    torch.testing.assert_close(moved, expected, atol=1e-5, rtol=0)


def test_padding_is_never_steered(tiny: Callable) -> None:
    for family in BOTH:
        model = tiny(family)
        prompts = [ms.prompt(model, text) for text in TEXTS]
        two = is_encoder_decoder(model)
        site = ms.site(model, "resid_post", layer=0, stack="encoder" if two else None)
        steer = ms.add(direction(model, site=site), 3.0)
        batch = ms.batch(prompts, side="right" if two else "left")
        _, before = run(model, prompts, [])
        _, after = run(model, prompts, steer.hooks(batch))
        moved = (after[site] - before[site]).norm(dim=-1) > 1e-3
        assert moved.equal(batch.mask) and not batch.mask.all()


@pytest.mark.parametrize("family", BOTH)
@pytest.mark.parametrize("scope", ["all", "generated", "last_prompt"])
def test_strength_zero_is_unsteered(family: str, scope: str, tiny: Callable) -> None:
    model = tiny(family)
    steer = ms.add(direction(model), 0.0, scope=scope)
    plain = ms.generate(model, TEXTS, max_new_tokens=5)
    steered = ms.generate(model, TEXTS, steer=steer, max_new_tokens=5)
    assert steered.tokens.equal(plain.tokens) and (steered.logprobs - plain.logprobs).abs().max() <= 1e-6


@pytest.mark.parametrize("family", BOTH)
def test_a_sum_acts_from_left_to_right_at_one_hook_point(family: str, tiny: Callable) -> None:
    model = tiny(family)
    site = direction(model).site
    double, shift = edit("double", lambda x: 2 * x, site), edit("shift", lambda x: x + 1, site)
    prompts = [ms.prompt(model, TEXTS[0])]
    _, before = run(model, prompts, [])
    _, first = run(model, prompts, (double + shift).hooks())
    _, second = run(model, prompts, (shift + double).hooks())
    torch.testing.assert_close(first[site], 2 * before[site] + 1)
    torch.testing.assert_close(second[site], 2 * (before[site] + 1))


@pytest.mark.parametrize("family", BOTH)
def test_generation_keeps_the_order_of_a_sum(family: str, tiny: Callable) -> None:
    model = tiny(family)
    site = direction(model).site
    double, shift = edit("double", lambda x: 2 * x, site), edit("shift", lambda x: x + 1, site)
    both = edit("both", lambda x: 2 * x + 1, site)
    swapped = edit("swapped", lambda x: 2 * (x + 1), site)

    def logprobs(steer: Intervention) -> Tensor:
        return ms.generate(model, TEXTS, steer=steer, max_new_tokens=4).logprobs

    assert logprobs(double + shift).equal(logprobs(both)) and logprobs(shift + double).equal(logprobs(swapped))
    assert not logprobs(both).equal(logprobs(swapped))


@pytest.mark.parametrize("family", BOTH)
def test_the_order_does_not_matter_across_hook_points(family: str, tiny: Callable) -> None:
    model = tiny(family)
    early, late = ms.add(direction(model, layer=0), 2.0), ms.add(direction(model, seed=1, layer=1), 1.5)
    one, two = (ms.generate(model, TEXTS, steer=s, max_new_tokens=4) for s in (early + late, late + early))
    assert one.tokens.equal(two.tokens) and one.logprobs.equal(two.logprobs)


def test_a_sum_of_nothing_is_nothing(tiny: Callable) -> None:
    steer = ms.add(direction(tiny("llama-gqa")), 2.0)
    assert (Intervention() + steer).edits == steer.edits and repr(Intervention()) == "Intervention()"
    assert repr(steer + steer).count("add(blocks.1.hook_resid_post, strength=2, scope=all)") == 2
    with pytest.raises(TypeError):
        steer + 1


@pytest.mark.parametrize("family", BOTH)
def test_hooks_are_gone_after_generating_and_after_an_error(family: str, tiny: Callable) -> None:
    model = tiny(family)
    site = direction(model).site
    calls: list[int] = []

    def explode(x: Tensor) -> Tensor:
        calls.append(1)
        if len(calls) == 3:
            raise RuntimeError("boom")
        return x

    ms.generate(model, TEXTS, steer=ms.add(direction(model), 1.0), max_new_tokens=2)
    assert not any(point.fwd_hooks for point in model.hook_dict.values())
    with pytest.raises(RuntimeError, match="boom"):
        ms.generate(model, TEXTS, steer=edit("explode", explode, site), max_new_tokens=6)
    assert len(calls) == 3 and not any(point.fwd_hooks for point in model.hook_dict.values())


@pytest.mark.parametrize("family", BOTH)
@pytest.mark.parametrize("scope", ["all", "prompt", "last_prompt", "span:instruction", [1, -2]])
def test_hooks_in_the_librarys_own_forward_equal_the_first_step_of_generate(
    family: str, scope: Any, tiny: Callable
) -> None:
    model = tiny(family)
    encoder = scope in ("span:instruction", [1, -2]) and is_encoder_decoder(model)
    site = ms.site(model, "resid_post", layer=0, stack="encoder" if encoder else None)
    steer = ms.add(direction(model, site=site), 4.0, scope=scope)
    prompts = [ms.prompt(model, text, instruction="answer in capitals") for text in TEXTS]
    out = ms.generate(model, prompts, steer=steer, max_new_tokens=1)
    logits, _ = run(model, prompts, steer.hooks(prompts), fed=1)
    logprobs = logits[:, -1].log_softmax(-1)
    assert out.tokens[:, 0].equal(logprobs.argmax(-1))
    torch.testing.assert_close(out.logprobs[:, 0], logprobs.max(-1).values, atol=1e-4, rtol=0)
    plain, _ = run(model, prompts, [], fed=1)
    assert (plain[:, -1].log_softmax(-1) - logprobs).abs().max() > 0.01


def test_hooks_take_one_prompt_many_or_a_batch(tiny: Callable) -> None:
    model = tiny("llama-gqa")
    prompts = [ms.prompt(model, text) for text in TEXTS]
    steer = ms.add(direction(model), 4.0, scope="last_prompt")
    many, _ = run(model, prompts, steer.hooks(prompts))
    batch, _ = run(model, prompts, steer.hooks(ms.batch(prompts, side="left")))
    one, _ = run(model, prompts[:1], steer.hooks(prompts[0]))
    assert many.equal(batch)
    torch.testing.assert_close(one[0, -1], many[0, -1], atol=1e-4, rtol=1e-4)


def test_a_scope_that_needs_the_prompt_says_so(tiny: Callable) -> None:
    steer = ms.add(direction(tiny("llama-gqa")), 1.0, scope="last_prompt")
    with pytest.raises(
        ms.MechsteerError, match=r"'last_prompt' of add at blocks\.1\.hook_resid_post depends on the prompt"
    ):
        steer.hooks()


def with_site(d: ms.Direction, site: str) -> ms.Direction:
    return ms.Direction(d.vector, site, d.method, meta=d.meta)


def test_an_unknown_site_names_the_nearest_and_the_family(tiny: Callable) -> None:
    model = tiny("llama-gqa")
    steer = ms.add(with_site(direction(model), "blocks.1.hook_resid_psot"), 1.0)
    with pytest.raises(
        ms.MechsteerError,
        match=r"Unknown site for this llama model 'blocks\.1\.hook_resid_psot'.*blocks\.1\.hook_resid_post",
    ):
        ms.generate(model, TEXTS, steer=steer)


def test_a_site_that_is_never_reached_is_refused(tiny: Callable) -> None:
    model = tiny("llama-gqa")
    steer = edit("noop", lambda x: x, "blocks.0.attn.hook_result")
    with pytest.raises(ms.MechsteerError, match="is never reached in this llama model"):
        ms.generate(model, TEXTS, steer=steer)


def test_a_direction_of_another_width_is_refused(tiny: Callable) -> None:
    model = tiny("llama-gqa")
    d = direction(model)
    narrow = ms.Direction(d.vector[:10], d.site, "x", meta=d.meta)
    for use in (ms.generate, lambda *a, steer: ms.score(*a, ["cat"] * 3, steer=steer)):
        with pytest.raises(ms.MechsteerError, match=r"width 10, but the activations at .* have 32"):
            use(model, TEXTS, steer=ms.add(narrow, 1.0))
    with pytest.raises(ms.MechsteerError, match="width 10"):
        run(model, [ms.prompt(model, "cat")], ms.add(narrow, 1.0).hooks())


def test_a_direction_for_scores_is_refused(tiny: Callable) -> None:
    model = tiny("llama-gqa")
    steer = ms.add(with_site(direction(model), "blocks.1.attn.hook_attn_scores"), 1.0)
    with pytest.raises(ms.MechsteerError, match=r"have None|no fixed width"):
        ms.generate(model, TEXTS, steer=steer)


def test_a_direction_of_another_model_is_refused_unless_transfer_is_meant(tiny: Callable) -> None:
    model, other = tiny("llama-gqa"), tiny("qwen3")
    foreign = direction(other)
    with pytest.raises(ms.MechsteerError, match=r"made on .* not on .*transfer=True"):
        ms.generate(model, TEXTS, steer=ms.add(foreign, 1.0))
    own = ms.generate(model, TEXTS, steer=ms.add(direction(model), 1.0))
    crossed = ms.generate(model, TEXTS, steer=ms.add(foreign, 1.0, transfer=True))
    assert crossed.logprobs.equal(own.logprobs)  # the same random vector: its seed decides it


@pytest.mark.parametrize("scale", [float("nan"), float("inf"), -float("inf")])
def test_a_strength_that_is_not_finite_is_refused(scale: float, tiny: Callable) -> None:
    with pytest.raises(ms.MechsteerError, match="scale must be finite"):
        ms.add(direction(tiny("llama-gqa")), scale)


@pytest.mark.parametrize("family", BOTH)
@pytest.mark.parametrize(("scope", "rows"), [([40], None), ("all", [7]), ([-30], None)])
def test_an_edit_that_never_acts_is_an_error(family: str, scope: Any, rows: Any, tiny: Callable) -> None:
    model = tiny(family)
    steer = ms.add(direction(model), 1.0, scope=scope, rows=rows)
    with pytest.raises(ms.MechsteerError, match=r"never fired: its scope .* met no position"):
        ms.generate(model, TEXTS, steer=steer, max_new_tokens=3)
    with pytest.raises(ms.MechsteerError, match="never fired"):
        ms.score(model, TEXTS, ["cat"] * 3, steer=steer)


def test_an_edit_of_generated_tokens_may_find_none(tiny: Callable) -> None:
    model = tiny("llama-gqa")
    steer = ms.add(direction(model), 1.0, scope="generated")
    assert ms.generate(model, TEXTS, steer=steer, max_new_tokens=1).lengths == [1, 1, 1]


def test_an_edit_in_one_batch_of_several_has_acted(tiny: Callable) -> None:
    model = tiny("llama-gqa")
    steer = ms.add(direction(model), 5.0, rows=[1])
    one_by_one = ms.generate(model, TEXTS, steer=steer, batch_size=1, max_new_tokens=3)
    together = ms.generate(model, TEXTS, steer=steer, max_new_tokens=3)
    plain = ms.generate(model, TEXTS, max_new_tokens=3)
    torch.testing.assert_close(one_by_one.logprobs, together.logprobs, atol=1e-4, rtol=0)
    changed = (one_by_one.logprobs - plain.logprobs).abs().amax(1) > 1e-3
    assert changed.tolist() == [False, True, False]


COLUMNS = ["method", "site", "scope", "span", "strength", "in_norms", "tokens", "fired"]
COLUMNS += ["change_norm", "relative_change", "kl"]


@pytest.mark.parametrize("family", BOTH)
def test_explain_reports_what_can_be_computed_by_hand(family: str, tiny: Callable) -> None:
    model = tiny(family)
    d = direction(model)
    prompt = ms.prompt(model, TEXTS[0], instruction="answer in capitals")
    table = ms.add(d, -30.0).explain(model, prompt)
    assert table.columns.tolist() == [*COLUMNS, "top1_before", "top1_after"] and len(table) == 1
    row = table.iloc[0]
    before, clean = run(model, [prompt], [], fed=1)
    after, _ = run(model, [prompt], ms.add(d, -30.0).hooks(prompt), fed=1)
    p, q = after[0, -1].softmax(-1).double(), before[0, -1].softmax(-1).double()
    kl = sum(float(a) * (float(a.log()) - float(b.log())) for a, b in zip(p, q, strict=True) if a > 0)
    assert row["kl"] == pytest.approx(kl, rel=1e-3) and kl > 0.01
    assert row["change_norm"] == pytest.approx(30.0, rel=1e-4)
    norms = clean[d.site][0].norm(dim=-1)
    assert row["relative_change"] == pytest.approx(30.0 / float(norms.mean()), rel=1e-3)
    assert (row["method"], row["site"], row["scope"], row["strength"]) == ("add", d.site, "all", -30.0)
    assert row["top1_before"] == model.tokenizer.decode([int(before[0, -1].argmax())])
    assert row["top1_after"] == model.tokenizer.decode([int(after[0, -1].argmax())])
    assert row["fired"] == 1


def test_the_kl_of_a_small_change_is_not_below_0(tiny: Callable) -> None:
    model = tiny("llama-gqa")
    found = [ms.add(direction(model, seed=s), 0.01).explain(model, TEXTS[0])["kl"].item() for s in range(8)]
    assert min(found) > 0 and max(found) < 1e-6


def test_explain_names_the_tokens_that_are_steered(tiny: Callable) -> None:
    llama, t5 = tiny("llama-gqa"), tiny("t5")
    prompt = ms.prompt(llama, "the cat", instruction="answer in capitals")
    table = ms.add(direction(llama), 1.0, scope="span:instruction").explain(llama, prompt)
    assert table["tokens"].tolist() == ["answer in capitals"]
    assert ms.add(direction(t5), 1.0).explain(t5, "the cat")["tokens"].tolist() == ["decoder start"]
    encoder = direction(t5, site=ms.site(t5, "resid_post", layer=0, stack="encoder"))
    assert ms.add(encoder, 1.0, scope=[1]).explain(t5, "the cat")["tokens"].tolist() == ["cat"]


@pytest.mark.parametrize("family", ["llama-gqa", "t5"])
def test_explain_says_what_acts_on_generated_tokens_only(family: str, tiny: Callable) -> None:
    model = tiny(family)
    steer = ms.add(direction(model), 1.0, scope="generated") + ms.add(direction(model), 1.0)
    table = steer.explain(model, TEXTS[0])
    assert table["tokens"].iloc[0] == "generated tokens only" != table["tokens"].iloc[1]
    assert table["fired"].tolist() == [0, 1, 1]


def test_explain_adds_a_row_for_all_edits_together(tiny: Callable) -> None:
    model = tiny("llama-gqa")
    one, two = ms.add(direction(model), 2.0), ms.add(direction(model, seed=1, layer=0), -4.0)
    table = (one + two).explain(model, TEXTS[0])
    assert table["method"].tolist() == ["add", "add", "together"]
    prompt = ms.prompt(model, TEXTS[0])
    before, _ = run(model, [prompt], [])
    after, _ = run(model, [prompt], (one + two).hooks(prompt))
    p, q = after[0, -1].log_softmax(-1), before[0, -1].log_softmax(-1)
    assert table["kl"].iloc[2] == pytest.approx(float((p.exp() * (p - q)).sum()), rel=1e-3)
    assert table["kl"].iloc[0] == pytest.approx(float(one.explain(model, prompt)["kl"].iloc[0]), rel=1e-6)


def test_explain_refuses_an_edit_that_does_not_act(tiny: Callable) -> None:
    model = tiny("llama-gqa")
    with pytest.raises(ms.MechsteerError, match="never fired"):
        ms.add(direction(model), 1.0, scope=[40]).explain(model, TEXTS[0])


@pytest.mark.parametrize("family", BOTH)
def test_logits_are_steered_at_the_head(family: str, tiny: Callable) -> None:
    """A vector of the vocabulary's size, at the logits themselves."""
    model = tiny(family)
    unit = torch.nn.functional.one_hot(torch.tensor(17), model.cfg.d_vocab).float()
    made = ms.Direction(unit, "unembed.hook_out", "mine", meta=direction(model).meta)
    plain = ms.generate(model, TEXTS, max_new_tokens=2, record=["unembed.hook_out"])
    steered = ms.generate(model, TEXTS, steer=ms.add(made, 1000.0), max_new_tokens=2, record=["unembed.hook_out"])
    assert steered.tokens.tolist() == [[17, 17]] * len(TEXTS)
    for one, other in zip(plain.activations[made.site], steered.activations[made.site], strict=True):
        torch.testing.assert_close(other[0], one[0] + 1000.0 * unit)
