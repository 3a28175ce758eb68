"""Composition: which ways to steer help each other, and which are in each other's way. Ours; no paper has it.

Each of the papers that this package follows steers in one way. Here all pairs of six are measured on one model:
difference-in-means vectors, gradient vectors, sparse vectors at head outputs, GUIDE's attention bias, DIRECTER's key
scaling under its gate, and SAE features. A vector, and a set of features, is of one kind of instruction and acts on the
prompts of that kind. The task is as in :mod:`mechsteer.studies.directer`: instructions with so many notes after them
that the model follows only some; ``keyword`` is left out, because its vector would be one of a word.

Three sets of prompts: vectors and features are learned from some validation prompts, layers and strengths are chosen on
others, and all that is reported is from the evaluation prompts. Strengths are chosen for each way alone and not tuned
for pairs. Because one way alone may leave a pair nothing to add, there are two settings: ``chosen`` strengths (best
average of adherence and fidelity) and ``half`` strengths (weaker ones, with about half of the chosen one's gain in
adherence on the prompts to choose on), where a pair has room.

For every pair A, B and every measure m, on the same prompts, with 95 % bootstrap intervals (of each row by itself;
among many rows some differ from 0 by chance):

- gain = m(A + B) - max(m(A), m(B)), the larger one of each resample;
- excess = m(A + B) - m(A) - m(B) + m(0): what is beyond the sum of both gains. Shares end at 100 %, so excess is
  negative where the gains together would pass it.

Interference is how far the change of the first new token's logits is from additive. With d the logits' change, each
prompt's logits centred over the vocabulary (a constant changes no probability),

    interference = |d(A + B) - d(A) - d(B)| / (|d(A)| + |d(B)|).

It is 0 where the changes add up and 1/2 where A + B does what A does, and B does that too. Of the gate, logits are
those of the trial that it accepts, or the unsteered ones; where it opens for the pair alone, interference may pass 1.

Order: A + B acts from left to right where both act at one hook point, which is a property of the library; elsewhere the
order does not matter. Pairs are in the order of :data:`mechsteer.studies.compose.methods.METHODS`, so vectors come
before features, and the SAE reads the steered stream. Under DIRECTER the other way acts in all passes, the gate's
unsteered ones too, so the gate asks whether a token is plausible for the model as steered by it. ``orders`` has both
orders of a vector and features at the SAE's hook point, for ``set`` (where order matters) and ``add`` (where it should
not).

Different from the papers: vectors and features act at the last prompt token alone, where the states were measured.
"""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mechsteer.errors import MechsteerError, positive_int
from mechsteer.files import writable_dir
from mechsteer.models import model_info, provenance
from mechsteer.steering import load_sae
from mechsteer.steering.saes import as_sae, bundled_saes, check_sae, site_of
from mechsteer.studies.compose import tables as parts
from mechsteer.studies.compose.controls import controls
from mechsteer.studies.compose.methods import KINDS, ways
from mechsteer.studies.core.bench import decoder_only, opened
from mechsteer.studies.core.result import Result, finished, of_model
from mechsteer.studies.directer.bench import Setup
from mechsteer.studies.sweep.executors import Executor
from mechsteer.tasks import instructions
from mechsteer.tasks.instructions import named_kinds

if TYPE_CHECKING:
    import pandas as pd

NAME = "compose"


def run(
    model: Any = "organism:instruct-llama",
    out: str | os.PathLike[str] = "results/compose",
    *,
    sae: Any = None,
    kinds: str | Sequence[str] | None = None,
    notes: int = 24,
    n: int = 14,
    n_validation: int = 8,
    batch_size: int = 128,
    draw: bool = True,
    executor: Executor | None = None,
    progress: bool = True,
) -> Result:
    """Run the study; what was computed before in the same folder is not computed again.

    Args:
        model: A loaded decoder-only model, or a name for :func:`mechsteer.load`.
        out: The folder for tables and figures.
        sae: A SAELens SAE of the model's residual stream, or a path or name for :func:`mechsteer.load_sae`. Default:
            the bundled one of the organism.
        kinds: Kinds of instructions, or one; default: all but ``keyword``.
        notes: How many notes stand between instruction and question.
        n: Evaluation prompts of each kind.
        n_validation: Validation prompts of each kind to choose layers and strengths on; vectors are learned from the
            others.
        batch_size: Prompts computed together.
        draw: Draw the figures; without, ``Result.figures()`` draws them.
        executor: Computes cells in workers: see :mod:`mechsteer.studies.core.bench`.
        progress: Show a bar.

    Returns:
        The tables; ``adherence_percent``, ``fidelity_percent`` and ``average_percent`` have intervals (``_low``,
        ``_high``). ``summary``: by setting (``chosen``, ``half``), first and second (second is empty for one way alone,
        both for none). ``choice``: method, stage (``layer``, ``strength``), layer, strength (see
        :data:`mechsteer.studies.compose.methods.METHODS`) on the choosing prompts, and which are ``chosen`` and
        ``half``. ``gains``: by setting, pair and measure gain_pp against the better single, excess_pp beyond the sum of
        gains, with intervals and verdicts. ``controls``: at half strengths, each pair minus the better of its two alone
        at the same dose, see :mod:`mechsteer.studies.compose.controls`. ``interference``: by setting and pair, with
        ``overlap`` (cosine of d(A) and d(B)), the changes' norms, and ``undefined`` (prompts that neither changes).
        ``orders``: vector, operation, measure, both orders' values and their paired difference; ``logit_difference`` is
        |d(A + B) - d(B + A)| / (|d(A)| + |d(B)|). ``samples``: answers side by side.

    Raises:
        MechsteerError: for an encoder-decoder, a model without an SAE, other bad arguments, or a folder that cannot be
            written to.
    """
    for name, value in {"n": n, "n_validation": n_validation, "batch_size": batch_size}.items():
        positive_int(name, value)
    chosen = KINDS if kinds is None else named_kinds(kinds)
    if "keyword" in chosen:
        raise MechsteerError("The kind 'keyword' has no vector: every prompt asks for a word of its own.")
    instructions(chosen, notes=notes, n=n)  # refuses what is wrong before anything is written
    most = min(len(instructions(kind, split="validation").samples) for kind in chosen) - 2
    if n_validation > most:
        raise MechsteerError(f"n_validation must be at most {most}, or no two prompts are left to learn from.")
    loaded = decoder_only(model)
    made = _sae(loaded, sae)
    folder = writable_dir(out)
    settings = {"kinds": chosen, "notes": notes, "n": n, "n_validation": n_validation, "sae_site": site_of(made, None)}
    about = {**settings, **provenance(loaded)}
    with opened(NAME, loaded, folder, batch_size=batch_size, progress=progress, executor=executor) as bench:
        setup = Setup(bench, chosen, notes, n, n_validation)
        tables = of_model(_tables(setup, made), loaded, data_hash=setup.task().data_hash)
    return finished(NAME, folder, about, tables, draw=draw)


def _sae(model: Any, sae: Any) -> Any:
    """The SAE, which must fit the model."""
    name = model_info(model).name
    if sae is None:
        if name.removeprefix("organism:") not in bundled_saes():
            raise MechsteerError(f"This study needs an SAE of {name!r}: give sae=, or --sae on the command line.")
        sae = name
    made = as_sae(load_sae(sae) if isinstance(sae, str | os.PathLike) else sae)
    check_sae(made, model, site_of(made, None), transfer=False)
    return made


def _tables(setup: Setup, sae: Any) -> "dict[str, pd.DataFrame]":
    made = ways(setup, sae)
    choice = parts.chosen(setup, made)
    strengths = parts.settings(choice)
    summary = parts.summary(setup, made, strengths)
    return {
        "summary": summary,
        "choice": choice,
        "gains": parts.gains(setup, made, strengths),
        "interference": parts.interference(setup, made, strengths),
        "orders": parts.orders(setup, made, strengths["chosen"]),
        "controls": controls(setup, made, strengths["half"], parts.PAIRS),
        "samples": parts.answers(setup, made, strengths, summary),
    }
