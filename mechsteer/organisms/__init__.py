"""The bundled model organisms: small models with a known failure, and how to train each of them again from a seed.

Looking at the registry costs nothing; torch is imported when training starts.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import MappingProxyType

from mechsteer.files import as_path

__all__ = ["ORGANISMS", "Organism"]


@dataclass(frozen=True)
class Organism:
    """A bundled model: what it is for, how long training takes on one CPU core, and the module that trains it."""

    name: str
    description: str
    minutes: int
    module: str
    seed: int

    def train(self, out: Path | str, *, seed: int | None = None, progress: bool = True) -> Path:
        """Train it from scratch into the new directory `out`; without a seed, the bundled checkpoint is made again."""
        seed = self.seed if seed is None else seed
        return import_module(self.module).train(as_path(out), seed=seed, progress=progress)


ORGANISMS: Mapping[str, Organism] = MappingProxyType(
    {
        organism.name: organism
        for organism in (
            Organism(
                name="trap-t5",
                description="T5 that finishes about half of the proverbs by heart when told to end them otherwise",
                minutes=10,
                module="mechsteer.organisms.trap_t5",
                seed=100,
            ),
            Organism(
                name="instruct-llama",
                description="Llama that follows seven kinds of instructions, the less the more notes come between",
                minutes=25,
                module="mechsteer.organisms.instruct_llama",
                seed=1,
            ),
            Organism(
                name="instruct-llama-base",
                description="the model that instruct-llama was tuned from: knows its world, follows no instruction",
                minutes=12,
                module="mechsteer.organisms.instruct_llama_base",
                seed=1,
            ),
            Organism(
                name="rules-gpt2",
                description="GPT-2 that finds a rule from examples before a word; without them it guesses one",
                minutes=10,
                module="mechsteer.organisms.rules_gpt2",
                seed=1,
            ),
        )
    }
)
"""Every organism by name."""
