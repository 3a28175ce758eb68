"""Last-token states of prompts at many sites in one pass, for what compares prompts."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mechsteer.errors import MechsteerError
from mechsteer.models import as_prompts, parse, position_stack, predicting_stack, residual, stacks
from mechsteer.models import site as site_name
from mechsteer.prompts import Prompt
from mechsteer.steering import Intervention, Step, as_intervention, begin, run_batches

Pair = tuple[str | Prompt, str | Prompt]


def pair_prompts(model: Any, pairs: Sequence[Pair], *, at_least: int) -> tuple[list[Prompt], list[Prompt]]:
    """The prompts with and those without the instruction.

    Raises:
        MechsteerError: for fewer pairs than are needed, or what is no pair.
    """
    wrong = [pair for pair in pairs if isinstance(pair, str) or len(pair) != 2]
    if wrong:
        raise MechsteerError(f"A pair is (with instruction, without instruction), got {wrong[0]!r}.")
    if len(pairs) < at_least:
        raise MechsteerError(f"At least {at_least} pairs of prompts are needed, got {len(pairs)}.")
    return as_prompts(model, [pair[0] for pair in pairs]), as_prompts(model, [pair[1] for pair in pairs])


def pair_sites(model: Any, kind: str, layers: Sequence[int] | None, stack: str | None) -> dict[int, str]:
    """The site of a kind in each of the layers (default: all of the stack)."""
    count = predicting_stack(model)[1] if stack is None else stacks(model).get(stack, 1)
    chosen = range(count) if layers is None else layers
    return {layer: site_name(model, kind, layer, stack) for layer in chosen}


@torch.no_grad()
def last_states(
    model: Any,
    prompts: Sequence[Prompt],
    sites: Sequence[str],
    *,
    steer: Intervention | None = None,
    batch_size: int = 32,
    progress: bool = False,
) -> dict[str, Float[Tensor, "prompts *width"]]:
    """The state of every prompt at its last position, of T5's decoder at its start token; float32, on the CPU.

    Raises:
        MechsteerError: for sites without a row a position, activations that are not finite (with site and prompt), or
            an intervention that does not fit.
    """
    for name in sites:
        parsed = parse(name)
        if parsed is None or parsed[2].endswith(("scores", "pattern", "cross_k", "cross_v", "rot_k")):
            raise MechsteerError(f"{name!r} does not hold one state a position.")
    kept: dict[str, Tensor] = {}
    found: dict[str, list[Tensor]] = {name: [torch.empty(0)] * len(prompts) for name in sites}
    current: list[Step] = []

    def keep(x: Tensor, hook: Any) -> None:
        if position_stack(hook.name, two_stacks=True) == "encoder":
            ends = torch.tensor([len(p) - 1 for p in current[-1].batch.prompts], device=x.device)
            kept[hook.name] = x[torch.arange(len(x), device=x.device), ends]
        else:
            kept[hook.name] = x[:, -1]

    def run(step: Step) -> None:
        current[:] = [step]
        residual(model, *begin(model, step))
        for name in sites:
            rows = kept.pop(name).float().cpu()
            for row, place in enumerate(step.index or range(len(rows))):
                if not rows[row].isfinite().all():
                    raise MechsteerError(
                        f"NaN or infinite numbers at {name} for prompt {place}: the model or an intervention makes "
                        "them."
                    )
                found[name][place] = rows[row]

    run_batches(
        model,
        prompts,
        run,
        steer=as_intervention(steer),
        batch_size=batch_size,
        hooks=[(name, keep) for name in sites],
        progress="states" if progress else "",
    )
    return {name: torch.stack(rows) for name, rows in found.items()}
