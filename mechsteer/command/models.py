"""``mechsteer inspect`` and ``organisms``: models, and how the bundled ones are made."""

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro

from mechsteer.command.options import Device, Model, Positional, shown_as, threads
from mechsteer.errors import MechsteerError


@dataclasses.dataclass(frozen=True)
class Inspect:
    """Load a model, compare it with Hugging Face's, and list its hook points."""

    model: Positional[Model]
    layer: int = 0
    """The layer whose hook points are listed."""
    device: Device = None
    plan: bool = False
    """Instead: how much memory and time generating takes, for as many prompts as the next four say."""
    prompts: int = 100
    """With --plan, how many prompts."""
    length: int = 256
    """With --plan, tokens of each prompt."""
    new_tokens: int = 64
    """With --plan, new tokens after each."""
    batch_size: int = 32
    """With --plan, prompts computed together."""


@dataclasses.dataclass(frozen=True)
class ListOrganisms:
    """List the bundled models."""


@dataclasses.dataclass(frozen=True)
class TrainOrganism:
    """Train a bundled model again from its seed."""

    name: Positional[Annotated[str, shown_as("NAME")]]
    """Its name, e.g. trap-t5."""
    out: Annotated[Path | None, shown_as("FOLDER")] = None
    """A new folder for the checkpoint. Default: results/organisms/NAME."""
    seed: Annotated[int | None, shown_as("INT")] = None
    """Another seed than the bundled model's."""


@dataclasses.dataclass(frozen=True)
class TrainSae:
    """Train the sparse autoencoder of a bundled model again from its seed."""

    name: Positional[Annotated[str, shown_as("NAME")]]
    """The name of the model, e.g. instruct-llama."""
    out: Annotated[Path | None, shown_as("FOLDER")] = None
    """A new folder for the SAE. Default: results/saes/NAME."""
    seed: Annotated[int | None, shown_as("INT")] = None
    """Another seed than the bundled SAE's."""


@dataclasses.dataclass(frozen=True)
class OrganismsCommand:
    """The bundled models: list them, or train one, or its sparse autoencoder, again."""

    command: (
        Annotated[ListOrganisms, tyro.conf.subcommand("list")]
        | Annotated[TrainOrganism, tyro.conf.subcommand("train")]
        | Annotated[TrainSae, tyro.conf.subcommand("train-sae")]
    )


def inspect(c: Inspect) -> None:
    """Print what a model is, or with --plan what it takes."""
    from mechsteer.models import load, model_info, sites, stacks, verify
    from mechsteer.report import show

    threads(c.model)
    if c.plan:
        _plan(c)
        return
    model = load(c.model, device=c.device)
    info, cfg, table = model_info(model), model.cfg, sites(model)
    if not (table["layer"] == c.layer).any():
        raise MechsteerError(f"Layer {c.layer} is out of range: layers 0 to {table['layer'].max()}.")
    layers = ", ".join(f"{count} {name}" for name, count in stacks(model).items())
    print(f"{info.name}: {type(model).__name__}, {info.family}, layers: {layers}, d_model {cfg.d_model}, ", end="")
    print(f"{cfg.n_heads} heads, vocabulary {cfg.d_vocab}, {info.dtype}, fingerprint {info.fingerprint}\n")
    print("Next-token probabilities against Hugging Face's model\n")
    print(show(verify(model), decimals=7))
    print(f"\nHook points of layer {c.layer}\n")
    print(show(table[table["layer"] == c.layer]))


def _plan(c: Inspect) -> None:
    from mechsteer.models import load, plan
    from mechsteer.report import show

    model = load(c.model, device=c.device)
    table = plan(model, prompts=c.prompts, length=c.length, new_tokens=c.new_tokens, batch_size=c.batch_size)
    print(f"{c.prompts} prompts of {c.length} tokens, {c.new_tokens} new ones, batches of {c.batch_size}\n")
    print(show(table))
    print("\nBeside it, Python and its libraries take about 1,000 megabytes.")


def list_organisms(_: ListOrganisms) -> None:
    """Print the bundled models."""
    import pandas as pd

    from mechsteer.models import organism_names
    from mechsteer.organisms import ORGANISMS
    from mechsteer.report import show

    bundled = set(organism_names())
    rows = [
        {
            "name": f"organism:{o.name}",
            "bundled": o.name in bundled,
            "minutes to train": o.minutes,
            "what": o.description,
        }
        for o in ORGANISMS.values()
    ]
    print(show(pd.DataFrame(rows)))


def train_organism(c: TrainOrganism) -> None:
    """Train a bundled model again."""
    from mechsteer.errors import unknown
    from mechsteer.organisms import ORGANISMS

    if c.name not in ORGANISMS:
        raise unknown("organism", c.name, ORGANISMS)
    out = c.out or Path("results/organisms") / c.name
    organism = ORGANISMS[c.name]
    print(f"Training {c.name} (about {organism.minutes} minutes on one core) into {out}")
    print(organism.train(out, seed=c.seed))


def train_sae(c: TrainSae) -> None:
    """Train an SAE again."""
    from mechsteer.errors import one_of
    from mechsteer.organisms.saes import RECIPES, train_sae

    one_of("organism with a sparse autoencoder", c.name, RECIPES)
    out = c.out or Path("results/saes") / c.name
    print(f"Training the sparse autoencoder of {c.name} (about 8 minutes on one core) into {out}")
    print(train_sae(c.name, out, seed=c.seed))
