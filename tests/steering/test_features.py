"""Editing the features of SAEs: by definition, with vectors, cached, on both model types, and what is refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub.errors import EntryNotFoundError
from safetensors.torch import load_file, save_file
from torch import Tensor

import mechsteer as ms
from mechsteer.steering import Intervention, features, load_sae
from mechsteer.steering.saes import bundled_saes
from tests.decoding.reference import rows
from tests.steering.naive import prompts_of
from tests.steering.saes import D_SAE, by_definition, make_sae, own_site
from tests.steering.steers import BOTH, direction

EDITS = {0: ("add", 3.0), 5: ("scale", 4.0), 9: ("set", 2.0), 12: "ablate", 47: ("add", -1.0)}
KINDS = ["topk", "abstopk", "standard", "jumprelu", "gated", "matching_pursuit"]


def at_site(model: Any, steer: Intervention, site: str, text: str = "the cat sat on mat") -> Tensor:
    """The activation of one prompt after an intervention, at all positions of the stack that predicts."""
    return ms.capture(model, ms.prompt(model, text), sites=site, positions="all", generate=3, steer=steer)[site]


def logprobs(model: Any, steer: Intervention) -> Tensor:
    return ms.generate(model, prompts_of(model), steer=steer, max_new_tokens=4).logprobs


@pytest.fixture
def x() -> Tensor:
    return torch.randn(2, 5, 32, generator=torch.Generator().manual_seed(1)) * 2 + 0.3


def applied(steer: Intervention, x: Tensor, site: str = "blocks.1.hook_resid_post") -> Tensor:
    """The hook function itself."""
    from types import SimpleNamespace

    out = x
    for _, bound in steer.hooks():
        edited = bound(out, SimpleNamespace(name=site))
        assert edited is not None
        out = edited
    return out


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("normalise", ["none", "layer_norm", "constant_norm_rescale"])
def test_it_is_decode_after_minus_decode_before_for_every_architecture(
    kind: str, normalise: str, x: Tensor, tiny: Callable
) -> None:
    sae = make_sae(tiny("llama-gqa"), kind, normalize_activations=normalise)
    assert (sae.encode(x) != 0).any(-1).all()
    with torch.no_grad():
        out = applied(features(sae, EDITS), x)
        torch.testing.assert_close(out, by_definition(sae, EDITS)(x), atol=2e-5, rtol=1e-5)
    assert (out - x).norm() > 1
    assert not [name for name in vars(sae) if name in ("ln_mu", "ln_std", "x_norm_coeff")]


@pytest.mark.parametrize("options", [{"rescale_acts_by_decoder_norm": True}, {"apply_b_dec_to_input": False}])
def test_a_topk_sae_with_other_options_too(options: dict[str, bool], x: Tensor, tiny: Callable) -> None:
    sae = make_sae(tiny("llama-gqa"), **options)
    torch.testing.assert_close(applied(features(sae, EDITS), x), by_definition(sae, EDITS)(x), atol=1e-5, rtol=1e-5)
    alone = {3: ("add", 2.0)}  # the encoder is not even asked
    torch.testing.assert_close(applied(features(sae, alone), x), by_definition(sae, alone)(x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["standard", "topk", "train-topk"])
@pytest.mark.parametrize("cast", ["half", "bfloat16", "double"])
def test_an_sae_may_be_cast_by_torchs_own_methods(kind: str, cast: str, x: Tensor, tiny: Callable) -> None:
    own, cast_one = make_sae(tiny("llama-gqa"), kind), getattr(make_sae(tiny("llama-gqa"), kind), cast)()
    for edits in ({3: ("add", 2.0)}, {3: ("set", 2.0)}):
        expected = applied(features(own, edits), x)
        torch.testing.assert_close(applied(features(cast_one, edits), x), expected, atol=0.05, rtol=0.05)
    again = cast_one.float()  # back from where it was told
    torch.testing.assert_close(applied(features(again, {3: ("set", 2.0)}), x), expected, atol=0.05, rtol=0.05)


def test_one_just_trained_is_the_one_that_is_saved(x: Tensor, tiny: Callable, tmp_path: Path) -> None:
    for kind in ("train-topk", "train-batchtopk"):
        sae = make_sae(tiny("llama-gqa"), kind)
        sae.save_inference_model(tmp_path / kind)
        saved = load_sae(tmp_path / kind)
        out = applied(features(sae, EDITS), x)
        assert out.equal(applied(features(saved, EDITS), x))
        torch.testing.assert_close(out, by_definition(saved, EDITS)(x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("reshape", ["hook_z", "none"])
def test_an_sae_of_head_outputs(reshape: str, tiny: Callable) -> None:
    model = tiny("llama-gqa")
    site = own_site(model, "z")
    sae = make_sae(model, "standard", site=site, reshape_activations=reshape)
    before, after = (at_site(model, s, site) for s in (Intervention(), features(sae, EDITS)))
    assert before.ndim == 3
    flat = make_sae(model, "standard", site=site)
    torch.testing.assert_close(
        after[:5].flatten(1), by_definition(flat, EDITS)(before[:5].flatten(1)), atol=1e-5, rtol=0
    )


@pytest.mark.parametrize("family", BOTH)
def test_features_and_a_vector_are_the_residual_plus_both_under_cached_generation(family: str, tiny: Callable) -> None:
    model = tiny(family)
    site, sae, d = own_site(model), make_sae(model), direction(model)
    prompts = prompts_of(model)
    steer = features(sae, EDITS) + ms.add(d, 5.0)
    whole = ms.generate(model, prompts, steer=steer, max_new_tokens=4)
    x: dict[str, Tensor] = {}

    def before(value: Tensor, hook: Any) -> None:
        x["before"] = value.clone()

    def after(value: Tensor, hook: Any) -> None:
        x["after"] = value.clone()

    for row, made in enumerate(prompts):  # again, without a cache, in the library's own forward
        out = torch.tensor(rows(whole)[row])
        ids = out[:-1].tolist()
        if family == "t5":
            inputs = (made.tokens[None], torch.tensor([[0, *ids]]))
            mask = torch.ones(1, len(made))
            run = lambda hooks, i=inputs, m=mask: model.run_with_hooks(  # noqa: E731
                i[0], i[1], one_zero_attention_mask=m, fwd_hooks=hooks
            )
        else:
            tokens = torch.cat([made.tokens, torch.tensor(ids, dtype=torch.long)])[None]
            run = lambda hooks, t=tokens: model.run_with_hooks(t, fwd_hooks=hooks)  # noqa: E731
        with torch.no_grad():
            logits = run([(site, before), *((site, fn) for _, fn in steer.hooks()), (site, after)])
            f = sae.encode(x["before"])
            change = by_definition(sae, EDITS)
            delta = torch.zeros_like(f)
            delta[..., 0] = 3.0
            delta[..., 5] = 3 * f[..., 5]
            delta[..., 9] = 2 - f[..., 9]
            delta[..., 12] = -f[..., 12]
            delta[..., 47] = -1.0
            by_hand = x["before"] + delta @ sae.W_dec + 5 * d.unit
            assert torch.allclose(x["after"], by_hand, atol=1e-5, rtol=0)
            assert torch.allclose(x["after"], change(x["before"]) + 5 * d.unit, atol=2e-5, rtol=0)
        cached = whole.logprobs[row][: len(out)]
        steps = logits[0, -len(out) :].log_softmax(-1).gather(1, out[:, None])[:, 0]
        assert torch.allclose(cached, steps, atol=1e-4)


@pytest.mark.parametrize("family", BOTH)
@pytest.mark.parametrize("edits", [{}, {4: ("scale", 1.0)}, {4: ("add", 0.0), 5: ("scale", 1)}])
def test_an_edit_of_nothing_is_bit_equal_to_no_sae(family: str, edits: dict[int, Any], tiny: Callable) -> None:
    model = tiny(family)
    assert logprobs(model, features(make_sae(model), edits)).equal(logprobs(model, Intervention()))


@pytest.mark.parametrize("family", BOTH)
def test_order_is_left_to_right(family: str, tiny: Callable) -> None:
    model = tiny(family)
    site, sae, d = own_site(model), make_sae(model), direction(model)
    edit, vector = features(sae, EDITS), ms.add(d, 5.0)
    clean = at_site(model, Intervention(), site)[:1]
    change = by_definition(sae, EDITS)
    first, second = (at_site(model, s, site)[:1] for s in (edit + vector, vector + edit))
    torch.testing.assert_close(first, change(clean) + 5 * d.unit, atol=2e-5, rtol=0)
    torch.testing.assert_close(second, change(clean + 5 * d.unit), atol=2e-5, rtol=0)
    assert not torch.allclose(first, second, atol=1e-2)


@pytest.mark.parametrize("family", BOTH)
def test_it_acts_at_its_scope_and_rows_alone(family: str, tiny: Callable) -> None:
    model = tiny(family)
    site, sae = own_site(model), make_sae(model)
    prompts = prompts_of(model)
    steer = features(sae, EDITS, scope="last_prompt", rows=[1])
    plain, steered = (ms.capture(model, prompts, sites=site, positions="all", steer=s) for s in (None, steer))
    for row, (a, b) in enumerate(zip(plain.by_prompt(site), steered.by_prompt(site), strict=True)):
        assert a[:-1].equal(b[:-1])
        assert a.equal(b) == (row != 1)
        if row == 1:
            torch.testing.assert_close(b[-1], by_definition(sae, EDITS)(a[-1]), atol=2e-5, rtol=0)


def test_encoder_sites_too(tiny: Callable) -> None:
    model = tiny("t5")
    site = own_site(model, stack="encoder")
    sae = make_sae(model, site=site)
    assert not logprobs(model, features(sae, EDITS)).equal(logprobs(model, Intervention()))


@pytest.mark.parametrize("family", BOTH)
def test_gradients_reach_the_values_also_after_they_are_changed_in_place(
    family: str, tiny: Callable, tmp_path: Path
) -> None:
    model = tiny(family)
    site, sae = own_site(model), make_sae(model, "standard")
    value = torch.tensor(0.5, requires_grad=True)
    steer = features(sae, {3: ("add", value), 4: ("set", 1.0)})
    tokens = torch.tensor([[5, 6, 7]])
    inputs = (tokens, torch.tensor([[0]])) if family == "t5" else (tokens,)

    def loss() -> Tensor:
        return model.run_with_hooks(*inputs, fwd_hooks=steer.hooks())[0, -1].log_softmax(-1)[9]

    loss().backward()
    assert value.grad is not None and value.grad != 0
    gradient, step = float(value.grad), 1e-2
    with torch.no_grad():
        value += step
        up = float(loss())
        value -= 2 * step
        down = float(loss())
    assert gradient == pytest.approx((up - down) / (2 * step), rel=0.05, abs=1e-4)
    assert steer.edits[0].site == site
    again = Intervention.load(steer.save(tmp_path / "learned.safetensors"))  # without torch's warning on gradients
    assert again.edits[0].features is not None
    assert again.edits[0].features.values == pytest.approx((value.item(), 1.0))


def test_two_edits_of_one_sae_share_it_in_a_file(tiny: Callable, tmp_path: Path) -> None:
    model = tiny("llama-gqa")
    sae = make_sae(model, "train-batchtopk")
    made = features(sae, {}).edits[0].features
    assert made is not None
    steer = features(made.sae, {1: ("add", 2.0)}, scope="prompt") + features(made.sae, {2: ("set", torch.tensor(3.0))})
    path = steer.save(tmp_path / "both.safetensors")
    assert len([name for name in load_file(path) if name.endswith("W_dec")]) == 1
    again = Intervention.load(path)
    assert logprobs(model, again).equal(logprobs(model, steer))
    one, two = (edit.features for edit in again.edits)
    assert one is not None and two is not None and one.sae is two.sae
    assert ms.steering.describe_edits(again) == ms.steering.describe_edits(steer)


def test_explain_shows_it(tiny: Callable) -> None:
    model = tiny("llama-gqa")
    table = features(make_sae(model), {3: ("add", 2.0)}).explain(model, "the cat")
    row = table.iloc[0]
    change = 2 * make_sae(model).W_dec[3].norm().item()
    assert row["method"] == "features" and row["change_norm"] == pytest.approx(change, rel=1e-4)


BAD = {
    "no SAE": (lambda m: features("sae", {}), "An SAE is one of SAELens"),
    "no mapping": (lambda m: features(make_sae(m), [3]), "edits map features"),
    "index": (lambda m: features(make_sae(m), {D_SAE: ("add", 1.0)}), f"features 0 to {D_SAE - 1}"),
    "negative index": (lambda m: features(make_sae(m), {-1: ("add", 1.0)}), "no feature -1"),
    "index of another type": (lambda m: features(make_sae(m), {"3": ("add", 1.0)}), "no feature '3'"),
    "operation": (lambda m: features(make_sae(m), {3: ("ad", 1.0)}), "'ad'. Did you mean 'add'"),
    "NaN": (lambda m: features(make_sae(m), {3: ("add", float("nan"))}), "feature 3 must be finite, got nan"),
    "NaN tensor": (lambda m: features(make_sae(m), {3: ("set", torch.tensor(torch.nan))}), "one finite number"),
    "two values": (lambda m: features(make_sae(m), {3: ("set", torch.ones(2))}), "one finite number"),
    "text": (lambda m: features(make_sae(m), {3: ("set", "much")}), "must be a number, got 'much'"),
    "no value": (lambda m: features(make_sae(m), {3: "add"}), "needs a value"),
    "a number alone": (lambda m: features(make_sae(m), {3: 2.0}), "must be like"),
    "ablate to": (lambda m: features(make_sae(m), {3: ("ablate", 2.0)}), "takes no value"),
    "scope": (lambda m: features(make_sae(m), {}, scope="promt"), "'prompt'"),
    "strength": (lambda m: features(make_sae(m), {}, strength=float("inf")), "strength must be finite"),
    "no site": (lambda m: features(make_sae(m, metadata={"hook_name": None}), {}), "give site="),
    "temporal": (lambda m: features(make_sae(m, "temporal"), {}), "'temporal' SAE cannot be edited"),
    "transcoder": (lambda m: features(make_sae(m, "transcoder"), {}), "'transcoder' SAE cannot be edited"),
    "not folded": (
        lambda m: features(make_sae(m, normalize_activations="expected_average_only_in"), {}),
        "fold_activation_norm_scaling_factor",
    ),
}


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("case", BAD)
def test_bad_arguments_are_refused_when_given(case: str, tiny: Callable) -> None:
    make, message = BAD[case]
    with pytest.raises(ms.MechsteerError) as error:
        make(tiny("llama-gqa"))
    assert message in str(error.value)


MISFITS: dict[str, tuple[Callable[[Any], Intervention], str]] = {
    "width": (lambda m: features(make_sae(m, d_in=16), EDITS), "width 16, but the activations"),
    "empty, width": (lambda m: features(make_sae(m, d_in=16), {}), "width 16, but the activations"),
    "width, transfer": (lambda m: features(make_sae(m, d_in=16), EDITS, transfer=True), "width 16"),
    "layer": (lambda m: features(make_sae(m, site="blocks.9.hook_resid_post"), EDITS), "blocks.9.hook_resid_post"),
    "site": (lambda m: features(make_sae(m), EDITS, site=own_site(m, "resid_mid")), "was trained at"),
    "scores": (lambda m: features(make_sae(m, site=own_site(m, "pattern")), EDITS), "no vector a position"),
    "heads": (
        lambda m: features(
            make_sae(m, site=own_site(m, "z"), reshape_activations="hook_z"), EDITS, site=own_site(m), transfer=True
        ),
        "has no heads",
    ),
    "fingerprint": (
        lambda m: features(make_sae(m, metadata={"model_name": "x", "model_fingerprint": "0" * 16}), EDITS),
        "trained on 'x' (fingerprint 0000000000000000)",
    ),
    "public model": (lambda m: features(make_sae(m, metadata={"model_name": "gpt2-small"}), EDITS), "'gpt2-small'"),
    "hub model": (lambda m: features(make_sae(m, metadata={"model_name": "some/where"}), EDITS), "'some/where'"),
}


@pytest.mark.parametrize("family", BOTH)
@pytest.mark.parametrize("case", MISFITS)
def test_what_does_not_fit_the_model_is_refused_before_it_runs(family: str, case: str, tiny: Callable) -> None:
    model = tiny(family)
    make, message = MISFITS[case]
    with pytest.raises(ms.MechsteerError) as error:
        ms.generate(model, prompts_of(model), steer=make(model), max_new_tokens=2)
    assert message in str(error.value)


@pytest.mark.parametrize("family", BOTH)
def test_another_site_or_model_is_allowed_when_said(family: str, tiny: Callable) -> None:
    model = tiny(family)
    sae = make_sae(model, metadata={"model_name": "gpt2-small", "model_fingerprint": "0" * 16})
    steer = features(sae, EDITS, site=own_site(model, "resid_mid"), transfer=True)
    assert not logprobs(model, steer).equal(logprobs(model, Intervention()))


def test_the_models_own_fingerprint_and_names_nobody_knows_are_fine(tiny: Callable) -> None:
    model = tiny("llama-gqa")
    fingerprint = ms.model_info(model).fingerprint
    for metadata in ({"model_name": "gpt2", "model_fingerprint": fingerprint}, {"model_name": "mine"}):
        features(make_sae(model, metadata=metadata), EDITS).check(model)


def test_saved_saes_come_back_and_nothing_else_is_read(tiny: Callable, tmp_path: Path) -> None:
    model = tiny("llama-gqa")
    sae = make_sae(model, "jumprelu")
    sae.save_model(tmp_path / "sae")
    again = load_sae(tmp_path / "sae")
    assert again.W_enc.equal(sae.W_enc) and again.cfg.metadata.hook_name == own_site(model)
    assert load_sae(str(tmp_path / "sae"), dtype="bfloat16").W_dec.dtype == torch.bfloat16
    half = load_sae(tmp_path / "sae", device=torch.device("cpu"), dtype=torch.float16)  # as a model's parameters say it
    assert half.W_dec.dtype == half.dtype == torch.float16 and half.cfg.dtype == "float16"

    def refused(*args: Any) -> str:
        with pytest.raises(ms.MechsteerError) as error:
            load_sae(*args)
        return str(error.value)

    assert "'sae'" in refused(tmp_path / "sea")
    assert "cfg.json' is a file; give the folder" in refused(tmp_path / "sae" / "cfg.json")
    assert "sae_id='x'" in refused(tmp_path / "sae", "x")
    (tmp_path / "pickled").mkdir()
    (tmp_path / "pickled" / "sae.pt").write_bytes(b"x")
    assert "never loaded" in refused(tmp_path / "pickled") and "sae.pt" in refused(tmp_path / "pickled")
    config = json.loads((tmp_path / "sae" / "cfg.json").read_text())
    for key in ("activation_fn_str", "activation_fn"):
        (tmp_path / "sae" / "cfg.json").write_text(json.dumps(config | {key: "tanh-relu"}))
        assert "the activation function 'tanh-relu', in whose place SAELens has ReLU" in refused(tmp_path / "sae")
    (tmp_path / "sae" / "cfg.json").write_text(json.dumps(config | {"activation_fn_str": "relu"}))
    assert load_sae(tmp_path / "sae").W_enc.equal(sae.W_enc)
    weights = load_file(tmp_path / "sae" / "sae_weights.safetensors")
    del weights["threshold"]
    save_file(weights, tmp_path / "sae" / "sae_weights.safetensors")
    assert "cannot load" in refused(tmp_path / "sae")
    (tmp_path / "sae" / "sae_weights.safetensors").write_bytes(b"\x00" * 20)
    assert "cannot load" in refused(tmp_path / "sae")
    (tmp_path / "sae" / "cfg.json").write_text(json.dumps([1]))
    assert "no d_in" in refused(tmp_path / "sae")


def test_releases_are_named_before_anything_is_fetched() -> None:
    def refused(*args: Any) -> str:
        with pytest.raises(ms.MechsteerError) as error:
            load_sae(*args)
        return str(error.value)

    assert "'gpt2-small-res-jb'" in refused("gpt2-small-res-j")
    assert "sae_id=" in refused("gpt2-small-res-jb")
    assert "'blocks.8.hook_resid_pre'" in refused("gpt2-small-res-jb", "blocks.8.hook_resid_pr")
    assert "pickled" in refused("deepseek-r1-distill-llama-8b-qresearch", "blocks.19.hook_resid_post")
    assert "Cannot get the SAE" in refused("gpt2-small-res-jb", "blocks.8.hook_resid_pre")  # the tests are offline
    assert "'instruct-llama'" in refused("organism:instruct-lama")


def test_a_release_on_the_hub_steers_like_the_one_on_disk(
    tiny: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny("llama-gqa")
    make_sae(model, "jumprelu").save_model(tmp_path / "layer_1")
    asked = []

    def download(repo_id: str, filename: str, **_: Any) -> str:
        asked.append((repo_id, filename))
        if not (tmp_path / filename).exists():
            raise EntryNotFoundError(filename)
        return str(tmp_path / filename)

    monkeypatch.setattr("sae_lens.loading.pretrained_sae_loaders.hf_hub_download", download)
    there, here = load_sae("someone/saes", "layer_1"), load_sae(tmp_path / "layer_1")
    assert ("someone/saes", "layer_1/sae_weights.safetensors") in asked
    assert logprobs(model, features(there, EDITS)).equal(logprobs(model, features(here, EDITS)))


def test_bundled_names() -> None:
    assert bundled_saes() == ["instruct-llama", "trap-t5"]
