"""What an SAE's metadata says of its training is followed, and equal to SAELens' own encoding there, or refused."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import mechsteer as ms
from mechsteer.steering.sae_conventions import PROCESSING, as_trained, check_processing
from mechsteer.steering.saes import activations_of
from tests.steering.saes import by_definition, make_sae

pytestmark = pytest.mark.filterwarnings(r"ignore:\s*This SAE has non-empty model_from_pretrained_kwargs:UserWarning")

TOKENS = torch.tensor([[3, 4, 9, 17, 8, 30, 12, 5, 61, 7], [3, 21, 6, 7, 44, 5, 9, 13, 2, 70]])
SITES = [
    *(f"blocks.1.hook_{kind}" for kind in ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out")),
    *(f"blocks.1.attn.hook_{kind}" for kind in ("q", "k", "v", "z")),
    *("blocks.1.mlp.hook_post", "blocks.1.ln1.hook_normalized", "blocks.1.ln2.hook_normalized"),
    *("hook_embed", "hook_pos_embed", "unembed.hook_in", "unembed.hook_out"),
]
CENTERED = {"model_from_pretrained_kwargs": {"center_writing_weights": True}}


def sae_of(model: Any, site: str = SITES[2], **metadata: Any) -> Any:
    return make_sae(model, site=site, metadata=metadata)


@pytest.fixture
def processed(checkpoint: Callable) -> Callable[..., Any]:
    """GPT-2 as TransformerLens processes it when it is asked for these steps alone."""

    def make(*steps: str) -> Any:
        model = ms.load(checkpoint("gpt2"))
        model.load_and_process_state_dict(model.state_dict(), **{name: name in steps for name in PROCESSING})
        return model

    return make


def activations(model: Any) -> dict[str, Tensor]:
    with torch.no_grad():
        return model.run_with_cache(TOKENS, names_filter=lambda name: name in SITES)[1]


@pytest.mark.parametrize("step", PROCESSING)
def test_an_activation_is_the_one_of_the_training_or_refused(step: str, processed: Callable, tiny: Callable) -> None:
    model, theirs, ours = tiny("gpt2"), activations(processed(step)), activations(tiny("gpt2"))
    refused = []
    for site in SITES:
        sae = sae_of(model, site, model_from_pretrained_kwargs={step: True})
        same = torch.allclose(as_trained(sae, ours[site], site), theirs[site], atol=1e-3, rtol=1e-4)
        try:
            check_processing(sae, model, site, transfer=False)
        except ms.MechsteerError as error:
            assert f"{step}=True" in str(error)
            refused.append(site)
        assert same == (site not in refused), site  # nothing wrong is accepted, nothing right refused
    assert bool(refused) == (step != "center_writing_weights")


@pytest.mark.parametrize("normalize", ["none", "layer_norm", "constant_norm_rescale"])
def test_an_edit_does_what_it_does_in_the_model_of_the_training(
    normalize: str, processed: Callable, tiny: Callable
) -> None:
    model, there = tiny("gpt2"), processed("center_writing_weights")
    sae = make_sae(model, metadata=CENTERED, normalize_activations=normalize)
    edits = {3: ("add", 4.0), 7: ("scale", -1.0), 9: ("set", 2.5), 11: "ablate"}
    x = activations(there)["blocks.1.hook_resid_post"]
    ours = as_trained(sae, activations(model)["blocks.1.hook_resid_post"], "blocks.1.hook_resid_post")
    assert torch.allclose(activations_of(sae, ours), sae.encode(x), atol=1e-4)
    found = model.run_with_hooks(TOKENS, fwd_hooks=ms.features(sae, edits).hooks())
    edited = by_definition(sae, edits)
    site = "blocks.1.hook_resid_post"
    wanted, plain = (
        there.run_with_hooks(TOKENS, fwd_hooks=hooks).log_softmax(-1)
        for hooks in ([(site, lambda x, hook: edited(x))], [])
    )
    assert torch.allclose(found.log_softmax(-1), wanted, atol=1e-3) and not torch.allclose(wanted, plain, atol=0.1)


def test_instruction_features_are_read_where_the_sae_was_trained(processed: Callable, tiny: Callable) -> None:
    model, there = tiny("gpt2"), processed("center_writing_weights")
    sae = make_sae(model, metadata=CENTERED)
    pairs = [("the cat sat in capitals", "the cat sat"), ("a dog answer", "a dog"), ("one two red", "red two")]
    table = ms.instruction_features(model, sae, pairs, top=None).sort_values("feature")
    states = []
    for with_, _ in pairs:
        cache = there.run_with_cache(ms.prompt(there, with_).tokens[None])[1]
        states.append(cache["blocks.1.hook_resid_post"][:, -1])
    wanted = sae.encode(torch.cat(states)).mean(0)
    assert torch.allclose(torch.tensor(table["mean_with"].to_numpy(), dtype=torch.float32), wanted, atol=1e-4)


def test_what_is_followed_is_not_advised(tiny: Callable, tmp_path: Path) -> None:
    made = make_sae(tiny("gpt2"), metadata=CENTERED)
    made.save_model(tmp_path / "sae")
    ms.features(made, {3: "ablate"}).save(tmp_path / "edit.safetensors")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        loaded = ms.load_sae(tmp_path / "sae")
        steer = ms.Intervention.load(tmp_path / "edit.safetensors")
    for sae in (loaded, steer.edits[0].features.sae):  # pyright: ignore[reportOptionalMemberAccess]
        assert sae.cfg.metadata.model_from_pretrained_kwargs == CENTERED["model_from_pretrained_kwargs"]


REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "one head": ("gpt2", {"hook_head_index": 2}, "hook_head_index=2"),
    "another checkpoint": ("gpt2", {"model_from_pretrained_kwargs": {"checkpoint_index": 9}}, "checkpoint_index=9"),
    "another revision": ("gpt2", {"model_from_pretrained_kwargs": {"revision": "step9"}}, "revision='step9'"),
    "what centring leaves out": ("llama-gqa", CENTERED, "center_writing_weights=True.*RMS"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_followed_is_named(case: str, tiny: Callable) -> None:
    family, metadata, message = REFUSED[case]
    model = tiny(family)
    with pytest.raises(ms.MechsteerError, match=message):
        ms.features(make_sae(model, metadata=metadata), {3: "ablate"}).check(model)


@pytest.mark.parametrize("value", [{"dtype": "bfloat16"}, {"fold_ln": False}, {"fold_ln": True}, {}])
def test_what_changes_no_activation_is_accepted(value: dict[str, Any], tiny: Callable) -> None:
    for family in ("gpt2", "llama-gqa"):
        sae = make_sae(tiny(family), metadata={"model_from_pretrained_kwargs": value})
        ms.features(sae, {3: "ablate"}).check(tiny(family))


def test_a_folded_model_has_the_stream_of_a_centred_one_alone(checkpoint: Callable) -> None:
    model = ms.load(checkpoint("gpt2"), fold=True)
    ms.features(make_sae(model, metadata=CENTERED), {3: "ablate"}).check(model)
    with pytest.raises(ms.MechsteerError, match="load it without fold=True"):
        ms.features(make_sae(model), {3: "ablate"}).check(model)
    rms = ms.load(checkpoint("llama-gqa"), fold=True)
    ms.features(make_sae(rms), {3: "ablate"}).check(rms)


def test_texts_are_like_those_of_the_training(tiny: Callable) -> None:
    model = tiny("gpt2")
    prompt = ms.prompt(model, "the cat sat on")
    assert prompt.tokens[0] == model.tokenizer.bos_token_id
    without = ms.Prompt("cat sat", prompt.tokens[2:4], {}, prompt.str_tokens[2:4])
    sae = make_sae(model, metadata={"prepend_bos": True, "context_size": 6})
    steer = ms.features(sae, {3: ("add", 1.0)})
    ms.score(model, prompt, [" a"], steer=steer)
    with pytest.raises(ms.MechsteerError, match=r"begin with '<s>'.*prepend_bos"):
        ms.score(model, without, [" a"], steer=steer)
    with pytest.raises(ms.MechsteerError, match=r"begin with '<s>'.*prepend_bos"):
        steer.explain(model, without)
    with pytest.raises(ms.MechsteerError, match=r"at most 6 tokens.*has 8"):
        ms.generate(model, ["the cat", "the cat sat on a mat in"], steer=steer)
    with pytest.raises(ms.MechsteerError, match="prepend_bos"):
        ms.instruction_features(model, sae, [(without, prompt), (prompt, prompt)])
    with pytest.warns(UserWarning, match="at most 6 tokens.*context_size"):
        ms.generate(model, prompt, steer=steer, max_new_tokens=4)
    allowed = ms.features(sae, {3: ("add", 1.0)}, transfer=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ms.generate(model, [without, prompt], steer=allowed, max_new_tokens=4)


def test_an_encoder_decoder_has_no_start_token_to_miss(tiny: Callable) -> None:
    model = tiny("t5")
    sae = make_sae(model, metadata={"prepend_bos": True, "context_size": 4})
    ms.generate(model, "the cat sat on a mat", steer=ms.features(sae, {3: ("add", 1.0)}), max_new_tokens=3)
