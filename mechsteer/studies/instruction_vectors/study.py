"""Instruction vectors (arXiv 2410.12877): does a difference in means make a model follow, and at what cost?

Paper: "Improving Instruction-Following in Language Models through Activation Steering". Its pipeline on prompts of our
own: one vector a kind of instruction from pairs with and without it; a layer for each kind and setting, chosen on
validation prompts with a filter of bad outputs; formats by projection on the mean of the instructed states, a limit of
words and a word by addition, excluding a word by subtraction; several at once; vectors of a tuned model in its base.

As in the paper: the last token of the prompt for vectors, every position (``scope="all"``) for steering, the grid of
every second layer from a fifth on and no steering, ties to no steering and then to the lowest layer, greedy decoding,
McNemar's test. Different: prompts and checkers are those of :func:`mechsteer.tasks.instructions` and not
IFEval; bad outputs are found by repetition unless a perplexity model is given; quality is the organism's fidelity and a
perplexity ratio in place of a judge; added vectors choose their coefficient on the same validation prompts, in units of
the vector's norm. The released code's bugs (the length vector read from the wrong layer and, of one final token, from
the wrong axis) are not repeated.

``perplexity_ratio``: the perplexity of an output, under the unsteered model that is given the instruction, over that of
the model's own instructed answer; 1 is as likely as that, above 1 less likely. Geometric means.
"""

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tqdm.auto import tqdm

from mechsteer.analysis.quality import perplexities
from mechsteer.analysis.similarity import similarity
from mechsteer.errors import MechsteerError, finite, listed, positive_int
from mechsteer.files import writable_dir
from mechsteer.identity import cell_key
from mechsteer.models import load, model_info, provenance, stacks, taken_once
from mechsteer.steering.scope import make_scope
from mechsteer.studies.core.bench import decoder_only
from mechsteer.studies.core.cells import cell
from mechsteer.studies.core.published import published
from mechsteer.studies.core.result import Result, finished
from mechsteer.studies.instruction_vectors.bench import FORMATS, Bench, Filter, Prompts
from mechsteer.studies.instruction_vectors.choose import grid
from mechsteer.studies.instruction_vectors.coefficients import exactly, length, weights
from mechsteer.studies.instruction_vectors.lengths import lengths
from mechsteer.studies.instruction_vectors.published import reference
from mechsteer.studies.instruction_vectors.tables import by_kind, choose_all, scopes, summarise
from mechsteer.studies.instruction_vectors.transfer import shortened, transfer
from mechsteer.studies.instruction_vectors.vectors import Steering
from mechsteer.studies.instruction_vectors.words import by_coefficient, composition, words
from mechsteer.studies.sweep.executors import Executor, kept
from mechsteer.tasks import Instructions, instructions
from mechsteer.tasks.checkers import KINDS

if TYPE_CHECKING:
    import pandas as pd

NAME = "steer-instruct"
TUNED, BASE = "organism:instruct-llama", "organism:instruct-llama-base"
SHARES = (0.0, 0.25, 0.5, 0.75)

SAME_AS: Mapping[str, str] = {
    "upper": "change_case:english_capital",
    "lower": "change_case:english_lowercase",
    "list": "detectable_format:number_bullet_lists",
    "json": "detectable_format:json_format",
    "french": "language:response_language",
}
"""IFEval's instruction that is most like each of our formats."""


def run(
    model: Any = TUNED,
    out: str | os.PathLike[str] = "results/steer-instruct",
    *,
    kinds: str | Sequence[str] | None = None,
    validation: Instructions | None = None,
    test: Instructions | None = None,
    n: int = 28,
    n_validation: int = 8,
    notes: int = 24,
    scope: str = "all",
    perplexity_model: str | None = None,
    base: Any = None,
    shares: Sequence[float] | None = None,
    batch_size: int = 64,
    draw: bool = True,
    executor: Executor | None = None,
    progress: bool = True,
) -> Result:
    """Run the study; what was computed before in the same folder is not computed again.

    Args:
        model: A loaded decoder-only model, or a name for :func:`mechsteer.load`.
        out: The folder for tables, figures and vectors.
        kinds: Kinds of instructions (or one), of those of :func:`mechsteer.tasks.instructions`; default: all.
        validation: Prompts that vectors and layers come from; default: the bundled validation split. A kind's first
            ``n_validation`` choose its layer, the others make its vector.
        test: Prompts to report; default: the bundled evaluation split. The two splits may not share questions.
        n: The most test prompts of each kind.
        n_validation: Prompts of each kind that choose its layer.
        notes: Notes between instruction and question in a third setting, of the bundled prompts only; 0 for none.
        scope: Positions that are steered.
        perplexity_model: A second language model, by name or path: outputs with a perplexity below 2.5 are bad, as in
            the paper (which has GPT-2). Default: a filter of repetition that needs no model.
        base: The model that ``model`` was tuned from, loaded or by name, for the table ``transfer``. Default: the
            bundled one for the bundled model, else none.
        shares: Models between the base (0) and ``model`` (1) to try its vectors on. Default: 0, and for the bundled
            model also 0.25, 0.5 and 0.75.
        batch_size: Prompts computed together.
        draw: Draw the figures; without, ``Result.figures()`` draws them.
        executor: Computes cells in workers: see :mod:`mechsteer.studies.core.bench`.
        progress: Show a bar.

    Returns:
        The tables: ``summary`` (means over kinds by setting), ``by_kind``, ``layers`` (validation), ``weights``
        (dynamic and constant), ``scopes``, ``length`` (at most n words), ``exactly`` (n sentences), ``lengths`` (at
        most and exactly n, by conciseness and by a vector of each n), ``words``, ``exclusion`` (by coefficient),
        ``composition``, ``transfer`` and ``shortened`` (in the base model), ``cosine``, ``samples``; ``reference`` (the
        paper's numbers, ours of the same kind beside them) and ``published`` (by instruction) for the paper's models.
        Tables that need a kind or a base that is not there are left out. Percentages of prompts have 95 % intervals by
        topic (``_low``, ``_high``); ``edge``: no stronger coefficient was tried; ``p_adjusted``: Holm's.

    Raises:
        MechsteerError: for an unknown kind, splits that overlap (with the number of prompts), too few prompts (with the
            numbers), other bad arguments, or a folder that cannot be written to.
    """
    kinds = [kinds] if isinstance(kinds, str) else kinds
    chosen = tuple(dict.fromkeys(KINDS if kinds is None else kinds))
    instructions(chosen)  # refuses unknown kinds
    for name, value in (("n", n), ("n_validation", n_validation), ("batch_size", batch_size)):
        positive_int(name, value)
    make_scope(scope)
    prompts = Prompts(validation, test, n, n_validation, notes)
    prompts.check(chosen)
    loaded = decoder_only(model)
    base, shares = _base(loaded, base, shares)
    if perplexity_model is not None:
        perplexities(perplexity_model, ["a text"])  # refuses a model that cannot be read, before anything is measured
    folder = writable_dir(out)
    settings = {"scope": scope, "n": n, "n_validation": n_validation, "notes": notes, "filter": perplexity_model}
    about = {**settings, **provenance(loaded)}
    with taken_once(), tqdm(desc=NAME, unit="cell", disable=not progress) as bar, kept(executor) as workers:
        bench = Bench(loaded, folder, batch_size, bar, Filter.by(perplexity_model), scope, workers)
        tables = _tables(bench, prompts, chosen, base, shares)
    for name, table in tables.items():
        extra = {key: value for key, value in provenance(loaded).items() if key not in table.columns}
        tables[name] = table.assign(**extra, scope=scope) if "scope" not in table.columns else table.assign(**extra)
    return finished(NAME, folder, about, tables, draw=draw)


def _tables(
    bench: Bench, prompts: Prompts, kinds: Sequence[str], base: Any, shares: Sequence[float]
) -> "dict[str, pd.DataFrame]":
    import pandas as pd

    steering = Steering(bench, prompts, grid(stacks(bench.model)["blocks"]), bench.scope)
    stage = bench.bar.set_postfix_str
    stage("choosing layers")
    choices, validated = choose_all(bench, prompts, steering, kinds)
    stage("main table")
    main, samples = by_kind(bench, prompts, steering, kinds, choices)
    tables = {"summary": summarise(main, samples), "by_kind": main}
    if any(kind in FORMATS for kind in kinds):
        stage("weights and scopes")
        tables["weights"] = weights(bench, prompts, steering, kinds, choices)
        tables["scopes"] = scopes(bench, prompts, steering, kinds)
    if "length" in kinds:
        stage("length")
        tables["length"] = length(bench, prompts, steering, choices)
        tables["exactly"] = exactly(bench, prompts, steering, choices)
        stage("one vector a length")
        tables["lengths"] = lengths(bench, prompts, steering, choices)
    exclusion = None
    if "keyword" in kinds:
        stage("words")
        tables["words"], exclusion, tried = words(bench, prompts, steering, choices)
        validated += tried
        tables["exclusion"] = by_coefficient(bench, prompts, steering, exclusion)
    stage("composition")
    tables["composition"] = composition(bench, prompts, steering, kinds, choices, exclusion)
    stage("cosine")
    tables["cosine"] = _cosine(bench, prompts, kinds)
    if base is not None:
        stage("transfer")
        tables["transfer"] = transfer(bench, base, shares, prompts, steering, kinds)
        if "length" in kinds:
            tables["shortened"] = shortened(bench, base, prompts, steering, choices)
    tables |= {"layers": pd.DataFrame(validated), "samples": samples}
    tables["reference"] = reference(tables)
    paper = _published(model_info(bench.model).name)
    return tables if paper is None else {**tables, "published": paper}


def _cosine(bench: Bench, prompts: Prompts, kinds: Sequence[str]) -> "pd.DataFrame":
    """The paper's Figure 2: cosine of last-token states by layer and relation, for each kind; see ``ms.similarity``."""
    import pandas as pd

    parts = []
    for kind in kinds:
        task = prompts.estimated(kind)
        key = cell_key(bench.model, task, options="cosine")
        pairs = bench.pairs(task.samples)
        labels = [kind] * len(pairs)
        table = cell(bench.folder, key, lambda p=pairs, i=labels: similarity(bench.model, p, instructions=i))
        parts.append(table.assign(kind=kind))
    return pd.concat(parts, ignore_index=True)


def _base(model: Any, base: Any, shares: Sequence[float] | None) -> tuple[Any, list[float]]:
    """The base model and the shares to try; nothing where there is no base."""
    bundled = model_info(model).name == TUNED
    if base is None and not bundled:
        if shares is not None:
            raise MechsteerError(f"shares={list(shares)} are of the way from a base model; base= is missing.")
        return None, []
    found = BASE if base is None else base
    default = SHARES if base is None else (0.0,)
    wanted = [finite("share", share) for share in (default if shares is None else listed("shares", shares))]
    if any(not 0 <= share < 1 for share in wanted):
        raise MechsteerError(f"shares must be from 0 (the base) to below 1 (the model), got {wanted}.")
    return load(found) if isinstance(found, str) else found, wanted


def _published(name: str) -> "pd.DataFrame | None":
    """The paper's accuracies for this model by instruction, and over all; ``kind`` is ours where there is one."""
    import pandas as pd

    every = published("steer_instruct_format")
    every = every[(every["model"] == name) & (every["scoring"] == "loose")]
    if every.empty:
        return None
    each = published("steer_instruct_format_by_instruction")
    each = each[each["model"] == name]
    each = each.assign(accuracy_percent=100 * each["accuracy"]).drop(columns="accuracy")
    ours = {theirs: kind for kind, theirs in SAME_AS.items()}
    table = pd.concat([every.assign(instruction="all"), each], ignore_index=True)
    return table.assign(kind=table["instruction"].map(ours).fillna(""))
