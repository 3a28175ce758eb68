"""The vectors that the study of DIRECTER puts under the gate: differences in means, one a kind of instruction."""

from collections.abc import Callable

from mechsteer.directions import Direction, differences_in_means
from mechsteer.steering import Intervention, add
from mechsteer.studies.core.choose import best
from mechsteer.studies.directer.bench import Setup, Way
from mechsteer.tasks import Instructions, instructions


def vector_maker(setup: Setup) -> "Callable[[float], Intervention] | None":
    """Difference-in-means vectors, one a kind of instruction, each for its own prompts; from a strength.

    Made of validation prompts with and without the instruction, without notes; each kind's layer is the one with the
    most followed and true answers on validation prompts with notes, at strength 1. None where no layer gives any.
    """
    found: dict[str, dict[int, Direction]] = {}
    for kind in setup.kinds:
        task = instructions(kind, split="validation")
        pairs = zip(
            task.prompts(setup.model, with_instruction=True),
            task.prompts(setup.model, with_instruction=False),
            strict=True,
        )
        found[kind] = differences_in_means(setup.model, list(pairs))
    validation = setup.validation()
    by_layer = {
        layer: Way(_vectors(validation, {kind: d[layer] for kind, d in found.items()}, 1.0))
        for layer in found[setup.kinds[0]]
    }
    setup.prefetch(by_layer.values(), validation)
    scores = {layer: setup.samples(way, validation) for layer, way in by_layer.items()}
    chosen: dict[str, Direction] = {}
    for kind in setup.kinds:
        parts = {layer: table[table["kind"] == kind] for layer, table in scores.items()}
        worth = {layer: float((part["adherence"] * part["fidelity"]).mean()) for layer, part in parts.items()}
        layer = best(worth, worth.__getitem__, passes=lambda k, worth=worth: worth[k] > 0)
        if layer is not None:
            chosen[kind] = found[kind][layer]
    return (lambda s: _vectors(setup.task(), chosen, s)) if chosen else None


def _vectors(task: Instructions, directions: dict[str, Direction], step: float) -> Intervention:
    """Each kind's vector on the prompts of its kind."""
    steer = Intervention(())
    for kind, direction in directions.items():
        rows = [place for place, sample in enumerate(task.samples) if sample.kind == kind]
        steer += add(direction, step * direction.norm, rows=rows)
    return steer
