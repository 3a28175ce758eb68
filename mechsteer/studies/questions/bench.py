"""What the study's questions share: prompts, states, answers with their quality, and where each kind is steered."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from jaxtyping import Float
from torch import Tensor

from mechsteer.directions import Direction
from mechsteer.errors import MechsteerError
from mechsteer.evaluation import evaluate
from mechsteer.identity import cell_key
from mechsteer.models import predicting_stack, provenance, site
from mechsteer.sources import last_states
from mechsteer.steering import Intervention, add, project
from mechsteer.studies.core.bench import Bench, Wanted
from mechsteer.studies.questions import pools
from mechsteer.tasks import Instructed, Instructions, instructions
from mechsteer.tensors import read_tensors, save_tensors

if TYPE_CHECKING:
    import pandas as pd

States = Float[Tensor, "prompts width"]

DEPTHS = (0.2, 0.4, 0.6, 0.8)
"""Where in a model vectors are tried, from its first layer (0) to its last (1)."""

KNOWS = 0.5
"""From this mean fidelity of its plain answers on, a model is said to know the bundled world."""


@dataclass(frozen=True)
class Place:
    """How a kind's vector acts, where, and how strongly.

    Attributes:
        layer: The layer.
        method: ``"add"`` or ``"project"``.
        scope: ``"last_prompt"`` or ``"content"``.
        step: c, in norms of the kind's vector; of a projection from its mean without the instruction on, so that 1 is
            the paper's.
    """

    layer: int
    method: str
    scope: str
    step: float

    def steer(self, d: Direction, length: float, rows: Sequence[int] | None = None) -> Intervention:
        """Steer with a direction as if its norm were ``length``."""
        if self.method == "project":
            target = d.mean_projection + (self.step - 1) * length
            return project(d, target=target, scope=self.scope, rows=rows)
        return add(d, self.step * length, scope=self.scope, rows=rows)


def answered(model: Any, task: Instructions, **how: Any) -> "pd.DataFrame":
    """Sample rows with what says whether outputs collapsed."""
    return evaluate(model, task, quality=True, **how)


@dataclass(frozen=True)
class Setup:
    """The bench, and the sizes of the study.

    Attributes:
        bench: The model, and where what was measured lies.
        kinds: Kinds of instructions.
        n: Test prompts of each kind.
        n_validation: Prompts of each kind that places and strengths are chosen on.
        draws: How often pairs are drawn.
        pairs: The most pairs of a vector.
    """

    bench: Bench
    kinds: tuple[str, ...]
    n: int
    n_validation: int
    draws: int
    pairs: int
    _states: dict[tuple[tuple[Instructed, ...], bool], dict[str, Tensor]] = field(default_factory=dict, repr=False)

    @property
    def model(self) -> Any:
        """The model."""
        return self.bench.model

    @property
    def layers(self) -> list[int]:
        """The layers at :data:`DEPTHS`."""
        count = predicting_stack(self.model)[1]
        return sorted({round(depth * (count - 1)) for depth in DEPTHS})

    @property
    def topics(self) -> tuple[str, ...]:
        """What vectors are estimated from."""
        return pools.topics_of("validation", self.n_validation)

    def task(self, kinds: Sequence[str] | None = None) -> Instructions:
        """The test prompts, without their instructions."""
        return instructions(self.kinds if kinds is None else kinds, with_instruction=False, n=self.n)

    def validation(self, kinds: Sequence[str] | None = None) -> Instructions:
        """The prompts to choose on, without their instructions."""
        chosen = self.kinds if kinds is None else kinds
        return instructions(chosen, with_instruction=False, split="validation", n=self.n_validation)

    def prefetch(self, task: Instructions, steers: Iterable[Intervention | None]) -> None:
        """Compute in workers what will be asked for."""
        self.bench.prefetch(Wanted(task, steer, rows=answered) for steer in steers)

    def answers(self, task: Instructions, steer: Intervention | None = None) -> "pd.DataFrame":
        """One row a prompt, computed once."""
        return self.bench.rows(Wanted(task, steer, rows=answered))

    @cached_property
    def knows(self) -> bool:
        """Whether the model knows the bundled world, so that fidelity says something about its answers."""
        return float(self.answers(self.validation())["fidelity"].mean()) >= KNOWS

    def states(self, samples: Sequence[Instructed], instructed: bool, layer: int) -> States:
        """The residual stream after one of :attr:`layers` at the last tokens of prompts, all of them computed once."""
        known = tuple(samples), instructed
        if known not in self._states:
            self._states[known] = self._computed(*known)
        return self._states[known][site(self.model, "resid_post", layer=layer)]

    def _computed(self, samples: tuple[Instructed, ...], instructed: bool) -> dict[str, Tensor]:
        sites = [site(self.model, "resid_post", layer=at) for at in self.layers]
        key = cell_key(self.model, samples, options={"states": instructed, "sites": sites})
        path = self.bench.folder / "states" / f"{key}.safetensors"
        if path.exists():
            with suppress(MechsteerError):  # a damaged one is made again
                kept = read_tensors(path)
                kept.verify("file of states")
                return kept.tensors
        prompts = Instructions("states", samples).prompts(self.model, with_instruction=instructed)
        found = last_states(self.model, prompts, sites, batch_size=self.bench.batch_size)
        save_tensors(path, found, {})
        return found

    def both(self, samples: Sequence[Instructed], layer: int) -> tuple[States, States]:
        """The states with the instruction, and those without."""
        return self.states(samples, True, layer), self.states(samples, False, layer)

    def estimated(self, kind: str, count: int | None = None) -> list[Instructed]:
        """What a kind's own vector comes from: many topics and wordings."""
        return pools.drawn(kind, pools.WIDE, count or self.pairs, draw=0, topics=self.topics)

    def vector(self, kind: str, layer: int) -> Direction:
        """A kind's own vector."""
        return self.direction(*self.both(self.estimated(kind), layer), layer)

    def direction(self, with_it: States, without: States, layer: int) -> Direction:
        """The difference in means of states."""
        return self.pointing((with_it - without).mean(0), layer, with_it)

    def pointing(self, vector: Float[Tensor, "width"], layer: int, with_it: States) -> Direction:
        """Any vector as a direction, with the mean projection of instructed states on it."""
        return Direction(
            vector,
            site(self.model, "resid_post", layer=layer),
            "difference_in_means",
            mean_projection=float((with_it @ (vector / vector.norm())).mean()),
            activation_norm=float(with_it.norm(dim=-1).mean()),
            meta=provenance(self.model),
        )


def rows_of(task: Instructions) -> dict[str, list[int]]:
    """The places of each kind's prompts."""
    found: dict[str, list[int]] = {}
    for place, sample in enumerate(task.samples):
        found.setdefault(sample.kind, []).append(place)
    return found


def by_kind(task: Instructions, make: Callable[[str, list[int]], Intervention]) -> Intervention:
    """For each kind an intervention on its prompts."""
    return sum((make(kind, rows) for kind, rows in rows_of(task).items()), start=Intervention())


def steered(
    task: Instructions, places: Mapping[str, Place], vectors: Mapping[str, Direction], lengths: Mapping[str, float]
) -> Intervention:
    """Each kind's vector at its place, as if its norm were the kind's length."""
    return by_kind(task, lambda kind, rows: places[kind].steer(vectors[kind], lengths[kind], rows))
