"""Four questions that the instruction-vector paper (arXiv 2410.12877) leaves open. Ours; no paper has them.

- ``numbers``: how many pairs does a vector need, and how diverse? (:mod:`mechsteer.studies.questions.numbers`)
- ``architectures``: does a vector cross from one model to another?
  (:mod:`mechsteer.studies.questions.architectures`)
- ``compound``: how are two instructions followed at once? (:mod:`mechsteer.studies.questions.compound`)
- ``linear``: is an instruction a constant shift of the state? (:mod:`mechsteer.studies.questions.linear`)

Prompts are the bundled instruction task's, without their instructions: vectors come from validation topics, layers and
strengths are chosen on others of them (:mod:`mechsteer.studies.questions.places`), and all that is reported is from the
evaluation topics. ``followed`` is the strict checker, ``quality`` fidelity where the model knows the bundled world,
else whether the answer has not collapsed, ``value`` their product. Each question has its null beside it; ``summary``
has what was found as claims with 95 % intervals, of which those are ``shown`` that leave out what would mean nothing.
Intervals are of each claim by itself: among many some leave it out by chance.
"""

import os
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mechsteer.errors import MechsteerError, listed, one_of, positive_int
from mechsteer.files import writable_dir
from mechsteer.models import is_encoder_decoder, load, model_info, provenance
from mechsteer.studies.core.bench import Bench, decoder_only, opened
from mechsteer.studies.core.result import Result, finished, of_model
from mechsteer.studies.questions import architectures, compound, linear, numbers, pools
from mechsteer.studies.questions.architectures import Crossing
from mechsteer.studies.questions.bench import Setup
from mechsteer.studies.questions.places import choose
from mechsteer.studies.sweep.executors import Executor
from mechsteer.tasks import instructions

if TYPE_CHECKING:
    import pandas as pd

NAME = "questions"
PARTS = {part.NAME: part for part in (numbers, architectures, compound, linear)}
BUNDLED, BASE = "organism:instruct-llama", "organism:instruct-llama-base"


def run(
    model: Any = BUNDLED,
    out: str | os.PathLike[str] = "results/questions",
    *,
    only: str | Sequence[str] | None = None,
    others: Sequence[Any] | None = None,
    kinds: str | Sequence[str] | None = None,
    n: int = 14,
    n_validation: int = 8,
    draws: int = 5,
    pairs: int = 64,
    batch_size: int = 64,
    draw: bool = True,
    executor: Executor | None = None,
    progress: bool = True,
) -> Result:
    """Run the study; what was computed before in the same folder is not computed again.

    Args:
        model: A loaded decoder-only model, or a name for :func:`mechsteer.load`.
        out: The folder for tables, figures, states and vectors.
        only: Some of ``numbers``, ``architectures``, ``compound`` and ``linear``. Default: all.
        others: Models that vectors cross from and to, loaded or by name, for ``architectures``; they may have other
            tokenizers and sizes. Default: the bundled models of the same world other than ``model``.
        kinds: Kinds of instructions. Default: all but ``keyword``, and without ``french`` (whose checker knows only
            the bundled world's words) for a model that does not know the bundled world.
        n: Test prompts of each kind, at most 28.
        n_validation: Prompts of each kind that layers and strengths are chosen on.
        draws: How often pairs are drawn, for ``numbers``.
        pairs: The most pairs of a vector.
        batch_size: Prompts computed together; does not change the results.
        draw: Draw the figures; without, ``Result.figures()`` draws them.
        executor: Computes cells in workers: see :mod:`mechsteer.studies.core.bench`.
        progress: Show a bar.

    Returns:
        ``summary`` (question, claim, estimate, low, high, unit, reference, shown, note), ``places`` (what was tried and
        chosen, and whether at an end of a ladder), and the tables of each part, named after it.

    Raises:
        MechsteerError: for an encoder-decoder, unknown parts or kinds, kinds that are not enough for a part that is
            named, other bad arguments, or a folder that cannot be written to.

    Warns:
        UserWarning: if ``compound`` is left out because no two kinds make one of its pairs.
    """
    sizes = {"n": n, "n_validation": n_validation, "draws": draws, "pairs": pairs, "batch_size": batch_size}
    for name, value in sizes.items():
        positive_int(name, value)
    if pairs < 2 or n_validation > 20:
        raise MechsteerError(
            "pairs must be at least 2 and n_validation at most 20, or no topics are left for vectors; got "
            f"pairs={pairs} and n_validation={n_validation}."
        )
    most = len(instructions("upper").samples)
    if n > most:
        raise MechsteerError(f"There are {most} test prompts of each kind, n={n} were asked for.")
    chosen = pools.check_kinds(pools.KINDS if kinds is None else kinds)
    parts = _able(_parts(only), chosen, named=only is not None)
    loaded = decoder_only(model)
    crossed = _others(loaded, others) if architectures.NAME in parts else []
    folder = writable_dir(out)
    with opened(NAME, loaded, folder, batch_size=batch_size, progress=progress, executor=executor) as bench:
        setup = Setup(bench, chosen, n, n_validation, draws, pairs)
        if kinds is None and not setup.knows:
            setup = Setup(bench, tuple(k for k in chosen if k != "french"), n, n_validation, draws, pairs)
        tables = of_model(_tables(setup, parts, crossed), loaded, data_hash=setup.task().data_hash)
    about = {**sizes, "kinds": setup.kinds, "parts": parts, **provenance(loaded)}
    return finished(NAME, folder, about, tables, draw=draw)


def _parts(only: str | Sequence[str] | None) -> list[str]:
    """The parts, in their order.

    Raises:
        MechsteerError: for an unknown one, or none.
    """
    given = list(PARTS) if only is None else [only] if isinstance(only, str) else list(only)
    for name in given:
        one_of("part of the study", name, PARTS)
    if not given:
        raise MechsteerError(f"only must name at least one of {', '.join(PARTS)}, got none.")
    return [name for name in PARTS if name in given]


def _able(parts: list[str], kinds: Sequence[str], *, named: bool) -> list[str]:
    """The parts that these kinds are enough for.

    Raises:
        MechsteerError: if one that was named is not.

    Warns:
        UserWarning: if one that was not is left out.
    """
    if compound.NAME not in parts or any(set(pair) <= set(kinds) for pair in compound.PAIRS):
        return parts
    pairs = ", ".join(" and ".join(pair) for pair in compound.PAIRS)
    need = f"compound needs both kinds of a pair ({pairs}), got kinds={tuple(kinds)}"
    if named:
        raise MechsteerError(f"{need}.")
    warnings.warn(f"{need}; it is left out.", stacklevel=3)
    return [part for part in parts if part != compound.NAME]


def _tables(setup: Setup, parts: Sequence[str], others: Sequence[Any]) -> "dict[str, pd.DataFrame]":
    import pandas as pd

    stage = setup.bench.bar.set_postfix_str
    stage("places")
    places, tried = choose(setup)
    tables: dict[str, pd.DataFrame] = {}
    for name in parts:
        stage(name)
        if name == architectures.NAME:
            tables |= architectures.run(_crossings(setup, places, others))
        else:
            tables |= {n.NAME: n for n in (numbers, compound, linear)}[name].run(setup, places)
    found = [claim for name in parts for claim in PARTS[name].findings(tables)]
    return {"summary": pd.DataFrame(found), "places": tried, **tables}


def _crossings(setup: Setup, places: Any, others: Sequence[Any]) -> list[Crossing]:
    """From every other model to this one, and from this one to it; a model with the same weights once."""
    found = []
    for other in others:
        if model_info(other).fingerprint == model_info(setup.model).fingerprint:
            found.append(Crossing(setup, setup, places))
            continue
        bench = Bench(other, setup.bench.folder, setup.bench.batch_size, setup.bench.bar, setup.bench.executor)
        there = Setup(bench, setup.kinds, setup.n, setup.n_validation, setup.draws, setup.pairs)
        found += [Crossing(there, setup, places), Crossing(setup, there, choose(there)[0])]
    return found


def _others(model: Any, given: Sequence[Any] | None) -> list[Any]:
    """The models that vectors cross from and to; by default the bundled ones whose prompts make sense.

    Raises:
        MechsteerError: for none, an encoder-decoder, or what cannot be loaded.
    """
    names = (
        [name for name in (BUNDLED, BASE) if name != model_info(model).name]
        if given is None
        else listed("others", given)
    )
    if not names:
        raise MechsteerError("architectures needs a model that vectors cross from and to; others has none.")
    found = [load(other) if isinstance(other, str) else other for other in names]
    for other in found:
        if is_encoder_decoder(other):
            raise MechsteerError(f"others must be decoder-only models; {model_info(other).name!r} is not.")
    return found
