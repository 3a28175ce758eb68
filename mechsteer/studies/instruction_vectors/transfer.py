"""Vectors of the tuned model in the model it was tuned from, and in models between the two.

The paper takes vector and mean projection from the instruction-tuned model and chooses the layer by validation on the
base model, where a layer passes if it has no more bad outputs than there are without steering. Between the two models
stand averages of their weights (:func:`mechsteer.models.averaging.average`; ours): ``share`` is the part of the tuning
that is in the model, 0 the base.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mechsteer.models import model_info
from mechsteer.models.averaging import average
from mechsteer.studies.instruction_vectors.bench import FORMATS, WITH, WITHOUT, Bench, Prompts
from mechsteer.studies.instruction_vectors.choose import choose, percentages
from mechsteer.studies.instruction_vectors.coefficients import LENGTHS
from mechsteer.studies.instruction_vectors.tables import Choices, Rows, changes
from mechsteer.studies.instruction_vectors.vectors import Steering

if TYPE_CHECKING:
    import pandas as pd


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

    One row a share, setting, kind and vector; ``model_name`` is the model that was measured.
    """
    import pandas as pd

    rows: Rows = []
    for share in shares:
        model = average(base, tuned.model, share) if share else base
        bench = replace(tuned, model=model, executor=None)  # workers cannot load a model between two
        measured = {"model_name": model_info(model).name, "model_fingerprint": model_info(model).fingerprint}
        own = Steering(bench, prompts, steering.layers, steering.scope)
        theirs = replace(steering, transfer=True)
        for kind in [kind for kind in kinds if kind in FORMATS]:
            for setting in (WITHOUT, WITH):
                task = prompts.tested(kind, setting)
                plain = bench.measure(task)
                where = {"share": share, "setting": setting.name, "kind": kind, **measured}
                rows.append({**where, "vector": "none", "layer": -1, **percentages(plain), **changes(plain, plain)})
                for name, vectors in (("own", own), ("tuned", theirs)):
                    make = vectors.make(kind)
                    chosen, _ = choose(
                        bench, prompts.validated(kind, setting), make, own.options(kind), tolerate_unsteered=True
                    )
                    steered = bench.measure(task, make(chosen, task)) if chosen.steers else plain
                    rows.append(
                        {
                            **where,
                            "vector": name,
                            "layer": chosen.layer,
                            **percentages(steered),
                            **changes(plain, steered),
                        }
                    )
    return pd.DataFrame(rows)
