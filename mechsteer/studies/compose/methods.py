"""The six ways to steer that the study of composition puts together, from a strength; what they need is learned here.

Learning prompts are validation prompts that no strength is chosen on. The model's own answers teach: what it writes
with the instruction and without notes, where it follows, and what it writes without the instruction. All vectors and
features are of one kind of instruction.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, NamedTuple

from mechsteer.analysis.features import instruction_features
from mechsteer.decoding import Directer, generate
from mechsteer.directions import Direction, differences_in_means, gradient_direction
from mechsteer.directions.sparse import sparse_direction
from mechsteer.errors import MechsteerError
from mechsteer.models import continuation_ids, parse, predicting_stack
from mechsteer.prompts import Prompt
from mechsteer.steering import Intervention, add, attention_bias, features, heads
from mechsteer.steering.saes import site_of
from mechsteer.studies.directer.bench import Setup, Way
from mechsteer.tasks import Instructions, instructions
from mechsteer.tasks.instructions import follows

KINDS = ("upper", "lower", "list", "json", "length", "french")

METHODS: Mapping[str, tuple[float, ...]] = MappingProxyType(
    {
        "means": (0.1, 0.2, 0.3, 0.5, 0.75, 1.0),
        "gradient": (0.02, 0.05, 0.1, 0.15, 0.25, 0.5),
        "sparse": (0.1, 0.2, 0.3, 0.5, 0.75, 1.0),
        "guide": (0.25, 0.5, 1.0, 1.5, 2.0, 3.0),
        "directer": (0.9, 0.7, 0.5, 0.3, 0.2, 0.1),
        "features": (0.1, 0.2, 0.3, 0.5, 0.75, 1.0),
    }
)
"""Strengths to choose among, from weak to strong: of means in the differences' norms, of gradient vectors in mean norms
of the stream, of sparse vectors as a factor, of GUIDE Delta in nats, of DIRECTER beta, of features c (1 sets them to
what they are with the instruction)."""

REFERENCE = {"means": 1.0, "gradient": 0.25, "sparse": 1.0}
"""The strength at which the layer of a vector is chosen."""

SPARSE_LAYERS = (1, 3)
SPARSE_WEIGHT = 0.005
FEATURES = 10


class Point(NamedTuple):
    """How strongly, and for vectors in which layer; layer -1 for ways that have none to choose."""

    strength: float
    layer: int = -1


@dataclass(frozen=True)
class Lesson:
    """What one kind of instruction is learned from.

    Attributes:
        instructed: Prompts with the instruction and no notes.
        bare: The same without the instruction.
        noted: The same with the instruction and notes.
        answers: What the model writes for ``instructed``; it follows the instruction.
        plain: What it writes for ``bare``.
    """

    instructed: list[Prompt]
    bare: list[Prompt]
    noted: list[Prompt]
    answers: list[str]
    plain: list[str]


@dataclass(frozen=True)
class FirstTokens:
    """A prompt, and the tokens that an answer with and one without the instruction begin with."""

    prompt: Prompt
    target: int
    trap: int


@dataclass(frozen=True)
class Ways:
    """The six ways, for one model.

    Attributes:
        vectors: By method (``means``, ``gradient``, ``sparse``), kind and layer.
        sae: The SAE.
        edits: By kind, the features to set and to add.
        layers: By method the layers to choose among.
    """

    vectors: Mapping[str, Mapping[str, Mapping[int, Direction]]]
    sae: Any
    edits: Mapping[str, Mapping[str, Mapping[int, tuple[str, float]]]]
    layers: Mapping[str, Sequence[int]]

    def make(self, method: str, point: Point, task: Instructions) -> Way:
        """One way for the prompts of a task."""
        strength = point.strength
        if method == "guide":
            return Way(attention_bias(delta=strength))
        if method == "directer":
            return Way(strategy=Directer(beta=strength))
        if method == "features":
            return Way(self.edited("set", strength, task))

        def steer(kind: str, rows: list[int]) -> Intervention:
            d = self.vectors[method][kind][point.layer]
            if method == "sparse":
                return heads(d, strength, rows=rows)
            unit = d.norm if method == "means" else d.activation_norm
            return add(d, strength * unit, scope="last_prompt", rows=rows)

        return Way(by_kind(task, steer))

    def edited(self, operation: str, strength: float, task: Instructions) -> Intervention:
        """Each kind's features set to, or raised by, what the instruction makes of them."""

        def steer(kind: str, rows: list[int]) -> Intervention:
            edits = self.edits[operation][kind]
            return features(self.sae, edits, strength=strength, scope="last_prompt", rows=rows)

        return by_kind(task, steer)

    @property
    def sae_layer(self) -> int:
        """Where the SAE is."""
        return _layer(self.sae)


def by_kind(task: Instructions, make: Callable[[str, list[int]], Intervention]) -> Intervention:
    """For each kind of instruction an intervention on its prompts."""
    steer = Intervention(())
    for kind in dict.fromkeys(sample.kind for sample in task.samples):
        steer += make(kind, [place for place, sample in enumerate(task.samples) if sample.kind == kind])
    return steer


def together(first: Way, second: Way) -> Way:
    """Both: at one hook point the first acts first.

    Raises:
        MechsteerError: if both decode in a way of their own.
    """
    if first.strategy is not None and second.strategy is not None:
        raise MechsteerError("Two strategies cannot choose the same token.")
    steers = [way.steer for way in (first, second) if way.steer is not None]
    return Way(sum(steers, start=Intervention(())) if steers else None, first.strategy or second.strategy)


def ways(setup: Setup, sae: Any) -> Ways:
    """Learn what the six ways need.

    Raises:
        MechsteerError: for an SAE that is not of a layer's ``resid_post``, or a kind that the model does not follow
            without notes on two learning prompts at least.
    """
    layers = vector_layers(setup.model)
    sparse_layers = [layer for layer in SPARSE_LAYERS if layer in layers] or [0]
    _layer(sae)
    vectors: dict[str, dict[str, dict[int, Direction]]] = {name: {} for name in REFERENCE}
    edits: dict[str, dict[str, dict[int, tuple[str, float]]]] = {"set": {}, "add": {}}
    for kind in setup.kinds:
        one = lesson(setup, kind)
        pairs = list(zip(one.instructed, one.bare, strict=True))
        makers: dict[str, tuple[Sequence[int], Callable[[Sequence[int]], dict[int, Direction]]]] = {
            "means": (layers, lambda at, p=pairs: differences_in_means(setup.model, p, layers=at)),
            "gradient": (layers, lambda at, t=one, k=kind: gradients(setup, t, k, at)),
            "sparse": (sparse_layers, lambda at, t=one: _sparse(setup, t, at)),
        }
        for method, (at, make) in makers.items():
            about = {"lesson": one, "weight": SPARSE_WEIGHT}
            vectors[method][kind] = setup.bench.directions(f"{method}-{kind}", at, about, make)
        rows = instruction_features(setup.model, sae, pairs, top=FEATURES).to_dict("records")
        edits["set"][kind] = {int(row["feature"]): ("set", float(row["mean_with"])) for row in rows}
        edits["add"][kind] = {int(row["feature"]): ("add", float(row["difference"])) for row in rows}
        setup.bench.bar.update()
    return Ways(vectors, sae, edits, {"means": layers, "gradient": layers, "sparse": sparse_layers})


def vector_layers(model: Any) -> list[int]:
    """The layers that vectors are learned at: all."""
    return list(range(predicting_stack(model)[1]))


def lesson(setup: Setup, kind: str) -> Lesson:
    """The learning prompts of a kind that the model follows without notes.

    Raises:
        MechsteerError: if there are fewer than two.
    """
    task, noted = (
        _later(instructions(kind, notes=k, split="validation"), setup.n_validation) for k in (0, setup.notes)
    )
    instructed, bare = (task.prompts(setup.model, with_instruction=wanted) for wanted in (True, False))
    answers, plain = (_answers(setup, prompts, task.max_new_tokens) for prompts in (instructed, bare))
    rows = [place for place, sample in enumerate(task.samples) if follows(sample, answers[place])]
    if len(rows) < 2:
        raise MechsteerError(
            f"The model follows {kind!r} on {len(rows)} of {len(answers)} learning prompts without notes; at least 2 "
            "are needed to learn from."
        )
    shown = noted.prompts(setup.model)

    def of(x: list[Any]) -> list[Any]:
        return [x[row] for row in rows]

    return Lesson(of(instructed), of(bare), of(shown), of(answers), of(plain))


def _later(task: Instructions, first: int) -> Instructions:
    """Without the prompts that strengths are chosen on."""
    return replace(task, samples=task.samples[first:])


def _answers(setup: Setup, prompts: list[Prompt], longest: int) -> list[str]:
    return generate(setup.model, prompts, max_new_tokens=longest, batch_size=setup.bench.batch_size).texts


def gradients(setup: Setup, learned: Lesson, kind: str, layers: Sequence[int]) -> dict[int, Direction]:
    """By layer the gradient of the first token's decision, on prompts with notes.

    Raises:
        MechsteerError: if answers with and without the instruction never begin differently.
    """
    begins = [
        [continuation_ids(setup.model, text, p)[0] for text, p in zip(texts, learned.noted, strict=True)]
        for texts in (learned.answers, learned.plain)
    ]
    cases = [FirstTokens(*case) for case in zip(learned.noted, *begins, strict=True) if case[1] != case[2]]
    if not cases:
        raise MechsteerError(f"With and without {kind!r} answers begin with the same token, so there is no gradient.")
    return {layer: gradient_direction(setup.model, cases, layer=layer) for layer in layers}


def _sparse(setup: Setup, learned: Lesson, layers: Sequence[int]) -> dict[int, Direction]:
    examples = list(zip(learned.noted, learned.answers, strict=True))
    weight = SPARSE_WEIGHT
    return {layer: sparse_direction(setup.model, examples, layer=layer, l1=weight, group_l2=weight) for layer in layers}


def _layer(sae: Any) -> int:
    site = site_of(sae, None)
    parsed = parse(site)
    if parsed is None or parsed[2] != "resid_post":
        raise MechsteerError(f"This study needs an SAE of a layer's resid_post; this one is at {site!r}.")
    return parsed[1]
