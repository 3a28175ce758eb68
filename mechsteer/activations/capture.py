"""``capture``: activations at named sites, as tables of rows."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import TYPE_CHECKING, Any, overload

import torch
from jaxtyping import Float
from torch import Tensor

from mechsteer.activations.positions import Rows
from mechsteer.activations.recorded import grouped, of_activations
from mechsteer.activations.store import ActivationStore
from mechsteer.activations.streaming import BatchRows, Plan, make_plan, stream
from mechsteer.activations.writing import about, fill
from mechsteer.decoding.strategies import Strategy
from mechsteer.display import STRIP, counted, folded, rows_of, titled
from mechsteer.errors import MechsteerError, one_of
from mechsteer.models import as_prompts
from mechsteer.prompts import Prompt, Prompts
from mechsteer.prompts.vocabulary import token_pieces
from mechsteer.sources import Recorded
from mechsteer.steering import Intervention, as_intervention

if TYPE_CHECKING:
    import pandas as pd

StoreLike = ActivationStore | str | os.PathLike[str]


@dataclass(frozen=True, eq=False)
class Activations(Mapping[str, Tensor]):
    """Captured activations: a mapping from full site names to tensors ``[rows, width...]``.

    A row is one position of one prompt; rows lie in the order of the prompts, and within one in the order of its
    positions. With ``positions="last"`` (and nothing generated) row i is prompt i. The analyses take it in the place of
    a model, see :mod:`mechsteer.sources`.

    Attributes:
        tensors: For each site its tensor.
        rows: For each stack, what its rows stand for.
        stacks: For each site, which stack's positions its rows are.
        tokenizer: The model's.
        prompts: The prompts, in order.
        groups: For each group the places of its prompts; those captured as one list are ``"prompts"``.
        about: What the activations are of.
    """

    tensors: dict[str, Tensor]
    rows: dict[str, Rows]
    stacks: dict[str, str]
    tokenizer: Any = field(repr=False)
    prompts: Sequence[Prompt] = field(default=(), repr=False)
    groups: Mapping[str, Sequence[int]] = field(default_factory=dict, repr=False)
    about: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def group(self, name: str) -> Recorded:
        """One group's prompts, in the place of all: ``ms.logit_lens(model, made.group("with"))``.

        Raises:
            MechsteerError: if there is no such group.
        """
        return self.recorded().group(name)

    def recorded(self) -> Recorded:
        """What the analyses read: see :class:`mechsteer.sources.Recorded`."""
        return of_activations(self)

    def __getitem__(self, site: str) -> Tensor:
        return self.tensors[one_of("captured site", site, self.tensors)]

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)

    def __repr__(self) -> str:
        return f"Activations({', '.join(f'{name} {list(x.shape)}' for name, x in self.tensors.items())})"

    def _repr_html_(self) -> str:
        rows = [(name, len(x), list(x.shape[1:]), str(x.dtype)) for name, x in self.tensors.items()]
        groups = [(name, len(places)) for name, places in self.groups.items()] if len(self.groups) > 1 else []
        parts = [rows_of(rows, ("site", "rows", "shape of each", "dtype"), most=STRIP // 3)]
        parts += [rows_of(groups, ("group", "prompts"), most=STRIP // 3)] if groups else []
        known = {**self.about, **self.about.get("provenance", {})}
        facts = [(name, value) for name, value in sorted(known.items()) if name != "provenance"]
        where = folded("where they came from", rows_of(facts, ("", ""), most=STRIP // 3))
        return titled(f"Activations of {counted(len(self.prompts), 'prompt')}", *parts, where)

    def index(self, site: str) -> "pd.DataFrame":
        """What the rows at a site stand for: columns row, prompt, position, token, text, generated."""
        import pandas as pd

        rows = self.rows[self.stacks[one_of("captured site", site, self.tensors)]]
        return pd.DataFrame(
            {
                "row": range(len(rows)),
                "prompt": rows.prompt,
                "position": rows.position,
                "token": rows.token,
                "text": token_pieces(self.tokenizer, rows.token),
                "generated": rows.generated,
            }
        )

    def by_prompt(self, site: str) -> list[Tensor]:
        """The rows at a site as one ``[positions, width...]`` tensor a prompt."""
        values, prompts = self[site], torch.tensor(self.rows[self.stacks[site]].prompt)
        return list(values.split(prompts.bincount().tolist()))

    def stacked(self, site: str) -> Float[Tensor, "prompts positions *width"]:
        """The rows at a site as one tensor, where every prompt has the same number of them.

        Raises:
            MechsteerError: if they differ.
        """
        parts = self.by_prompt(site)
        counts = sorted({len(part) for part in parts})
        if len(counts) > 1:
            raise MechsteerError(
                f"The prompts have {counts[0]} to {counts[-1]} rows at {site!r}, which do not stack; use .by_prompt."
            )
        return torch.stack(parts)


@overload
def capture(
    model: Any,
    prompts: Prompts | Mapping[str, Prompts],
    *,
    sites: str | Sequence[str],
    positions: str | Sequence[int] = "last",
    steer: Intervention | None = None,
    batch_size: int = 32,
    generate: int = 0,
    strategy: Strategy | None = None,
    dtype: torch.dtype | None = None,
    store: None = None,
    progress: bool = False,
) -> Activations: ...


@overload
def capture(
    model: Any,
    prompts: Prompts | Mapping[str, Prompts],
    *,
    sites: str | Sequence[str],
    positions: str | Sequence[int] = "last",
    steer: Intervention | None = None,
    batch_size: int = 32,
    generate: int = 0,
    strategy: Strategy | None = None,
    dtype: torch.dtype | None = None,
    store: StoreLike,
    progress: bool = False,
) -> ActivationStore: ...


@torch.no_grad()
def capture(
    model: Any,
    prompts: Prompts | Mapping[str, Prompts],
    *,
    sites: str | Sequence[str],
    positions: str | Sequence[int] = "last",
    steer: Intervention | None = None,
    batch_size: int = 32,
    generate: int = 0,
    strategy: Strategy | None = None,
    dtype: torch.dtype | None = None,
    store: StoreLike | None = None,
    progress: bool = False,
) -> Activations | ActivationStore:
    """Run prompts and keep the activations at some sites and positions.

    The forward pass stops after the last block that is needed (of these sites and of the intervention's); encoder sites
    alone never run the decoder. Rows go to the CPU batch by batch. They do not depend on batch mates or padding.

    Args:
        model: A loaded model.
        prompts: Texts or prompts, one or many; or prompts by group, ``{"with": [...], "without": [...]}``, by which the
            analyses find them. In a store a group may grow at its end.
        sites: Full names, glob patterns such as ``"blocks.*.hook_resid_post"``, or kinds: ``"resid_post"`` is every
            layer of the stack that predicts, ``"encoder.resid_post"`` every layer of T5's encoder.
        positions: ``"last"``, the position that predicts (of T5's decoder its start token, of its encoder the last
            token); ``"all"``; ``"span:NAME"``; or positions from the first token, negative ones from the prompt's end.
        steer: An intervention; what it made is captured.
        batch_size: Prompts in one pass.
        generate: Generate this many tokens after each prompt, and keep the rows of each that is fed back (the last one
            is not) in addition to ``positions``, as :func:`mechsteer.generate` records them.
        strategy: How they are chosen; default greedy.
        dtype: Of the result; default: the model's.
        store: A store, or the path of one (made if it is not there), to write to instead of memory. Prompts that it has
            are skipped, so that a capture that was stopped is resumed by the same call. What it will need on the disk
            is printed first.
        progress: Show a bar.

    Returns:
        The activations by site, ``[rows, width...]``, on the CPU, with a table of what the rows are; or the store.

    Raises:
        MechsteerError: for no prompts, prompts that are longer than the context or lack a span or position, sites that
            are unknown, never fire or do not hold one row a position, an intervention that does not fit or never fires,
            values that are NaN or infinite (naming site and prompt); a store of another model, sites, positions,
            intervention or prompts of a group, one that is being written to, or a disk that cannot hold what is needed.

    Example:
        >>> store = ms.capture(model, {"with": with_it, "without": without}, sites="resid_post", store="states")
        >>> ms.similarity(store, n_boot=100), ms.separability(store), ms.difference_in_means(store, layer=5)
    """
    groups = {name: as_prompts(model, some) for name, some in grouped(prompts).items()}
    made = [prompt for some in groups.values() for prompt in some]
    plan = make_plan(model, sites, positions, as_intervention(steer), generate=generate, strategy=strategy, dtype=dtype)
    if store is not None:
        return fill(store, model, groups, plan, batch_size=batch_size, progress=progress)
    batches: list[BatchRows] = []
    stream(model, made, plan, batches.append, batch_size=batch_size, progress="capturing" if progress else "")
    ends = list(accumulate(len(some) for some in groups.values()))
    places = {name: range(end - len(some), end) for (name, some), end in zip(groups.items(), ends, strict=True)}
    known = {**about(model), "positions": plan.where, "intervention": str(plan.steer) if plan.steer.edits else "none"}
    return _joined(batches, plan, model.tokenizer, prompts=made, groups=places, about=known)


def _joined(batches: list[BatchRows], plan: Plan, tokenizer: Any, **what: Any) -> Activations:
    """Batches put together, in the order of the prompts."""
    rows, orders = {}, {}
    for stack in dict.fromkeys(plan.stacks.values()):
        parts = [batch.rows[stack] for batch in batches]
        prompts = [p for part in parts for p in part.prompt]
        order = sorted(range(len(prompts)), key=prompts.__getitem__)  # stable: positions keep their order
        columns = [[x for part in parts for x in getattr(part, name)] for name in Rows.__dataclass_fields__]
        rows[stack] = Rows(*([column[i] for i in order] for column in columns))
        orders[stack] = torch.tensor(order)
    values = {
        name: torch.cat([batch.values.pop(name) for batch in batches])[orders[stack]]
        for name, stack in plan.stacks.items()
    }
    return Activations(values, rows, plan.stacks, tokenizer, **what)
