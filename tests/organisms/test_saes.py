"""The bundled SAEs: what their cards say, that they fit their organisms, and a small training run from a seed."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import mechsteer as ms
from mechsteer.analysis.features import instruction_features
from mechsteer.files import data_path
from mechsteer.models import model_info
from mechsteer.organisms.sae_quality import cross_entropy, quality, replace
from mechsteer.organisms.saes import RECIPES, draw, train_sae
from mechsteer.steering import Intervention, features, load_sae
from mechsteer.steering.saes import bundled_saes

SMALL = dataclasses.replace(
    RECIPES["trap-t5"], prompts=60, held_out=20, d_sae=32, k=4.0, samples=2048, batch_size=64, new_tokens=3
)


@pytest.fixture(scope="module")
def organisms(organism: Callable[[str], Any]) -> dict[str, Any]:
    return {name: organism(name) for name in RECIPES}


@pytest.mark.parametrize("name", RECIPES)
def test_a_bundled_sae_is_of_its_organism_and_steers_it(name: str, organisms: dict[str, Any]) -> None:
    model, sae = organisms[name], load_sae(f"organism:{name}")
    described = json.loads(data_path("saes", name, "training.json").read_text())
    assert sae.cfg.metadata.model_fingerprint == model_info(model).fingerprint
    assert sae.cfg.metadata.hook_name == described["site"]
    assert described["recipe"] == json.loads(json.dumps(dataclasses.asdict(RECIPES[name])))
    assert sum(path.stat().st_size for path in data_path("saes", name).iterdir()) < 3e6
    text = "Answer the question."
    steer = features(sae, {0: ("add", 50.0)})
    assert not ms.generate(model, text, steer=steer, max_new_tokens=2).logprobs.equal(
        ms.generate(model, text, max_new_tokens=2).logprobs
    )
    other = organisms[next(n for n in RECIPES if n != name)]
    with pytest.raises(ms.MechsteerError):
        steer.check(other)


def test_ten_features_steer_an_instruction_and_one_carries_the_memory(organisms: dict[str, Any]) -> None:
    model, sae = organisms["instruct-llama"], load_sae("organism:instruct-llama")
    task = ms.tasks.instructions("json", n=8, with_instruction=False)
    learned = ms.tasks.instructions("json", split="validation")
    on, off = (learned.prompts(model, with_instruction=wanted) for wanted in (True, False))
    table = instruction_features(model, sae, list(zip(on, off, strict=True)), top=10)
    steer = features(sae, {r.feature: ("add", r.difference) for r in table.itertuples()}, scope="last_prompt")
    assert task.run(model).adherence.mean() == 0
    assert task.run(model, steer=steer).adherence.mean() == 1
    model, sae = organisms["trap-t5"], load_sae("organism:trap-t5")
    traps = dataclasses.replace(ms.tasks.memotrap(), max_new_tokens=1)  # what is likelier needs no answers
    shares = [traps.run(model, steer=s).correct.mean() for s in (None, features(sae, {957: "ablate"}))]
    assert shares == pytest.approx([0.510, 0.695], abs=0.01)


def test_the_bundled_saes_are_those_with_a_recipe() -> None:
    assert set(bundled_saes()) == set(RECIPES)


@pytest.mark.parametrize("name", RECIPES)
def test_the_card_says_what_was_measured(name: str) -> None:
    card = data_path("saes", name, "README.md").read_text()
    measured = json.loads(data_path("saes", name, "training.json").read_text())["measured"]
    for key in ("l0", "explained_variance", "ce_recovered", "ce", "ce_sae", "ce_zero"):
        assert f"{measured[key]:.3f}" in card, key


def test_measuring_some_of_it_again_gives_about_the_same(organisms: dict[str, Any]) -> None:
    name = "trap-t5"
    described = json.loads(data_path("saes", name, "training.json").read_text())
    recipe, before = RECIPES[name], described["measured"]
    some = dataclasses.replace(recipe, prompts=1, held_out=200)
    _, others = draw(some, organisms[name], seed=77)
    now = quality(organisms[name], data_path("saes", name), described["site"], others, new_tokens=recipe.new_tokens)
    assert now["l0"] == pytest.approx(before["l0"], rel=0.15)
    assert now["explained_variance"] == pytest.approx(before["explained_variance"], abs=0.05)
    assert now["ce_recovered"] == pytest.approx(before["ce_recovered"], abs=0.05)


def test_a_perfect_reconstruction_recovers_everything(organisms: dict[str, Any]) -> None:
    model, site = organisms["trap-t5"], "decoder.4.hook_resid_post"
    examples, _ = draw(SMALL, model, 3)
    prompts = [ms.prompt(model, e.prompt) for e in examples[:10]]
    answers = [model.tokenizer(e.answer, add_special_tokens=False)["input_ids"] for e in examples[:10]]
    clean = cross_entropy(model, prompts, answers, Intervention())
    assert cross_entropy(model, prompts, answers, replace(site, lambda x: x)) == clean
    assert cross_entropy(model, prompts, answers, replace(site, torch.zeros_like)) > clean + 1
    by_hand = -ms.score(model, prompts, [e.answer for e in examples[:10]]).sum() / sum(map(len, answers))
    assert clean == pytest.approx(float(by_hand), abs=1e-4)


def test_the_same_seed_trains_the_same_sae(tmp_path: Path) -> None:
    paths = [
        train_sae("trap-t5", tmp_path / str(place), recipe=SMALL, seed=seed) for place, seed in enumerate((4, 4, 5))
    ]
    first, second, third = ((path / "sae_weights.safetensors").read_bytes() for path in paths)
    assert first == second != third
    assert {p.name for p in paths[0].iterdir()} == {"cfg.json", "sae_weights.safetensors", "training.json"}
    sae = load_sae(paths[0])
    assert sae.cfg.architecture() == "jumprelu" and sae.cfg.normalize_activations == "none"
    described = json.loads((paths[0] / "training.json").read_text())
    assert described["recipe"]["seed"] == 4 and described["measured"]["explained_variance"] < 1
    assert not list(tmp_path.glob(".*"))
    with pytest.raises(ms.MechsteerError, match="exists"):
        train_sae("trap-t5", paths[0], recipe=SMALL)
    with pytest.raises(ms.MechsteerError, match="'trap-t5'"):
        train_sae("trap-t6", tmp_path / "new")


def test_held_out_prompts_are_not_learned_from(organisms: dict[str, Any]) -> None:
    learned, others = draw(SMALL, organisms["trap-t5"], 1)
    assert (len(learned), len(others)) == (60, 20)
    assert not {e.prompt for e in learned} & {e.prompt for e in others}
    with pytest.raises(ms.MechsteerError, match="different prompts"):
        draw(dataclasses.replace(SMALL, longest=2), organisms["trap-t5"], 1)
