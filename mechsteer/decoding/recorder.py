"""Recording activations while a model generates, one row a token, padding left out."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mechsteer.errors import MechsteerError, listed, unknown
from mechsteer.models import fires, position_stack, shape_of
from mechsteer.models.hooking import Hook, reading
from mechsteer.steering import Scope, Step


class Recorder:
    """Collects activations at sites, prompt by prompt, in the order in which positions are computed."""

    def __init__(self, model: Any, sites: Sequence[str], prompts: int) -> None:
        sites = listed("record", sites)
        for site in sites:
            _check(model, site)
        self.rows: dict[str, list[list[Tensor]]] = {site: [[] for _ in range(prompts)] for site in sites}
        self._unfinished: dict[str, set[int]] = {site: set() for site in sites}  # whose prompt is read in parts
        self._stacks = {site: position_stack(site, two_stacks=hasattr(model, "decoder_final_ln")) for site in sites}
        self.step: Step | None = None

    def hooks(self) -> list[Hook]:
        """Hook functions; registered after those that edit, they see the edited activations."""
        return reading(self.rows, self._keep)

    def _keep(self, x: Tensor, site: str) -> None:
        step = self.step
        if step is None:
            return
        chosen = step.select(Scope(), self._stacks[site], x.shape[1])
        kept = x.detach().float().cpu()
        alive = range(len(step.batch)) if step.alive is None else step.alive
        for out, row in enumerate(alive):
            if step.own is not None and not step.own[out]:
                continue
            place = row if step.index is None else step.index[row]
            values = kept[out] if isinstance(chosen, bool) else kept[out, chosen[out]]
            parts = self.rows[site][place]
            if place in self._unfinished[site]:
                values = torch.cat([parts.pop(), values])
            parts.append(values)
            if self._stacks[site] == "blocks" and step.end is not None and step.end < step.batch.length:
                self._unfinished[site].add(place)
            else:
                self._unfinished[site].discard(place)

    def forget(self, places: Sequence[int] | None = None) -> None:
        """Let go of what was recorded for some prompts; None for all."""
        for site, rows in self.rows.items():
            for place in range(len(rows)) if places is None else places:
                rows[place].clear()
                self._unfinished[site].discard(place)

    def take(self, site: str, place: int, written: int) -> Tensor:
        """Hand over what was recorded at one site for one prompt that ``written`` tokens were generated for.

        A row that has ended may be computed on while its batch runs; what that left is dropped.
        """
        parts = self.rows[site][place][:written]  # the prompt, then each token that was fed back: not the last
        self.rows[site][place] = []
        return torch.cat(parts)

    def result(self, written: Sequence[int]) -> dict[str, list[Tensor]]:
        """For each site and prompt, the activations ``[positions, ...]``."""
        return {site: [self.take(site, place, n) for place, n in enumerate(written)] for site in self.rows}


def _check(model: Any, site: str) -> None:
    if site not in model.hook_dict or not fires(model, site):
        raise unknown("site to record", site, [name for name in model.hook_dict if fires(model, name)])
    if shape_of(model, site)[1] != "pos":
        raise MechsteerError(
            f"{site!r} has the dimensions {' '.join(shape_of(model, site))}: only sites with one row a position can be "
            "recorded while generating."
        )
