"""The vectors that the study of DIRECTER puts under the gate: differences in means, one a kind of instruction."""

from collections.abc import Callable

from mechsteer.directions import Direction, differences_in_means
from mechsteer.steering import Intervention, add
from mechsteer.studies.directer.bench import Way, Work
from mechsteer.tasks import Instructions, instructions


def vector_maker(work: Work) -> "Callable[[float], Intervention] | None":
    """Difference-in-means vectors, one a kind of instruction, each for its own prompts; from a strength.

    Made of validation prompts with and without the instruction, without notes; each kind's layer is the one with the
    most followed and true answers on validation prompts with notes, at strength 1. None where no layer gives any.
    """
    found: dict[str, dict[int, Direction]] = {}
    for kind in work.kinds:
        task = instructions(kind, split="validation")
        pairs = zip(
            task.prompts(work.model, with_instruction=True),
            task.prompts(work.model, with_instruction=False),
            strict=True,
        )
        found[kind] = differences_in_means(work.model, list(pairs))
    validation = work.validation()
    scores = {
        layer: work.samples(Way(_vectors(validation, {k: d[layer] for k, d in found.items()}, 1.0)), validation)
        for layer in found[work.kinds[0]]
    }
    best: dict[str, Direction] = {}
    for kind in work.kinds:
        parts = {layer: table[table["kind"] == kind] for layer, table in scores.items()}
        worth = {layer: float((part["adherence"] * part["fidelity"]).mean()) for layer, part in parts.items()}
        layer = max(worth, key=lambda k: (worth[k], -k))
        if worth[layer] > 0:
            best[kind] = found[kind][layer]
    return (lambda s: _vectors(work.task(), best, s)) if best else None


def _vectors(task: Instructions, directions: dict[str, Direction], step: float) -> Intervention:
    """Each kind's vector on the prompts of its kind."""
    steer = Intervention(())
    for kind, direction in directions.items():
        rows = [place for place, sample in enumerate(task.samples) if sample.kind == kind]
        steer += add(direction, step * direction.norm, rows=rows)
    return steer
