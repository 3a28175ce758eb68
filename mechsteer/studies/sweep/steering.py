"""What a steering sweep computes in a cell: a task's sample rows under one method, at one layer and strength.

Names of a cell, and what stands for one that is left out:

- ``model``: a name for :func:`mechsteer.load`. ``dtype``: ``"float32"``.
- ``task``: ``"memotrap"``, ``"instructions"``, or a JSONL or CSV file of one's own (:mod:`mechsteer.tasks.own_task`)
  with its ``check``, where lines name none. ``split``: ``"evaluation"``; for choosing layers and strengths ``"mining"``
  (memotrap) or ``"validation"`` (the others). ``n``: the most prompts; all. ``max_new_tokens``: the task's own.
- memotrap: ``data``, a CSV file of traps; the bundled ones.
- a file of one's own: ``kind``: one of its kinds; all. ``split``: its prompts are divided in half by a hash of their
  text; ``"evaluation"`` is scored, ``"validation"`` makes directions; ``"all"`` scores every prompt, without vectors.
- instructions: ``kind``, always given, for vectors are made for one kind; ``with_instruction``: true; ``notes``: 0.
- ``method``: ``"none"``, or the name of a registered one that says what it is made of (:mod:`mechsteer.steering`):
  ``"add"`` and ``"project"``, of a direction; ``"attention_bias"``, ``"pasta"``, ``"spotlight"`` and ``"scale_keys"``,
  of the span ``instruction``, in all layers, so that they need instructions prompts that have it; and those of your
  own, which may be made of a layer as well: ``modules`` of the sweep or its file names the modules that register them.
- ``layer``: of methods made of a direction or a layer, always given there.
- ``direction``: of methods made of one, from prompts of the other split (``mining``, ``validation``) alone:
  ``"gradient"`` (memotrap; its default), ``"difference_in_means"`` (the default of instructions; for memotrap, between
  the prompt and its stem) or ``"random"`` (not project; it takes its unit from the task's default direction at that
  layer).
- ``strength``: of every method but none, always given; for the attention methods as they define it.
- ``unit``: of the strength s of methods made of a direction. ``"activation"``, the mean norm a of the states at the
  layer: add s a u, project on s a. ``"direction"``, the norm d of the vector as estimated, for difference in means the
  step from without to with: add s d u, project on zbar + (s - 1) d, so that 1 is the paper's projection.
  ``"absolute"``: add s u, project on s. Others have it as add has. Default: direction for difference in means, else
  activation.
- ``temperature``: 0, which is greedy. ``seed``: 0; of the sampler and of the random direction.

A name that has no meaning in a cell, such as the layer of an attention method, is None there, and cells that so become
equal are one: a grid over methods and layers has one unsteered cell.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mechsteer.decoding import Greedy, Sample
from mechsteer.directions import Direction, differences_in_means, gradient_direction, random_direction
from mechsteer.errors import MechsteerError, finite, natural_int, one_of, positive_int, unknown
from mechsteer.evaluation import evaluate
from mechsteer.identity import cell_key
from mechsteer.steering import METHODS, Intervention, made_of
from mechsteer.steering.registry import TAKES, find
from mechsteer.studies.sweep.grids import Cell
from mechsteer.studies.sweep.jobs import import_modules
from mechsteer.tasks import Instructions, MemoTrap, OwnTask, instructions, memotrap
from mechsteer.tasks import task as own_task

if TYPE_CHECKING:
    import pandas as pd

NAMES = (
    "model",
    "dtype",
    "task",
    "check",
    "data",
    "kind",
    "with_instruction",
    "notes",
    "split",
    "n",
    "method",
    "direction",
    "layer",
    "strength",
    "unit",
    "temperature",
    "seed",
    "max_new_tokens",
)
SOURCES = {
    "memotrap": ("gradient", "difference_in_means", "random"),
    "instructions": ("difference_in_means", "random"),
    "own": ("difference_in_means", "random"),
}
"""Directions by task; the first is the default."""
DATA_NAMES = ("task", "check", "data", "kind", "with_instruction", "notes", "split", "n")
"""What decides :func:`data_hash`."""
UNITS = ("activation", "direction", "absolute")
ESTIMATED_ON = {"memotrap": "mining", "instructions": "validation", "own": "validation"}


def normal(cell: Cell) -> Cell:
    """The cell with every name, in the order of :data:`NAMES`: defaults filled in, what has no meaning set to None.

    Raises:
        MechsteerError: for an unknown name or value, naming the nearest, or one that is missing.
    """
    for name in cell:
        if name not in NAMES:
            raise unknown("name in a cell of a steering sweep:", name, NAMES)
    given = {name: value for name, value in cell.items() if value is not None}
    task = str(_required(given, "task"))
    family = _family(task)
    method, takes = _method(str(given.get("method", "none")))
    values = dict.fromkeys(NAMES) | {
        "model": str(_required(given, "model")),
        "dtype": str(given.get("dtype", "float32")),
        "task": task,
        "split": str(given.get("split", "evaluation")),
        "n": None if "n" not in given else positive_int("n", given["n"]),
        "method": method,
        "temperature": _number("temperature", given.get("temperature", 0.0)),
        "max_new_tokens": None
        if "max_new_tokens" not in given
        else positive_int("max_new_tokens", given["max_new_tokens"]),
    }
    if family == "own":
        values |= {name: None if name not in given else str(given[name]) for name in ("check", "kind")}
        if values["split"] == "all" and takes == "direction":
            raise MechsteerError('split="all" leaves no prompts to make a vector from; use "evaluation".')
    elif family == "memotrap":
        values["data"] = given.get("data")
    else:
        values["kind"] = str(_required(given, "kind"))
        values["with_instruction"] = _flag("with_instruction", given.get("with_instruction", True))
        values["notes"] = natural_int("notes", given.get("notes", 0))
    if takes == "span" and family != "own" and not values["with_instruction"]:
        raise MechsteerError(
            f'{method} acts on the span "instruction", which only prompts of task="instructions" with_instruction=true '
            "have; give such cells a grid of their own."
        )
    if method != "none":
        values["strength"] = _number("strength", _required(given, "strength"))
    if takes == "direction":
        values |= _vector(given, family, method)
    elif takes == "layer":
        values["layer"] = natural_int("layer", _required(given, "layer"))
    if values["temperature"] or values["direction"] == "random":
        values["seed"] = natural_int("seed", given.get("seed", 0))
    return Cell.of(values)


def _method(name: str) -> tuple[str, str]:
    """A method's name, and what it is made of.

    Raises:
        MechsteerError: for an unknown one, or one that cannot be made of one thing and a strength.
    """
    if name == "none":
        return name, ""
    if name not in METHODS:
        error = unknown("method", name, ["none", *(known for takes in TAKES[1:] for known in made_of(takes))])
        hint = (
            'in the sweep\'s file, before [grid]: modules = ["my_method"]; in Python: sweep(cells, out, modules=[...])'
        )
        raise MechsteerError(f"{error} If it is your own, name the module that registers it, {hint}.")
    if not METHODS[name].takes:
        fix = "register it with takes= and make=" if METHODS[name].own else "steer in Python, e.g. with ms.evaluate"
        raise MechsteerError(f"No cell can make the method {name!r} of one thing and a strength: {fix}.")
    return name, METHODS[name].takes


def _family(task: str) -> str:
    """``memotrap``, ``instructions``, or ``own`` for a file.

    Raises:
        MechsteerError: for an unknown name.
    """
    if Path(task).suffix.lower() in (".jsonl", ".csv", ".ndjson"):
        return "own"
    return one_of("task", task, [name for name in SOURCES if name != "own"])


def _vector(given: Mapping[str, Any], task: str, method: str) -> dict[str, Any]:
    """The values that vectors alone have."""
    source = one_of(f"direction for {task}", str(given.get("direction", SOURCES[task][0])), SOURCES[task])
    if (method, source) == ("project", "random"):
        raise MechsteerError('A random direction has no mean projection to project on; use method="add" with it.')
    usual = "direction" if source == "difference_in_means" else "activation"
    unit = one_of("unit", str(given.get("unit", usual)), UNITS)
    return {"layer": natural_int("layer", _required(given, "layer")), "direction": source, "unit": unit}


def data_hash(cell: Cell) -> str:
    """A hash of the prompts that a normal cell scores and makes its direction from.

    Raises:
        MechsteerError: for a kind, split, file or number of notes that is not there.
    """
    return cell_key(None, [task_of(cell), task_of(cell, estimation=True)])


def run(
    cell: Cell,
    model: Any,
    *,
    directions: str | os.PathLike[str] | None = None,
    batch_size: int = 64,
    modules: Sequence[str] = (),
) -> "pd.DataFrame":
    """Compute a cell.

    Args:
        cell: Its names are explained at the top of this module.
        model: The loaded model.
        directions: A folder where directions are kept, so that cells share them. Default: none are kept.
        batch_size: Prompts computed together.
        modules: Imported first; they register methods.

    Returns:
        The rows of :func:`mechsteer.evaluate`, with ``scale`` for the strength in the units of the model.

    Raises:
        MechsteerError: for names and values that do not fit the model or task.
    """
    import_modules(modules)
    cell = normal(cell)
    steer = steering_of(cell, model, None if directions is None else Path(directions))
    strategy = Sample(temperature=cell["temperature"], seed=cell["seed"]) if cell["temperature"] else Greedy()
    table = evaluate(model, task_of(cell), steer=steer, strategy=strategy, batch_size=batch_size)
    table = table.drop(columns=["method", "seed"])
    return table.rename(columns={"task": "task_name", "strength": "scale"})


def task_of(cell: Cell, *, estimation: bool = False) -> MemoTrap | Instructions | OwnTask:
    """The task of a normal cell; or all prompts of the split that its direction is made from."""
    family = _family(cell["task"])
    split, n = (ESTIMATED_ON[family], None) if estimation else (cell["split"], cell["n"])
    task: MemoTrap | Instructions | OwnTask
    if family == "own":
        found = own_task(cell["task"], cell["check"])
        found = found if cell["kind"] is None else found.of_kind(cell["kind"])
        found = found if split == "all" else found.on(split)
        task = replace(found, samples=found.samples[:n])
    elif family == "memotrap":
        traps = memotrap(cell["data"]).on(split)
        task = replace(traps, samples=traps.samples[:n])
    else:
        notes, with_it = (0, True) if estimation else (cell["notes"], cell["with_instruction"])
        task = instructions(cell["kind"], notes=notes, with_instruction=with_it, split=split, n=n)
    return task if cell["max_new_tokens"] is None else replace(task, max_new_tokens=cell["max_new_tokens"])


def steering_of(cell: Cell, model: Any, folder: Path | None = None) -> Intervention | None:
    """The intervention of a normal cell; None if it is unsteered."""
    method, strength = cell["method"], cell["strength"]
    if method == "none":
        return None
    found = find(method)
    assert found.make is not None  # or the cell would have no normal form
    if found.takes != "direction":
        return found.make("instruction" if found.takes == "span" else cell["layer"], strength)
    direction = direction_of(cell, model, folder)
    size = {"activation": direction.activation_norm, "direction": direction.norm, "absolute": 1.0}[cell["unit"]]
    if method != "project":
        return found.make(direction, strength * size)
    offset = direction.mean_projection - size if cell["unit"] == "direction" else 0.0
    return found.make(direction, offset + strength * size)


def direction_of(cell: Cell, model: Any, folder: Path | None = None) -> Direction:
    """The direction of a normal cell, from the folder if it is there.

    A random one has the norm and the mean activation norm of the task's default direction at its layer.
    """
    if cell["direction"] != "random":
        return _estimated(cell, model, cell["direction"], folder)
    like = _estimated(cell, model, SOURCES[_family(cell["task"])][0], folder)
    drawn = random_direction(model, seed=cell["seed"], layer=cell["layer"])
    return replace(drawn, vector=drawn.unit * like.norm, activation_norm=like.activation_norm)


def _estimated(cell: Cell, model: Any, source: str, folder: Path | None) -> Direction:
    """A direction from examples; difference in means is taken at all layers at once."""
    layer, task = cell["layer"], task_of(cell, estimation=True)
    if folder is not None:
        path = _file(folder, cell, model, source, layer)
        if path.exists():
            try:
                return Direction.load(path)
            except MechsteerError:  # a damaged one is made again
                pass
    if source == "gradient":
        assert isinstance(task, MemoTrap)
        made = {layer: gradient_direction(model, task.samples, layer=layer)}
    elif isinstance(task, MemoTrap):
        made = differences_in_means(model, [(trap.prompt, trap.stem) for trap in task.samples])
    else:
        with_it, without = (task.prompts(model, with_instruction=wanted) for wanted in (True, False))
        made = differences_in_means(model, list(zip(with_it, without, strict=True)))
    if layer not in made:
        raise MechsteerError(f"layer must be 0 to {max(made)}, got {layer}.")
    if folder is not None:
        for at, direction in made.items():
            direction.save(_file(folder, cell, model, source, at))
    return made[layer]


def _file(folder: Path, cell: Cell, model: Any, source: str, layer: int) -> Path:
    key = cell_key(model, task_of(cell, estimation=True), options={"direction": source})
    return folder / f"{source}-{key}-layer-{layer:02d}.safetensors"


def _required(given: Mapping[str, Any], name: str) -> Any:
    if name not in given:
        raise MechsteerError(
            f"A cell of a steering sweep needs {name!r}; this one has {', '.join(given) or 'nothing'}."
        )
    return given[name]


def _flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise MechsteerError(f"{name} must be true or false, got {value!r}.")
    return value


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise MechsteerError(f"{name} must be a number, got {value!r}.")
    return finite(name, value)
