"""``mechsteer explore``: steer a prompt by hand in a browser. Imports nothing heavy until it runs."""

import dataclasses
from pathlib import Path
from typing import Annotated

from mechsteer.command.options import Device, Model, Positional, shown_as, threads


@dataclasses.dataclass(frozen=True)
class Explore:
    """Open a page to steer a prompt by hand: method, layers and strength, answers side by side. Ctrl-C ends it.

    Needs the extra: pip install "mechsteer[explore]".
    """

    model: Positional[Model] = "organism:instruct-llama"
    prompt: Annotated[str | None, shown_as("TEXT")] = None
    """The prompt to begin with; GUIDE's tags mark its instruction: <!-> Answer in capitals. <-!>"""
    direction: Annotated[Path | None, shown_as("FILE")] = None
    """A direction saved as safetensors, to be among the methods."""
    host: Annotated[str, shown_as("ADDRESS")] = "127.0.0.1"
    """The address to listen at: this machine alone, unless another is given. There is no password."""
    port: int = 0
    """The port; 0 takes a free one."""
    device: Device = None


def run(c: Explore) -> None:
    """Serve the page until it is stopped.

    Raises:
        MechsteerError: as :func:`mechsteer.explore`.
    """
    from mechsteer.explorer.explore import START, explore
    from mechsteer.models import load

    threads(c.model)
    prompt = START if c.prompt is None else c.prompt
    explorer = explore(load(c.model, device=c.device), prompt, direction=c.direction, host=c.host, port=c.port)
    print(f"{explorer.url} (Ctrl-C ends it)", flush=True)
    explorer.wait()
