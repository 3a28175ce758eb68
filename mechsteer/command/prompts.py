"""``mechsteer compare``, ``diagnose``, ``tune`` and ``score``: prompts of one's own."""

import dataclasses
from pathlib import Path
from typing import Annotated, Any

from mechsteer.command.options import Check, Device, Model, NewTokens, Positional, shown_as, threads


@dataclasses.dataclass(frozen=True)
class Compare:
    """Compare ways to steer on the same prompts: adherence with its interval, what was repaired and broken, quality.

    A comparison that was stopped continues where it was when it is started again with the same --out.
    """

    task: Positional[Annotated[str, shown_as("TASK")]]
    """A JSONL or CSV file of prompts with their instruction, IFEval's file, or a bundled task: memotrap, instructions,
    recall, copying."""
    methods: Annotated[tuple[str, ...], shown_as("METHOD ...")] = ("guide:1", "directer")
    """Beside the unsteered model: guide:DELTA, spotlight:TARGET, pasta:ALPHA, scale_keys:ALPHA, directer,
    directer:BETA, dola, or a saved intervention, FILE.safetensors."""
    model: Model = "organism:instruct-llama"
    check: Check = None
    score: Annotated[str | None, shown_as("COLUMN")] = None
    """The score that counts. Default: the task's first."""
    max_new_tokens: NewTokens = None
    n: Annotated[int | None, shown_as("INT")] = None
    """The most prompts. Default: all."""
    out: Annotated[Path, shown_as("FOLDER")] = Path("results/comparison")
    """Folder for rows, summary, page and figure."""
    batch_size: int = 16
    """Prompts computed together; does not change the results."""
    device: Device = None


@dataclasses.dataclass(frozen=True)
class Diagnose:
    """Say why a model ignores an instruction: how often, is it attended to, decodable, what happens when it is cut.

    A diagnosis that was stopped continues where it was when it is started again with the same --out.
    """

    model: Positional[Model]
    task: Positional[Annotated[str, shown_as("TASK")]]
    """A JSONL or CSV file of prompts with their instruction, or the bundled task instructions."""
    check: Check = None
    score: Annotated[str | None, shown_as("COLUMN")] = None
    """The score that says whether a prompt is followed. Default: the task's first."""
    max_new_tokens: NewTokens = None
    n: Annotated[int | None, shown_as("INT")] = None
    """The most prompts. Default: all."""
    out: Annotated[Path, shown_as("FOLDER")] = Path("results/diagnosis")
    """Folder for tables and page."""
    batch_size: int = 16
    """Prompts computed together; does not change the results."""
    device: Device = None


@dataclasses.dataclass(frozen=True)
class Tune:
    """Find how to steer for an instruction: chosen on one half of the prompts, tested once on the other.

    Says first what it will take. A tuning that was stopped continues where it was when it is started again with the
    same --out.
    """

    model: Positional[Model]
    task: Positional[Annotated[str, shown_as("TASK")]]
    """A JSONL or CSV file of prompts with their instruction, or the bundled task instructions."""
    methods: Annotated[tuple[str, ...], shown_as("METHOD ...")] = ()
    """Of guide, spotlight, pasta, scale_keys, directer, vector, project. Default: all."""
    check: Check = None
    score: Annotated[str | None, shown_as("COLUMN")] = None
    """The score that counts. Default: the task's first."""
    floor: float = 0.9
    """The least quality, as a part of the unsteered model's: answers that have not collapsed."""
    budget: float = 0.2
    """Tokens that the search may generate, as a part of the full grid's; every method has an equal share."""
    max_new_tokens: NewTokens = None
    n: Annotated[int | None, shown_as("INT")] = None
    """The most prompts, both halves together. Default: all."""
    seed: int = 0
    """Decides the halves and the order in which prompts are looked at."""
    out: Annotated[Path, shown_as("FOLDER")] = Path("results/tuning")
    """Folder for what was computed, the tables, the page, the figure and the intervention."""
    batch_size: int = 32
    """Prompts computed together; does not change the results."""
    device: Device = None


@dataclasses.dataclass(frozen=True)
class Score:
    """Score answers that something else wrote: of IFEval, prompt and instruction level, strict and loose."""

    task: Positional[Annotated[str, shown_as("TASK")]]
    """A JSONL or CSV file of prompts, IFEval's file, or a bundled task: memotrap, instructions, recall, copying."""
    outputs: Positional[Annotated[Path, shown_as("OUTPUTS")]]
    """A JSONL file with the texts "prompt" and "response" in each line."""
    check: Check = None
    out: Annotated[Path | None, shown_as("FILE")] = None
    """A CSV file for the rows. Default: none is written."""


def compare(c: Compare) -> None:
    """Compare, write and print."""
    from mechsteer.comparison import compare
    from mechsteer.comparison.methods import methods_of
    from mechsteer.files import writable_dir
    from mechsteer.models import load

    task, methods = _task(c), methods_of(c.methods)
    out = writable_dir(c.out)
    threads(c.model)
    model = load(c.model, device=c.device)
    found = compare(model, task, methods, score=c.score, batch_size=c.batch_size, out=out / "methods", progress=True)
    found.save(out)
    print(found)
    print(f"\nThe page is {out}/report.html; the figure, the summary and all rows are beside it.")


def diagnose(c: Diagnose) -> None:
    """Diagnose, write and print."""
    from mechsteer.diagnosis import diagnose
    from mechsteer.files import writable_dir
    from mechsteer.models import load

    task = _task(c)
    out = writable_dir(c.out)
    threads(c.model)
    model = load(c.model, device=c.device)
    found = diagnose(model, task, score=c.score, batch_size=c.batch_size, out=out, progress=True)
    found.to_html(out / "report.html")
    print(found)
    print(f"\nThe page is {out}/report.html; all tables are beside it.")


def _task(c: Compare | Diagnose | Tune) -> Any:
    """The named task, or its first prompts."""
    from mechsteer.errors import positive_int
    from mechsteer.tasks.named import named_task

    task = named_task(c.task, check=c.check, max_new_tokens=c.max_new_tokens)
    return task if c.n is None else dataclasses.replace(task, samples=task.samples[: positive_int("n", c.n)])


def tune(c: Tune) -> None:
    """Tune, write and print."""
    from mechsteer.models import load
    from mechsteer.tuning import tune
    from mechsteer.tuning.ladders import DEFAULT, families_of

    task, methods = _task(c), tuple(families_of(c.methods or DEFAULT))
    threads(c.model)
    model = load(c.model, device=c.device)
    options = {"floor": c.floor, "budget": c.budget, "score": c.score, "seed": c.seed, "batch_size": c.batch_size}
    found = tune(model, task, methods, out=c.out, progress=True, **options)
    print(f"\n{found}\n\nThe page is {c.out}/report.html; the tables, the figure and {found.saved_as} are beside it.")


def score(c: Score) -> None:
    """Score, write and print."""
    from mechsteer.report import show
    from mechsteer.scoring import levels, read_responses, score_outputs
    from mechsteer.tasks.named import named_task

    task = named_task(c.task, check=c.check)
    found = read_responses(task, c.outputs)
    rows = score_outputs(found.task, found.texts)
    if c.out is not None:
        from mechsteer.files import atomic_path

        with atomic_path(c.out) as temporary:
            rows.to_csv(temporary, index=False)
    print(f"{len(rows)} of {len(task.samples)} prompts of {task.name} have a response (percent, 95 % interval)\n")
    print(show(levels(rows), decimals=2))
    collapsed = int(rows["collapsed"].sum())
    print(f"\n{collapsed} of {len(rows)} responses collapsed by their text alone (empty, loop, copied prompt).")
    for what, prompts in (
        ("prompts of the task were not found in the file", found.missing),
        ("prompts of the file are not in the task", found.unknown),
        ("prompts are in the file more often than in the task; the first responses count", found.repeated),
    ):
        if prompts:
            print(f"\n{len(prompts)} {what}:")
            print("\n".join(f"  {' '.join(prompt.split())[:110]}" for prompt in prompts))
