"""Vectors of the tuned model in the model it was tuned from, and in models between the two.

The paper takes vector and mean projection from the instruction-tuned model and chooses the layer by validation on the
base model, where a layer passes if it has no more bad outputs than there are without steering. Between the two models
stand averages of their weights (:func:`mechsteer.models.averaging.average`; ours): ``share`` is the part of the tuning
that is in the model, 0 the base.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mechsteer.models import model_info
from mechsteer.models.averaging import average
from mechsteer.studies.instruction_vectors.bench import FORMATS, WITH, WITHOUT, Bench, Prompts, Setting
from mechsteer.studies.instruction_vectors.choose import NONE, choose, difference_of, percentages
from mechsteer.studies.instruction_vectors.coefficients import LENGTHS
from mechsteer.studies.instruction_vectors.tables import Choices, Rows, changes
from mechsteer.studies.instruction_vectors.vectors import Steering

if TYPE_CHECKING:
    import pandas as pd

Cells = Mapping[str, "tuple[int, pd.DataFrame]"]
"""By vector: the layer that it acts at, and the sample rows under it."""


def shortened(tuned: Bench, base: Any, prompts: Prompts, steering: Steering, choices: Choices) -> "pd.DataFrame":
    """The tuned model's conciseness vector in the base model, by coefficient, without an instruction (Figure 7 c).

    One row a step, in norms of the vector, at its layer in the tuned model (the first where none was chosen): words of
    an answer (mean, median), and fidelity.
    """
    import pandas as pd

    bench, theirs = replace(tuned, model=base, executor=None), replace(steering, transfer=True)
    choice, task = choices[WITHOUT.name, "length"], prompts.tested("length")
    layer = choice.layer if choice.steers else steering.layers[0]
    vector, rows = theirs.vectors("length")[layer], []
    for step in (0.0, *LENGTHS):
        table = bench.measure(task, theirs.added(vector, step) if step else None)
        counts = pd.Series([len(str(text).split()) for text in table["output"]])
        sizes = {"words_mean": float(counts.mean()), "words_median": float(counts.median())}
        rows.append({"layer": layer, "step": step, **sizes, **percentages(table)})
    info = model_info(base)
    return pd.DataFrame(rows).assign(model_name=info.name, model_fingerprint=info.fingerprint)


def transfer(
    tuned: Bench, base: Any, shares: Sequence[float], prompts: Prompts, steering: Steering, kinds: Sequence[str]
) -> "pd.DataFrame":
    """Formats, without and with their instruction: unsteered, with the model's own vector, with the tuned model's.

    One row a share, setting, kind and vector, and one of the prompts of all kinds (``all``); ``model_name`` is the
    model that was measured. ``change_pp`` is what a vector changes in adherence on the same prompts, and
    ``beyond_own_pp``, in the rows of the tuned model's vector, what it gives beyond the model's own; with 95 %
    intervals by topic.
    """
    import pandas as pd

    rows: Rows = []
    for share in shares:
        model = average(base, tuned.model, share) if share else base
        bench = replace(tuned, model=model, executor=None)  # workers cannot load a model between two
        measured = {"model_name": model_info(model).name, "model_fingerprint": model_info(model).fingerprint}
        own = Steering(bench, prompts, steering.layers, steering.scope)
        sources = {"own": own, "tuned": replace(steering, transfer=True)}
        for setting in (WITHOUT, WITH):
            found = {kind: _by_vector(bench, prompts, sources, kind, setting) for kind in kinds if kind in FORMATS}
            if found:
                found["all"] = _pooled(list(found.values()))
            for kind, cells in found.items():
                where = {"share": share, "setting": setting.name, "kind": kind, **measured}
                rows += [where | row for row in _rows(cells)]
    return pd.DataFrame(rows)


def _by_vector(bench: Bench, prompts: Prompts, sources: Mapping[str, Steering], kind: str, setting: Setting) -> Cells:
    """The layer that validation chooses for each vector of a kind, and the test prompts under it."""
    task, validated = prompts.tested(kind, setting), prompts.validated(kind, setting)
    plain = bench.measure(task)
    found = {"none": (NONE, plain)}
    for name, vectors in sources.items():
        make = vectors.make(kind)
        chosen, _ = choose(bench, validated, make, vectors.options(kind), tolerate_unsteered=True)
        found[name] = chosen.layer, bench.measure(task, make(chosen, task)) if chosen.steers else plain
    return found


def _pooled(cells: Sequence[Cells]) -> Cells:
    """The prompts of all kinds together; no one layer."""
    import pandas as pd

    return {name: (NONE, pd.concat([found[name][1] for found in cells], ignore_index=True)) for name in cells[0]}


def _rows(cells: Cells) -> Rows:
    """A row a vector."""
    plain, rows = cells["none"][1], []
    for name, (layer, table) in cells.items():
        row = {"vector": name, "layer": layer, **percentages(table), **changes(plain, table)}
        row |= difference_of(table, plain["adherence"], table["adherence"], "change")
        if name == "tuned":
            row |= difference_of(table, cells["own"][1]["adherence"], table["adherence"], "beyond_own")
        rows.append(row)
    return rows
