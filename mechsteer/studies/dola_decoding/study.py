"""DoLa against greedy decoding, by category of instruction (arXiv 2512.03803v2, Table 1, Figures 3 and 5).

The paper decodes the 541 prompts of IFEval greedily and with DoLa, both with a repetition penalty of 1.2, and counts
followed instructions by category; and it follows the ranks of three tokens through the layers at one step. Its numbers
come from the released code, so that form of DoLa is run beside the one that the paper writes down. IFEval's data is not
bundled: give the file. Without it, the bundled organisms' own tasks are run:

- T5: MemoTrap, where the instruction goes against memory; recall without an instruction; copying.
- T5 and a file of traps: MemoTrap as a choice too (:mod:`mechsteer.tasks.memotrap_choice`), which the bundled model was
  never shown.
- Instruction followers: every kind of instruction, alone and with notes after it, which make it harder to follow.

For every score: percent with Wilson's 95 % interval, and against the baseline on the same samples in how many it
increased and decreased, with the exact two-sided sign test (McNemar's, for scores that are right or wrong).
"""

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mechsteer.analysis.mcnemar import exact_p
from mechsteer.decoding import DoLa, Greedy, Strategy
from mechsteer.errors import MechsteerError, positive_int
from mechsteer.evaluation import Task
from mechsteer.files import writable_dir
from mechsteer.models import load, model_info, provenance
from mechsteer.stats import wilson
from mechsteer.studies.core.bench import Bench, Wanted, opened
from mechsteer.studies.core.published import published
from mechsteer.studies.core.result import Result, finished
from mechsteer.studies.dola_decoding.lengths import lengths
from mechsteer.studies.dola_decoding.word_ranks import tracked
from mechsteer.studies.sweep.executors import Executor
from mechsteer.tasks import IFEval, Instructions, MemoTrap, copying, ifeval, instructions, memotrap, recall
from mechsteer.tasks.ifeval import IFEvalPrompt, followed, require_checkers
from mechsteer.tasks.memotrap_choice import MemoTrapChoice, memotrap_choice

if TYPE_CHECKING:
    import pandas as pd

NAME = "dola-decoding"
ORGANISMS = ("organism:trap-t5", "organism:instruct-llama")
METHODS: dict[str, Strategy] = {
    "baseline": Greedy(repetition_penalty=1.2),
    "dola": DoLa(compat="released"),
    "dola, paper's equations": DoLa(),
}
"""What is compared, by name; ``"baseline"`` and ``"dola"`` are what the paper's numbers are of."""

NOTES = (0, 24)
IFEVAL_NEW_TOKENS = 1024  # the authors' limit, to which their code adds the prompt's length


def run(
    models: Any = ORGANISMS,
    out: str | os.PathLike[str] = "results/dola-decoding",
    *,
    data: str | os.PathLike[str] | None = None,
    traps: str | os.PathLike[str] | None = None,
    n: int | None = None,
    batch_size: int = 128,
    draw: bool = True,
    executor: Executor | None = None,
    progress: bool = True,
) -> Result:
    """Run the study; what was computed before in the same folder is not computed again.

    Args:
        models: One or several loaded models or names for :func:`mechsteer.load`. Default: the bundled organisms.
        out: The folder for tables and figures.
        data: IFEval's JSONL file. Default: none; the organisms' own tasks.
        traps: Traps in MemoTrap's public CSV format; default: the bundled ones.
        n: The most samples of each task, and of each kind of instruction; default: all.
        batch_size: Prompts computed together.
        draw: Draw the figures; without, ``Result.figures()`` draws them.
        executor: Computes cells in workers: see :mod:`mechsteer.studies.core.bench`.
        progress: Show a bar.

    Returns:
        The tables. ``summary``: a row a model, task, level (``task``, ``category`` or ``instruction``), group, scoring
        and method, with ``percent``, ``low_percent``, ``high_percent``, ``n``, ``increased``, ``decreased``,
        ``p_value`` and ``published_percent``. ``lengths``: of the answers. ``samples``: every output with its scores.
        ``tracking``: see :func:`mechsteer.studies.dola_decoding.word_ranks.tracked`.

    Raises:
        MechsteerError: for bad arguments, unreadable data, a missing extra for IFEval, or a folder that cannot be
            written to.
    """
    import pandas as pd

    positive_int("batch_size", batch_size)
    if n is not None:
        positive_int("n", n)
    given = list(dict.fromkeys(models)) if isinstance(models, list | tuple) else [models]
    if not given:
        raise MechsteerError("No models were given.")
    prompts = None if data is None else replace(ifeval(data), max_new_tokens=IFEVAL_NEW_TOKENS)
    if prompts is not None:
        require_checkers()
    trap_task = memotrap(traps)
    folder = writable_dir(out)
    parts: dict[str, list[pd.DataFrame]] = {"summary": [], "lengths": [], "samples": [], "tracking": []}
    about = []
    for model in given:
        loaded = load(model) if isinstance(model, str) else model
        about.append(provenance(loaded))
        choices = None if traps is None else memotrap_choice(traps)
        tasks = [_first(task, n) for task in _tasks(loaded, prompts, trap_task, choices)]
        options: dict[str, Any] = {"batch_size": batch_size, "progress": progress, "executor": executor}
        with opened(NAME, loaded, folder, total=len(tasks) * len(METHODS), **options) as bench:
            made = _measure(bench, tasks)
        for name, table in made.items():
            parts[name].append(table if name == "samples" else table.assign(**provenance(loaded)))
    tables = {name: pd.concat(found, ignore_index=True) for name, found in parts.items() if found}
    methods = {name: repr(strategy) for name, strategy in METHODS.items()}
    finished(NAME, folder, {"models": about, "methods": methods}, tables, draw=draw)
    return Result.load(folder)


def _tasks(model: Any, prompts: IFEval | None, traps: MemoTrap, choices: MemoTrapChoice | None) -> list[Any]:
    """What is run on a model."""
    if prompts is not None:
        return [prompts]
    if model_info(model).name.startswith("organism:instruct"):
        return [instructions(notes=notes) for notes in NOTES]
    return [traps, recall(), copying(), *([] if choices is None else [choices])]


def _first(task: Any, n: int | None) -> Any:
    """The task with at most ``n`` samples, of instructions of each kind."""
    if n is None:
        return task
    if not isinstance(task, Instructions):
        return replace(task, samples=task.samples[:n])
    seen: dict[str, int] = {}
    kept = []
    for sample in task.samples:
        seen[sample.kind] = seen.get(sample.kind, 0) + 1
        if seen[sample.kind] <= n:
            kept.append(sample)
    return replace(task, samples=tuple(kept))


def _measure(bench: Bench, tasks: Sequence[Any]) -> "dict[str, pd.DataFrame]":
    """The tables of one model."""
    import pandas as pd

    wanted = [{method: Wanted(task, strategy=one) for method, one in METHODS.items()} for task in tasks]
    bench.prefetch(one for of_task in wanted for one in of_task.values())
    rows, samples = [], []
    for task, of_task in zip(tasks, wanted, strict=True):
        found = {method: bench.rows(one) for method, one in of_task.items()}
        samples += [table.assign(decoding=method) for method, table in found.items()]
        rows.append(compared(task, {method: scores(task, table) for method, table in found.items()}))
    outputs = pd.concat(samples, ignore_index=True)
    name = model_info(bench.model).name
    summary = _with_published(pd.concat(rows, ignore_index=True), name)
    made = {"summary": summary, "lengths": lengths(outputs, name), "samples": outputs}
    followed = tracked(bench.model, tasks, METHODS, outputs)
    return made | ({} if followed is None else {"tracking": followed})


def scores(task: Task, table: "pd.DataFrame") -> "pd.DataFrame":
    """One row a sample, group that it belongs to, and scoring: level, group, scoring, unit (to pair by), value."""
    import pandas as pd

    if isinstance(task, IFEval):
        pairs = enumerate(zip(task.samples, table["output"], strict=True))
        rows: list[Any] = [row for number, (sample, output) in pairs for row in _ifeval(number, sample, output)]
    elif isinstance(task, Instructions):
        rows = [
            (level, group, scoring, row.sample, float(getattr(row, scoring)))
            for row in table.itertuples()
            for level, group in (("task", "all kinds"), ("category", row.kind))
            for scoring in ("adherence", "fidelity")
        ]
    else:
        names = {MemoTrap: ("success", "strict", "memorised"), MemoTrapChoice: ("correct", "as_released")}
        rows = [
            ("task", task.name, scoring, row.sample, float(getattr(row, scoring)))
            for row in table.itertuples()
            for scoring in names.get(type(task), ("correct",))
        ]
    return pd.DataFrame(rows, columns=["level", "group", "scoring", "unit", "value"])


def _ifeval(number: int, sample: IFEvalPrompt, output: str) -> list[tuple[str, str, str, str, float]]:
    """The prompt, and each of its instructions as part of all, of its category and of its own kind."""
    rows = []
    for scoring, each in zip(("strict", "loose"), followed(sample, output), strict=True):
        rows.append(("task", "prompt-level", scoring, str(number), float(all(each))))
        for place, (name, right) in enumerate(zip(sample.instructions, each, strict=True)):
            groups = (("task", "instruction-level"), ("category", name.split(":")[0]), ("instruction", name))
            rows += [(level, group, scoring, f"{number} {place}", float(right)) for level, group in groups]
    return rows


def compared(task: Task, scored: "dict[str, pd.DataFrame]") -> "pd.DataFrame":
    """The summary's rows of one task: each method's mean, and its changes from the baseline on the same units."""
    import pandas as pd

    keys = ["level", "group", "scoring"]
    parts = {
        method: {key: part.set_index("unit")["value"] for key, part in table.groupby(keys, sort=False)}
        for method, table in scored.items()
    }
    rows: list[dict[str, Any]] = []
    for key, start in parts["baseline"].items():
        for method, found in parts.items():
            values = found[key]
            change = values - start
            increased, decreased = int((change > 0).sum()), int((change < 0).sum())
            mean = float(values.mean())
            low, high = wilson(mean, len(values))
            rows.append(
                {"task": task.name}
                | dict(zip(keys, tuple(key), strict=True))
                | {
                    "method": method,
                    "percent": 100 * mean,
                    "low_percent": 100 * low,
                    "high_percent": 100 * high,
                    "n": len(values),
                    "increased": increased,
                    "decreased": decreased,
                    "p_value": float("nan") if method == "baseline" else exact_p(increased, decreased),
                }
            )
    return pd.DataFrame(rows)


def _with_published(summary: "pd.DataFrame", model: str) -> "pd.DataFrame":
    """The summary with the paper's number beside ours, where it has one."""
    paper = published("t5_dola_ifeval")
    paper = paper[paper["model"] == model].set_index(["metric", "method", "scoring"])["accuracy_percent"]
    choice = published("t5_dola_memotrap_classification")
    choice = choice[choice["model"] == model].set_index("method")["accuracy_percent"]
    found = []
    for row in summary.to_dict("records"):
        value = paper.get((row["group"], row["method"], row["scoring"]))
        if str(row["group"]).startswith("memotrap choice") and row["scoring"] == "as_released":
            value = choice.get(row["method"])
        found.append(float("nan") if value is None else float(value))
    return summary.assign(published_percent=found)
