"""Train the bundled sparse autoencoders: SAELens' own trainer on activations from a store, from a seed.

An organism reads prompts from the sampler that it was trained with and answers them; the activations of one hook point,
at every position of the stack that predicts, go to a store, and from there in random order to SAELens' ``SAETrainer``.
The SAE is a BatchTopK one (``k`` features a position on average), which SAELens saves as a JumpReLU SAE: each feature
is read by itself. ``training.json`` beside it has the recipe and what was measured on other prompts.
"""

import json
import random
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import torch

from mechsteer.activations import ActivationStore, capture
from mechsteer.errors import MechsteerError, one_of
from mechsteer.models import load, model_info, site
from mechsteer.organisms import trap_t5
from mechsteer.organisms.instruct_tasks import Sampler as InstructSampler
from mechsteer.organisms.sae_quality import quality
from mechsteer.organisms.training import compute_threads, written_whole
from mechsteer.organisms.trap_t5_tasks import Sampler as TrapSampler
from mechsteer.prompts import prompt

SAMPLERS: Mapping[str, Any] = MappingProxyType({"instruct-llama": InstructSampler, "trap-t5": TrapSampler})


@dataclass(frozen=True)
class Recipe:
    """How one SAE is made.

    Attributes:
        organism: The model it is of.
        layer: After which block of the stack that predicts; the site is ``resid_post``.
        mix: The weights of the sampler's tasks.
        prompts: How many prompts it learns from, and
        held_out: how many others it is measured on.
        longest: The most tokens of a prompt; longer ones are left out.
        new_tokens: The most tokens of an answer; the organism's own answers are learned from too.
        d_sae: Features.
        k: Features that are active at a position, on average.
        samples: Activations in all, each as often as it takes.
        batch_size: Activations in one step.
        learning_rate: Of Adam; it falls to 0 over the last fifth.
        seed: Of prompts, order and weights.
    """

    organism: str
    layer: int
    mix: Mapping[str, float]
    prompts: int
    held_out: int
    longest: int
    new_tokens: int
    d_sae: int = 1024
    k: float = 16.0
    samples: int = 4_000_000
    batch_size: int = 2048
    learning_rate: float = 1e-3
    seed: int = 1


RECIPES: Mapping[str, Recipe] = MappingProxyType(
    {
        "instruct-llama": Recipe(
            "instruct-llama",
            layer=3,
            mix={"question": 0.3, "instructed": 0.7},
            prompts=8000,
            held_out=400,
            longest=96,
            new_tokens=24,
            samples=6_000_000,
        ),
        "trap-t5": Recipe(
            "trap-t5",
            layer=4,
            mix=trap_t5.PHASES[-1].mix,
            prompts=40_000,
            held_out=2000,
            longest=64,
            new_tokens=8,
            samples=3_000_000,
        ),
    }
)
"""The recipes of the bundled SAEs by the name of their organism."""


class Example(NamedTuple):
    """A prompt's text and the answer that the organism was taught."""

    prompt: str
    answer: str


def train_sae(
    name: str, out: Path | str, *, seed: int | None = None, recipe: Recipe | None = None, threads: int = 1
) -> Path:
    """Train the SAE of an organism and write it into the new directory `out`; eight to eleven minutes on one CPU core.

    Args:
        name: The organism.
        out: A new directory for ``cfg.json``, ``sae_weights.safetensors`` and ``training.json``. It appears only when
            everything is written.
        seed: Another seed than the bundled SAE's.
        recipe: Another recipe.
        threads: Of torch; the numbers depend on it in their last digits.

    Raises:
        MechsteerError: for an organism without a recipe, or if `out` exists.
    """
    made = RECIPES[one_of("organism with an SAE", name, RECIPES)] if recipe is None else recipe
    seed = made.seed if seed is None else seed
    with torch.random.fork_rng(devices=[]), compute_threads(threads), written_whole(Path(out)) as folder:
        torch.manual_seed(seed)
        started = time.perf_counter()
        model = load(f"organism:{made.organism}")
        learned, held_out = draw(made, model, seed)
        at = site(model, "resid_post", layer=made.layer)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            capture(
                model,
                [prompt(model, e.prompt) for e in learned],
                sites=at,
                positions="all",
                generate=made.new_tokens,
                batch_size=128,
                store=scratch,
            )
            with ActivationStore.open(scratch) as store:
                rows = len(store[at])
                sae = fit(made, store, at, model, seed)
        for written in sae.save_inference_model(folder):
            written.chmod(0o644)
        measured = quality(model, folder, at, held_out, new_tokens=made.new_tokens)
        described = {
            "recipe": asdict(made) | {"mix": dict(made.mix), "seed": seed},
            "site": at,
            "activations": rows,
            "measured": measured,
            "versions": _versions(),
            "threads": threads,
            "minutes": round((time.perf_counter() - started) / 60, 1),
        }
        (folder / "training.json").write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")
    return Path(out)


def draw(recipe: Recipe, model: Any, seed: int) -> tuple[list[Example], list[Example]]:
    """Different prompts to learn from, and others to measure on.

    Raises:
        MechsteerError: if the sampler has fewer.
    """
    sampler = SAMPLERS[recipe.organism](recipe.mix, seed)
    wanted = recipe.prompts + recipe.held_out
    found: dict[str, Example] = {}
    for example in islice(sampler, 20 * wanted):
        if example.prompt not in found and len(prompt(model, example.prompt)) <= recipe.longest:
            found[example.prompt] = Example(example.prompt, example.answer)
        if len(found) == wanted:
            break
    else:
        raise MechsteerError(f"The sampler of {recipe.organism} gave {len(found)} different prompts, not {wanted}.")
    examples = list(found.values())
    random.Random(seed).shuffle(examples)
    return examples[recipe.held_out :], examples[: recipe.held_out]


def fit(recipe: Recipe, store: ActivationStore, at: str, model: Any, seed: int) -> Any:
    """Train with SAELens; returns its ``BatchTopKTrainingSAE``."""
    from sae_lens import BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig, SAETrainer
    from sae_lens.config import SAETrainerConfig
    from sae_lens.saes.sae import SAEMetadata

    info = model_info(model)
    config = BatchTopKTrainingSAEConfig(
        d_in=store[at].shape[-1],
        d_sae=recipe.d_sae,
        k=recipe.k,
        normalize_activations="expected_average_only_in",
        metadata=SAEMetadata(
            model_name=info.name, model_fingerprint=info.fingerprint, hook_name=at, training="training.json"
        ),
    )
    steps = recipe.samples // recipe.batch_size
    trainer = SAETrainer(
        cfg=SAETrainerConfig(
            total_training_samples=steps * recipe.batch_size,
            train_batch_size_samples=recipe.batch_size,
            lr=recipe.learning_rate,
            lr_end=0.0,
            lr_decay_steps=steps // 5,
            lr_warm_up_steps=min(100, steps // 10),
            dead_feature_window=200,
            n_batches_for_norm_estimate=50,
        ),
        sae=BatchTopKTrainingSAE(config),
        data_provider=store.batches(at, recipe.batch_size, seed=seed),
    )
    return trainer.fit()


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    return {name: version(name) for name in ("torch", "transformer-lens", "sae-lens")}
