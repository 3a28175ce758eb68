"""Out of memory: prompts that were computed together are computed in halves, and the log says so."""

import gc
import logging
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from mechsteer.errors import MechsteerError, one_line

LOG = logging.getLogger("mechsteer")


class TooLargeError(MechsteerError):
    """What is about to be made is larger than the memory that is free."""


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory has run out, on a GPU or on the CPU."""
    if isinstance(error, (TooLargeError, MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and ("DefaultCPUAllocator" in str(error) or "out of memory" in str(error))


def fits(run: Callable[[], object], together: int) -> bool:
    """Do some work; False if memory ran out in it, which is then free again.

    Args:
        run: The work, which can be done again.
        together: How many prompts it computes together.

    Raises:
        MechsteerError: if it is one prompt, and memory does not suffice.
    """
    try:
        run()
        return True
    except Exception as error:
        if not out_of_memory(error):
            raise
        reason = one_line(str(error)) or type(error).__name__
        if together == 1:
            raise MechsteerError(f"One prompt alone needs more memory than is free: {reason[:300]}") from error
        LOG.warning("Out of memory with %d prompts together; going on with %d. (%s)", together, together // 2, reason)
    gc.collect()  # the frames of the error held what was made
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return False


class Room:
    """How many prompts there is memory for.

    Attributes:
        size: The most that are computed together.
    """

    def __init__(self, size: int) -> None:
        self.size = size

    def run(self, places: Sequence[int], run: Callable[[list[int]], object]) -> None:
        """Do the work for some prompts, together or in parts.

        Args:
            places: The places of the prompts.
            run: Does it for some of them; it can be done again for prompts for which it failed.

        Raises:
            MechsteerError: if one prompt alone needs more memory than there is.
        """
        waiting = list(places)
        while waiting:
            some = waiting[: self.size]
            if fits(lambda some=some: run(some), len(some)):
                waiting = waiting[len(some) :]
            else:
                self.size = len(some) // 2


LARGE = 10**9
"""Bytes of one thing that are worth a word before they are taken."""


def say_cost(what: str, size: int, device: torch.device) -> None:
    """Say how much memory is about to be taken, where it is much.

    Args:
        what: For what.
        size: How many bytes.
        device: Where.

    Raises:
        TooLargeError: if that is more than what is free.

    Warns:
        UserWarning: with the size and what is free.
    """
    if size <= LARGE:
        return
    free = _free(device)
    cost = f"{what} takes {size / 1e9:.1f} GB of memory" + ("" if free is None else f", and {free / 1e9:.1f} are free")
    if free is not None and size > free:
        raise TooLargeError(f"{cost}: give shorter prompts, or fewer together.")
    warnings.warn(f"{cost}.", stacklevel=2)


def _free(device: torch.device) -> int | None:
    """Bytes that are free on a device; None where nobody says."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        return int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return None
