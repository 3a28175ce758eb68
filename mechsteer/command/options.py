"""What the options of several commands share. Imports nothing heavy."""

import os
from typing import Annotated, Any

import tyro

Positional = tyro.conf.Positional


def shown_as(metavar: str) -> Any:
    """What stands for the value in the help text."""
    return tyro.conf.arg(metavar=metavar)


def explained(metavar: str, text: str) -> Any:
    """The same with what it means, where several commands take it."""
    return tyro.conf.arg(metavar=metavar, help=text)


Model = Annotated[str, explained("MODEL", "organism:NAME, a local directory, or an id on the Hugging Face hub.")]
Device = Annotated[str | None, explained("DEVICE", "cpu, cuda, cuda:1, mps. Default: cuda where there is one.")]
Check = Annotated[
    str | None,
    explained(
        "CHECK",
        "For a file of one's own: lowercase, json, max_words:30, sentences:1, language:fr, contains:TEXT ... Default: "
        "as its lines say.",
    ),
]
NewTokens = Annotated[
    int | None,
    explained("INT", "For a file of one's own, the most new tokens. Default: 128; of IFEval's file: 1280."),
]


def threads(model: str) -> None:
    """One thread for the bundled models: they are so small that sharing the work costs more than it saves."""
    if model.startswith("organism:") and "OMP_NUM_THREADS" not in os.environ:
        import torch

        torch.set_num_threads(1)
