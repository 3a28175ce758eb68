"""Cross-attention shift against a plain run of each prompt, its identities, and freezing done by hand."""

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pandas
import pytest
import torch

import mechsteer as ms
from mechsteer.analysis.cross_attention import SUBLAYERS, cross_attention_shift
from mechsteer.analysis.frozen_cross_attention import frozen_cross_attention
from mechsteer.models import unembed
from tests.analysis.naive import TEXTS, plain_jsd

T5 = ["t5", "t5-gated", "t5-uneven"]
PAIRS = [("cat", "dog"), ("red", "blue"), ("one", "two"), ("mat", "house")]


def prompts_of(model: Any) -> list[ms.Prompt]:
    return [ms.prompt(model, text, instruction="answer in capitals") for text in TEXTS]


def plain(model: Any, prompt: ms.Prompt, hooks: Any = ()) -> dict[str, torch.Tensor]:
    """Everything that passes the decoder's hook points in one run of the library."""
    found: dict[str, torch.Tensor] = {}

    def keep(x: torch.Tensor, hook: Any) -> None:
        found[hook.name] = x[0].clone()

    start = torch.tensor([[model.cfg.decoder_start_token_id]])
    with torch.no_grad():
        found["logits"] = model.run_with_hooks(
            prompt.tokens[None], start, fwd_hooks=[*hooks, (lambda name: name.startswith("decoder"), keep)]
        )[0, -1]
    return found


@pytest.mark.parametrize("family", T5)
def test_every_number_equals_a_plain_run(family: str, tiny: Callable) -> None:
    model = tiny(family)
    prompts = prompts_of(model)
    table = cross_attention_shift(model, prompts, PAIRS)
    layers = len(model.decoder)
    assert len(table) == len(prompts) * layers * 3
    for place, prompt in enumerate(prompts):
        seen = plain(model, prompt)
        ids = [model.tokenizer(" " + word, add_special_tokens=False)["input_ids"][0] for word in PAIRS[place]]
        mine = table[table["prompt"] == place].reset_index(drop=True)
        stream, path, rows = seen["decoder.0.hook_resid_pre"][0], 0.0, []
        for layer in range(layers):
            for sublayer, update in zip(SUBLAYERS, ("attn_out", "cross_attn_out", "mlp_out"), strict=True):
                u = seen[f"decoder.{layer}.hook_{update}"][0]
                before, after = (unembed(model, x[None])[0] for x in (stream, stream + u))
                rows.append((layer, sublayer, stream, u, before, after))
                path += float(u.norm())
                stream = stream + u
        assert torch.allclose(unembed(model, stream[None])[0], seen["logits"], atol=1e-2)
        for row, (layer, sublayer, s, u, before, after) in zip(mine.to_dict("records"), rows, strict=True):
            assert (row["layer"], row["sublayer"]) == (layer, sublayer)
            assert row["update_norm"] == pytest.approx(float(u.norm()), rel=1e-3)
            assert row["relative_update"] == pytest.approx(float(u.norm() / s.norm()), rel=1e-3)
            assert row["cosine"] == pytest.approx(float(s @ (s + u) / (s.norm() * (s + u).norm())), abs=1e-4)
            assert row["path_share"] == pytest.approx(float(u.norm()) / path, rel=1e-3)
            p, q = before.softmax(-1).tolist(), after.softmax(-1).tolist()
            assert row["jsd"] == pytest.approx(plain_jsd(p, q), abs=1e-3)
            change = (after[ids[0]] - after[ids[1]]) - (before[ids[0]] - before[ids[1]])
            assert row["logit_difference"] == pytest.approx(float(change), abs=2e-2)
            if sublayer == "cross_attn":
                weights = seen[f"decoder.{layer}.cross_attn.hook_pattern"][:, 0]
                mass = float(weights[:, prompt.positions("instruction")].sum(-1).mean())
                nats = -sum(float(w) * math.log(w) for head in weights for w in head if w > 0) / len(weights)
                assert row["attention_mass"] == pytest.approx(mass, abs=1e-4)
                assert row["attention_entropy"] == pytest.approx(nats, abs=1e-3)
            else:
                assert math.isnan(row["attention_mass"]) and math.isnan(row["attention_entropy"])


@pytest.mark.parametrize("family", T5)
def test_shares_add_up_to_one_and_differences_to_the_models_own(family: str, tiny: Callable) -> None:
    model = tiny(family)
    table = cross_attention_shift(model, prompts_of(model), PAIRS)
    sums = table.groupby("prompt")[["path_share", "logit_difference"]].sum()
    assert sums["path_share"].to_numpy() == pytest.approx(1.0)
    for place, prompt in enumerate(prompts_of(model)):
        seen = plain(model, prompt)
        target, trap = (model.tokenizer(" " + w, add_special_tokens=False)["input_ids"][0] for w in PAIRS[place])
        start = unembed(model, seen["decoder.0.hook_resid_pre"])[0]
        wanted = (seen["logits"][target] - seen["logits"][trap]) - (start[target] - start[trap])
        assert sums.loc[place, "logit_difference"] == pytest.approx(float(wanted), abs=2e-2)


@pytest.mark.parametrize("family", ["t5", "t5-uneven"])
def test_batches_and_padding_change_nothing(family: str, tiny: Callable) -> None:
    model = tiny(family)
    one, many = (cross_attention_shift(model, prompts_of(model), PAIRS, batch_size=size) for size in (1, 4))
    for name in ("relative_update", "cosine", "jsd", "attention_mass", "attention_entropy"):
        assert one[name].to_numpy() == pytest.approx(many[name].to_numpy(), abs=1e-3, nan_ok=True)


def test_a_bias_on_the_span_raises_its_mass_as_it_must(tiny: Callable) -> None:
    model, delta = tiny("t5-gated"), 1.5
    prompt = prompts_of(model)[0]
    steer = ms.attention_bias("instruction", delta, layers=[0], at="cross")
    table = cross_attention_shift(model, prompt, steer=steer)
    psi = plain(model, prompt)["decoder.0.cross_attn.hook_pattern"][:, 0][:, prompt.positions("instruction")].sum(-1)
    wanted = (math.exp(delta) * psi / (math.exp(delta) * psi + 1 - psi)).mean()
    found = table[(table["layer"] == 0) & (table["sublayer"] == "cross_attn")]["attention_mass"]
    assert float(found.iloc[0]) == pytest.approx(float(wanted), abs=1e-4)


def test_without_spans_or_targets_their_columns_are_nan(tiny: Callable) -> None:
    table = cross_attention_shift(tiny("t5"), TEXTS)
    assert table[["logit_difference", "attention_mass"]].isna().all(axis=None)
    assert table[table["sublayer"] == "cross_attn"]["attention_entropy"].notna().all()


@pytest.mark.parametrize("which", ["one", "from", "up_to"])
@pytest.mark.parametrize("family", ["t5-gated", "t5-uneven"])
def test_freezing_equals_hooks_put_on_by_hand(family: str, which: str, tiny: Callable) -> None:
    model = tiny(family)
    prompts = prompts_of(model)
    table = frozen_cross_attention(model, prompts, PAIRS, which=which, n_boot=20, batch_size=2)
    layers = range(len(model.decoder))
    sites = [f"decoder.{layer}.hook_cross_attn_out" for layer in layers]
    runs = [plain(model, prompt) for prompt in prompts]
    means = {name: torch.stack([run[name][0] for run in runs]).mean(0) for name in sites}
    ids = [[model.tokenizer(" " + w, add_special_tokens=False)["input_ids"][0] for w in pair] for pair in PAIRS]
    assert table["frozen"].tolist() == ["none"] + [which] * len(layers)
    for row in table.to_dict("records"):
        frozen = {
            "one": [row["layer"]],
            "from": [n for n in layers if n >= row["layer"]],
            "up_to": [n for n in layers if n <= row["layer"]],
        }[which] if row["layer"] >= 0 else []  # fmt: skip
        hooks = [(sites[n], lambda x, hook: means[hook.name].expand_as(x)) for n in frozen]
        differences, divergences = [], []
        for prompt, (target, trap), whole in zip(prompts, ids, runs, strict=True):
            logits = plain(model, prompt, hooks)["logits"]
            differences.append(float(logits[target] - logits[trap]))
            divergences.append(plain_jsd(logits.softmax(-1).tolist(), whole["logits"].softmax(-1).tolist()))
        assert row["logit_difference"] == pytest.approx(sum(differences) / 4, abs=2e-2)
        assert row["accuracy"] == sum(d > 0 for d in differences) / 4
        assert row["jsd"] == pytest.approx(sum(divergences) / 4, abs=1e-3)
        assert row["accuracy_low"] <= row["accuracy"] <= row["accuracy_high"] and row["n"] == 4


def test_trap_examples_are_targets(tiny: Callable) -> None:
    model = tiny("t5")
    traps = [SimpleNamespace(target=f" {a}.", trap=b) for a, b in PAIRS]
    one, two = (cross_attention_shift(model, prompts_of(model), t)["logit_difference"] for t in (traps, PAIRS))
    assert one.tolist() == two.tolist()


BAD: dict[str, tuple[Callable[[Any, Any], Any], str]] = {
    "targets": (lambda m, p: cross_attention_shift(m, p, PAIRS[:2]), r"4 prompts need as many .* pairs, got 2"),
    "no pair": (lambda m, p: cross_attention_shift(m, p[:1], ["cat"]), "A target is a"),
    "span": (lambda m, p: cross_attention_shift(m, p, span="instructoin"), "Unknown span.*'instruction'"),
    "one prompt": (lambda m, p: frozen_cross_attention(m, p[:1], PAIRS[:1]), "give at least two"),
    "which": (lambda m, p: frozen_cross_attention(m, p, PAIRS, which="form"), "layers to freeze 'form'.*'from'"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_named(name: str, tiny: Callable) -> None:
    run, message = BAD[name]
    with pytest.raises(ms.MechsteerError, match=message):
        run(tiny("t5"), prompts_of(tiny("t5")))


@pytest.mark.parametrize("measure", [cross_attention_shift, frozen_cross_attention])
def test_decoder_only_models_are_refused(measure: Any, tiny: Callable) -> None:
    with pytest.raises(ms.MechsteerError, match=r"needs an encoder-decoder; this gpt2 model has no cross-attention"):
        measure(tiny("gpt2"), TEXTS, PAIRS)


def test_nan_is_named_by_site_and_prompt(checkpoint: Callable) -> None:
    model = ms.load(str(checkpoint("t5")))
    model.decoder[1].cross_attn.W_O.data = torch.full_like(model.decoder[1].cross_attn.W_O, torch.nan)
    with pytest.raises(ms.MechsteerError, match=r"at decoder\.1\.hook_resid_mid_cross for prompt \d"):
        cross_attention_shift(model, TEXTS)


@pytest.mark.parametrize("measure", [cross_attention_shift, frozen_cross_attention])
def test_a_read_out_that_is_not_finite_is_named(measure: Any, checkpoint: Callable) -> None:
    model = ms.load(str(checkpoint("t5")))
    mlp = model.decoder[1].mlp  # the last one: no cross-attention reads what it writes
    mlp.W_out.data = torch.full_like(mlp.W_out, torch.nan)
    site = r"decoder\.1\.hook_resid_post" if measure is cross_attention_shift else r"unembed\.hook_out"
    with pytest.raises(ms.MechsteerError, match=rf"NaN or infinite numbers at {site} for prompt \d"):
        measure(model, TEXTS, PAIRS)
    model = ms.load(str(checkpoint("t5")))
    model.unembed.W_U.data = model.unembed.W_U.data.index_fill(1, torch.tensor([7]), torch.nan)
    with pytest.raises(ms.MechsteerError, match=r"NaN or infinite numbers at unembed\.hook_out for prompt \d"):
        measure(model, TEXTS, PAIRS)


def test_prompts_whose_words_start_alike_are_counted_in_a_warning_and_not_measured(tiny: Callable) -> None:
    model = tiny("t5-uneven")
    alike = [*PAIRS[:3], ("mat", "mat.")]
    with pytest.warns(
        UserWarning, match=r"same token in 1 of 4 pairs.*\('mat', 'mat\.'\); these prompts are not measured"
    ):
        table = frozen_cross_attention(model, prompts_of(model), alike, n_boot=10)
    assert set(table["n"]) == {3}
    logits = [plain(model, prompt)["logits"] for prompt in prompts_of(model)]
    ids = [[model.tokenizer(" " + w, add_special_tokens=False)["input_ids"][0] for w in pair] for pair in PAIRS]
    whole = [float(x[a] - x[b]) for x, (a, b) in zip(logits[:3], ids, strict=False)]
    assert table["logit_difference"][0] == pytest.approx(sum(whole) / 3, abs=1e-3)
    assert table["accuracy"][0] == pytest.approx(sum(d > 0 for d in whole) / 3)


def test_words_that_start_alike_have_no_logit_difference(tiny: Callable) -> None:
    model = tiny("t5")
    with pytest.warns(UserWarning, match="1 of 4 pairs.*their logit_difference is 0"):
        table = cross_attention_shift(model, prompts_of(model), [("mat", "mat."), *PAIRS[1:]])
    assert (table[table["prompt"] == 0]["logit_difference"] == 0).all()
    assert (table[table["prompt"] == 1]["logit_difference"] != 0).any()


@pytest.mark.parametrize("measure", [cross_attention_shift, frozen_cross_attention])
def test_without_any_decision_there_is_an_error(measure: Any, tiny: Callable) -> None:
    with pytest.raises(ms.MechsteerError, match="same token in every pair"):
        measure(tiny("t5"), TEXTS, [("mat", "mat.")] * 4)


AFTER = ["red", "blue the cat", "one two", "mat in house sat"]


@pytest.mark.parametrize("family", ["t5", "t5-uneven"])
def test_positions_of_a_continuation_equal_those_of_a_plain_run(family: str, tiny: Callable) -> None:
    model = tiny(family)
    prompts = prompts_of(model)
    table = cross_attention_shift(model, prompts, PAIRS, continuation=AFTER, batch_size=3)
    assert table.groupby("prompt")["position"].nunique().tolist() == [2, 4, 3, 5]
    assert table[["prompt", "position", "layer"]].equals(table[["prompt", "position", "layer"]].sort_values(
        ["prompt", "position", "layer"], kind="stable"))  # fmt: skip
    for place, prompt in enumerate(prompts):
        ids = model.tokenizer(AFTER[place], add_special_tokens=False)["input_ids"]
        decoder = torch.tensor([[model.cfg.decoder_start_token_id, *ids]])
        with torch.no_grad():
            _, cache = model.run_with_cache(prompt.tokens[None], decoder)
        mine = table[(table["prompt"] == place) & (table["sublayer"] == "cross_attn")]
        for row in mine.to_dict("records"):
            name, at = f"decoder.{row['layer']}", row["position"]
            stream, update = (cache[f"{name}.hook_{x}"][0, at] for x in ("resid_mid", "cross_attn_out"))
            weights = cache[f"{name}.cross_attn.hook_pattern"][0, :, at]
            assert row["stream_norm"] == pytest.approx(float(stream.norm()), rel=1e-3)
            assert row["update_norm"] == pytest.approx(float(update.norm()), rel=1e-3)
            mass = weights[:, prompt.positions("instruction")].sum(-1).mean()
            assert row["attention_mass"] == pytest.approx(float(mass), abs=1e-4)


def test_the_first_position_does_not_know_the_continuation(tiny: Callable) -> None:
    model = tiny("t5-gated")
    with_it = cross_attention_shift(model, prompts_of(model), PAIRS, continuation="red blue")
    without = cross_attention_shift(model, prompts_of(model), PAIRS)
    first = with_it[with_it["position"] == 0].reset_index(drop=True)
    assert set(without["position"]) == {0} and set(with_it["position"]) == {0, 1, 2}
    pandas.testing.assert_frame_equal(first, without, atol=1e-4, rtol=1e-3)
