"""Last-token states of prompts at many sites in one pass, for what compares prompts."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mechsteer.errors import MechsteerError, listed, not_finite, one_of, shown
from mechsteer.models import at_last, fires, parse, predicting_stack, residual, stacks
from mechsteer.models import site as site_name
from mechsteer.prompts import Prompt
from mechsteer.steering import Intervention, Step, as_intervention, begin, run_batches


def pair_sites(model: Any, kind: str, layers: Sequence[int] | None, stack: str | None) -> dict[int, str]:
    """The site of a kind in each of the layers (default: all of the stack).

    Raises:
        MechsteerError: for a full name in place of a kind, an unknown kind, stack or layer, or no layers.
    """
    if isinstance(kind, str) and "." in kind:
        raise MechsteerError(
            f"site is a kind here, e.g. 'resid_post', and layers and stack say where; got {shown(kind)}."
        )
    sizes = stacks(model)
    count = sizes[predicting_stack(model)[0] if stack is None else one_of("stack", stack, sizes)]
    chosen = range(count) if layers is None else listed("layers", layers)
    if not chosen:
        raise MechsteerError("No layers were given; None is all of them.")
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
    sites = list(dict.fromkeys(sites))
    for name in sites:
        if not fires(model, name):
            raise MechsteerError(f"{name!r} never fires with this model's present settings.")
        parsed = parse(name)
        if parsed is None or parsed[2].endswith(("scores", "pattern", "cross_k", "cross_v", "rot_k")):
            raise MechsteerError(f"{name!r} does not hold one state a position.")
    kept: dict[str, Tensor] = {}
    found: dict[str, list[Tensor]] = {name: [torch.empty(0)] * len(prompts) for name in sites}
    current: list[Step] = []

    def keep(x: Tensor, hook: Any) -> None:
        kept[hook.name] = at_last(model, x, hook.name, current[-1].batch)

    def run(step: Step) -> None:
        current[:] = [step]
        residual(model, *begin(model, step))
        for name in sites:
            rows = kept.pop(name).float().cpu()
            for row, place in enumerate(step.index or range(len(rows))):
                if not rows[row].isfinite().all():
                    raise not_finite(name, place)
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
