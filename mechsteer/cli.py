"""The command line. Thin over the library: every command is one call of a public function.

Nothing heavy is imported until a command runs, so ``--help`` is instant. Bad input ends with one line and exit code 2.
"""

import dataclasses
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from mechsteer import __version__
from mechsteer.command import generate
from mechsteer.command.generate import Generate
from mechsteer.command.options import Device, Positional, threads
from mechsteer.command.options import shown_as as _shown_as
from mechsteer.errors import MechsteerError
from mechsteer.studies.core.study import Study
from mechsteer.studies.registry import OPTIONS, STUDIES, names_with
from mechsteer.typed import running

if TYPE_CHECKING:
    StudyName = str
else:
    StudyName = Literal[(*STUDIES, "all")]

_WHICH = f"Which study. {'; '.join(f'{study.name}: {study.title}' for study in STUDIES.values())}."
_DATA = "; ".join(f"for {study.name}, {study.data[0]}" for study in STUDIES.values() if study.data)
_ON_DATA = [study.name for study in STUDIES.values() if study.on_data]
_DATA = f"F{_DATA[1:]} (with it, {', '.join(f'{n} is {STUDIES[n].on_data}' for n in _ON_DATA)}). Default: bundled."


@dataclasses.dataclass(frozen=True)
class Reproduce:
    """Regenerate a paper's tables and figures: on the bundled model by default, on any other with --model.

    A run that was stopped continues where it was when it is started again with the same --out.
    """

    study: Positional[Annotated[StudyName, tyro.conf.arg(help=_WHICH)]]
    model: Annotated[str | None, _shown_as("MODEL")] = None
    """organism:NAME, a local directory, or an id on the Hugging Face hub. Default: the study's bundled models."""
    out: Annotated[Path, _shown_as("FOLDER")] = Path("results")
    """Folder for results; with "all", each study gets a folder of its own in it."""
    data: Annotated[Path | None, tyro.conf.arg(metavar="FILE", help=_DATA)] = None
    device: Device = None
    """cpu, cuda, cuda:1, mps. Default: cuda where there is one."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Number format of the weights."""
    batch_size: int = 128
    """Prompts computed together; does not change the results."""
    workers: Annotated[int | None, _shown_as("INT")] = None
    """Compute cells in so many worker processes, each with a model of its own; the tables stay the same."""
    ray: bool = False
    """The workers are actors of a Ray cluster (needs mechsteer[ray])."""
    base: Annotated[str | None, _shown_as("MODEL")] = None
    """For steer-instruct, the model that MODEL was tuned from: MODEL's vectors are tried on it."""
    perplexity_model: Annotated[str | None, _shown_as("MODEL")] = None
    """For steer-instruct, a second language model that finds collapsed outputs. Default: by repetition."""
    n: Annotated[int | None, _shown_as("INT")] = None
    """For ifeval, so many prompts, the first ones. Default: all."""
    kinds: Annotated[tuple[str, ...], _shown_as("ID ...")] = ()
    """For ifeval, prompts with at least one of these instructions, e.g. punctuation:no_comma. Default: all."""
    max_new_tokens: Annotated[int | None, _shown_as("INT")] = None
    """For ifeval, the most new tokens. Default: 256."""
    sae: Annotated[str | None, _shown_as("SAE")] = None
    """For compose, a directory that SAELens wrote, or organism:NAME. Default: the bundled one of MODEL."""


@dataclasses.dataclass(frozen=True)
class Figures:
    """Draw a study's figures again, from the tables in its folder alone."""

    folder: Positional[Annotated[Path, _shown_as("FOLDER")]]
    """A folder that `mechsteer reproduce` has written."""
    format: tuple[Literal["pdf", "svg", "png"], ...] = ("pdf", "png")
    """The files that each figure becomes."""
    width: Annotated[float | None, _shown_as("INCHES")] = None
    """Width of every figure, e.g. 3.3 for one column and 6.75 for two. Default: as its panels are."""
    style: Annotated[Path | None, _shown_as("FILE")] = None
    """A style sheet of matplotlib, which wins over the house style: lines such as font.size: 8."""


@dataclasses.dataclass(frozen=True)
class Report:
    """Write report.html of a study, comparison, tuning or diagnosis again, from the tables in its folder alone."""

    folder: Positional[Annotated[Path, _shown_as("FOLDER")]]
    """A folder that `mechsteer reproduce`, `compare`, `tune` or `diagnose` has written, or one that holds some."""


@dataclasses.dataclass(frozen=True)
class Sweep:
    """Compute a grid of models, methods, layers, strengths and seeds, cell by cell.

    A sweep that was stopped or killed goes on where it was when the same command is given again. A cell that fails does
    not stop the others; then the exit code is 1.
    """

    grid: Positional[Annotated[Path, _shown_as("GRID")]]
    """A .toml or .json file with a table [grid] of axes, e.g. model = "organism:trap-t5", task = "memotrap", method
    = "add", layer = [1, 2, 3], strength = [0.5, 1.0]; or several [[grid]], one after another. The names are explained
    in mechsteer.studies.sweep.steering. With run = "module:function" before the first table, that function computes the
    cells, and the names are its own."""
    out: Annotated[Path, _shown_as("FOLDER")] = Path("results/sweep")
    """Folder for the cells, results.parquet and summary.csv."""
    executor: Literal["serial", "processes", "ray"] = "serial"
    """This process, worker processes on this machine, or a Ray cluster (needs mechsteer[ray])."""
    workers: Annotated[int | None, _shown_as("INT")] = None
    """Worker processes, each with a model of its own. Default: 2."""
    retries: Annotated[int | None, _shown_as("INT")] = None
    """How often a cell is tried again whose worker died. Default: 2."""
    resume: bool = True
    """Skip finished cells; --no-resume refuses a folder that has any."""
    address: Annotated[str | None, _shown_as("ADDRESS")] = None
    """Ray: a running cluster, e.g. auto. Default: RAY_ADDRESS, else one on this machine for the time of the sweep."""
    num_cpus: Annotated[float | None, _shown_as("NUMBER")] = None
    """Ray: CPUs of each worker. Default: 1."""
    num_gpus: Annotated[float | None, _shown_as("NUMBER")] = None
    """Ray: GPUs of each worker; below 1 to share one. Default: 0."""
    device: Device = None
    """cpu, cuda, cuda:1, mps. Default: cuda where there is one."""
    batch_size: int = 64
    """Prompts computed together; does not change the results."""


@dataclasses.dataclass(frozen=True)
class Compare:
    """Compare ways to steer on the same prompts: adherence with its interval, what was repaired and broken, quality.

    A comparison that was stopped continues where it was when it is started again with the same --out.
    """

    task: Positional[Annotated[str, _shown_as("TASK")]]
    """A JSONL or CSV file of prompts with their instruction, IFEval's file, or a bundled task: memotrap, instructions,
    recall, copying."""
    methods: Annotated[tuple[str, ...], _shown_as("METHOD ...")] = ("guide:1", "directer")
    """Beside the unsteered model: guide:DELTA, spotlight:TARGET, pasta:ALPHA, scale_keys:ALPHA, directer,
    directer:BETA, dola, or a saved intervention, FILE.safetensors."""
    model: Annotated[str, _shown_as("MODEL")] = "organism:instruct-llama"
    """organism:NAME, a local directory, or an id on the Hugging Face hub."""
    check: Annotated[str | None, _shown_as("CHECK")] = None
    """For a file of one's own: lowercase, json, max_words:30, sentences:1, language:fr, contains:TEXT ... Default: as
    its lines say."""
    score: Annotated[str | None, _shown_as("COLUMN")] = None
    """The score that counts. Default: the task's first."""
    max_new_tokens: Annotated[int | None, _shown_as("INT")] = None
    """For a file of one's own, the most new tokens. Default: 128."""
    n: Annotated[int | None, _shown_as("INT")] = None
    """The most prompts. Default: all."""
    out: Annotated[Path, _shown_as("FOLDER")] = Path("results/comparison")
    """Folder for rows, summary, page and figure."""
    batch_size: int = 16
    """Prompts computed together; does not change the results."""
    device: Device = None
    """cpu, cuda, mps."""


@dataclasses.dataclass(frozen=True)
class Diagnose:
    """Say why a model ignores an instruction: how often, is it attended to, decodable, what happens when it is cut.

    A diagnosis that was stopped continues where it was when it is started again with the same --out.
    """

    model: Positional[Annotated[str, _shown_as("MODEL")]]
    """organism:NAME, a local directory, or an id on the Hugging Face hub."""
    task: Positional[Annotated[str, _shown_as("TASK")]]
    """A JSONL or CSV file of prompts with their instruction, or the bundled task instructions."""
    check: Annotated[str | None, _shown_as("CHECK")] = None
    """For a file of one's own: lowercase, json, max_words:30, sentences:1, language:fr, contains:TEXT ... Default: as
    its lines say."""
    score: Annotated[str | None, _shown_as("COLUMN")] = None
    """The score that says whether a prompt is followed. Default: the task's first."""
    max_new_tokens: Annotated[int | None, _shown_as("INT")] = None
    """For a file of one's own, the most new tokens. Default: 128."""
    n: Annotated[int | None, _shown_as("INT")] = None
    """The most prompts. Default: all."""
    out: Annotated[Path, _shown_as("FOLDER")] = Path("results/diagnosis")
    """Folder for tables and page."""
    batch_size: int = 16
    """Prompts computed together; does not change the results."""
    device: Device = None
    """cpu, cuda, mps."""


@dataclasses.dataclass(frozen=True)
class Tune:
    """Find how to steer for an instruction: chosen on one half of the prompts, tested once on the other.

    Says first what it will take. A tuning that was stopped continues where it was when it is started again with the
    same --out.
    """

    model: Positional[Annotated[str, _shown_as("MODEL")]]
    """organism:NAME, a local directory, or an id on the Hugging Face hub."""
    task: Positional[Annotated[str, _shown_as("TASK")]]
    """A JSONL or CSV file of prompts with their instruction, or the bundled task instructions."""
    methods: Annotated[tuple[str, ...], _shown_as("METHOD ...")] = ()
    """Of guide, spotlight, pasta, scale_keys, directer, vector, project. Default: all."""
    check: Annotated[str | None, _shown_as("CHECK")] = None
    """For a file of one's own: lowercase, json, max_words:30, sentences:1, language:fr, contains:TEXT ... Default: as
    its lines say."""
    score: Annotated[str | None, _shown_as("COLUMN")] = None
    """The score that counts. Default: the task's first."""
    floor: float = 0.9
    """The least quality, as a part of the unsteered model's: answers that have not collapsed."""
    budget: float = 0.2
    """Tokens that the search may generate, as a part of the full grid's; every method has an equal share."""
    max_new_tokens: Annotated[int | None, _shown_as("INT")] = None
    """For a file of one's own, the most new tokens. Default: 128."""
    n: Annotated[int | None, _shown_as("INT")] = None
    """The most prompts, both halves together. Default: all."""
    seed: int = 0
    """Decides the halves and the order in which prompts are looked at."""
    out: Annotated[Path, _shown_as("FOLDER")] = Path("results/tuning")
    """Folder for what was computed, the tables, the page, the figure and the intervention."""
    batch_size: int = 32
    """Prompts computed together; does not change the results."""
    device: Device = None
    """cpu, cuda, mps."""


@dataclasses.dataclass(frozen=True)
class Score:
    """Score answers that something else wrote: of IFEval, prompt and instruction level, strict and loose."""

    task: Positional[Annotated[str, _shown_as("TASK")]]
    """A JSONL or CSV file of prompts, IFEval's file, or a bundled task: memotrap, instructions, recall, copying."""
    outputs: Positional[Annotated[Path, _shown_as("OUTPUTS")]]
    """A JSONL file with the texts "prompt" and "response" in each line."""
    check: Annotated[str | None, _shown_as("CHECK")] = None
    """For a file of one's own: lowercase, json, max_words:30 ... Default: as its lines say."""
    out: Annotated[Path | None, _shown_as("FILE")] = None
    """A CSV file for the rows. Default: none is written."""


@dataclasses.dataclass(frozen=True)
class Inspect:
    """Load a model, compare it with Hugging Face's, and list its hook points."""

    model: Positional[Annotated[str, _shown_as("MODEL")]]
    """organism:NAME, a local directory, or an id on the Hugging Face hub."""
    layer: int = 0
    """The layer whose hook points are listed."""
    device: Device = None
    """cpu, cuda, mps."""
    plan: bool = False
    """Instead: how much memory and time generating takes, for as many prompts as the next four say."""
    prompts: int = 100
    """With --plan, how many prompts."""
    length: int = 256
    """With --plan, tokens of each prompt."""
    new_tokens: int = 64
    """With --plan, new tokens after each."""
    batch_size: int = 32
    """With --plan, prompts computed together."""


@dataclasses.dataclass(frozen=True)
class ListOrganisms:
    """List the bundled models."""


@dataclasses.dataclass(frozen=True)
class TrainOrganism:
    """Train a bundled model again from its seed."""

    name: Positional[Annotated[str, _shown_as("NAME")]]
    """Its name, e.g. trap-t5."""
    out: Annotated[Path | None, _shown_as("FOLDER")] = None
    """A new folder for the checkpoint. Default: results/organisms/NAME."""
    seed: Annotated[int | None, _shown_as("INT")] = None
    """Another seed than the bundled model's."""


@dataclasses.dataclass(frozen=True)
class TrainSae:
    """Train the sparse autoencoder of a bundled model again from its seed."""

    name: Positional[Annotated[str, _shown_as("NAME")]]
    """The name of the model, e.g. instruct-llama."""
    out: Annotated[Path | None, _shown_as("FOLDER")] = None
    """A new folder for the SAE. Default: results/saes/NAME."""
    seed: Annotated[int | None, _shown_as("INT")] = None
    """Another seed than the bundled SAE's."""


@dataclasses.dataclass(frozen=True)
class OrganismsCommand:
    """The bundled models: list them, or train one, or its sparse autoencoder, again."""

    command: (
        Annotated[ListOrganisms, tyro.conf.subcommand("list")]
        | Annotated[TrainOrganism, tyro.conf.subcommand("train")]
        | Annotated[TrainSae, tyro.conf.subcommand("train-sae")]
    )


Command = (
    Annotated[Reproduce, tyro.conf.subcommand("reproduce")]
    | Annotated[Figures, tyro.conf.subcommand("figures")]
    | Annotated[Report, tyro.conf.subcommand("report")]
    | Annotated[Sweep, tyro.conf.subcommand("sweep")]
    | Annotated[Generate, tyro.conf.subcommand("generate")]
    | Annotated[Compare, tyro.conf.subcommand("compare")]
    | Annotated[Diagnose, tyro.conf.subcommand("diagnose")]
    | Annotated[Tune, tyro.conf.subcommand("tune")]
    | Annotated[Score, tyro.conf.subcommand("score")]
    | Annotated[Inspect, tyro.conf.subcommand("inspect")]
    | Annotated[OrganismsCommand, tyro.conf.subcommand("organisms")]
)


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line; exits with 2 on bad input and 130 on Ctrl-C."""
    given = list(sys.argv[1:] if args is None else args)
    if given == ["--version"]:
        print(f"mechsteer {__version__}")
        return
    if given[:1] == ["generate"]:
        given = generate.with_numbers(given)
    command: Any = tyro.cli(
        Command,  # type: ignore[arg-type]
        prog="mechsteer",
        description="Find out why a language model ignores an instruction, and fix it without training. "
        "`mechsteer --version` says which version this is.",
        args=given,
        config=(tyro.conf.OmitSubcommandPrefixes, tyro.conf.OmitArgPrefixes),
    )
    try:
        with running(shlex.join(["mechsteer", *given])):
            _run(command)
    except MechsteerError as error:
        print(f"mechsteer: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("mechsteer: stopped; what was finished is kept, the same command continues.", file=sys.stderr)
        sys.exit(130)


def _run(command: Any) -> None:
    if isinstance(command, OrganismsCommand):
        command = command.command
    actions = {
        Reproduce: _reproduce,
        Figures: _figures,
        Report: _report,
        Sweep: _sweep,
        Generate: generate.run,
        Compare: _compare,
        Diagnose: _diagnose,
        Tune: _tune,
        Score: _score,
        Inspect: _inspect,
        ListOrganisms: _list_organisms,
        TrainOrganism: _train_organism,
        TrainSae: _train_sae,
    }
    actions[type(command)](command)


def _reproduce(c: Reproduce) -> None:
    if c.data is not None and c.study in _ON_DATA:
        c = dataclasses.replace(c, study=STUDIES[c.study].on_data)
    _check_options(c)
    bundled = [study for study in STUDIES.values() if study.models]
    for study in bundled if c.study == "all" else (STUDIES[c.study],):
        _reproduce_one(c, study)


def _check_options(c: Reproduce) -> None:
    """Refuse options of other studies, and a file that is not in the study's format, before a model is fetched.

    Raises:
        MechsteerError: naming the studies that take the option, or what is wrong with the file.
    """
    for option in OPTIONS:
        takers = names_with(option)
        if getattr(c, option) and c.study not in takers and (option, c.study) != ("data", "all"):
            same = [f"--{name.replace('_', '-')}" for name in OPTIONS if names_with(name) == takers]
            own = f"; {c.study} has prompts of its own" if option == "data" else f", not {c.study}"
            raise MechsteerError(f"{_and(same)} {'are' if len(same) > 1 else 'is'} for {_and(takers)}{own}.")
    if c.study != "all" and not STUDIES[c.study].models and (c.model is None or c.data is None):
        raise MechsteerError(f"{c.study} needs --model and --data FILE; nothing is bundled for it.")
    if c.data is not None:
        from mechsteer import tasks

        _, reader = STUDIES[_first_of(c.study)].data or ("", "memotrap")
        getattr(tasks, reader)(c.data)


def _first_of(study: str) -> str:
    """The study whose format a file is in: with "all", that of the first, and others of its format take it too."""
    return next(iter(STUDIES)) if study == "all" else study


def _and(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _reproduce_one(c: Reproduce, study: Study) -> None:
    from mechsteer.files import writable_dir
    from mechsteer.models import load

    names = (c.model,) if c.model else study.models
    out = writable_dir(c.out / study.name if c.study == "all" else c.out)
    threads(names[0])
    shared: dict[str, Any] = {"batch_size": c.batch_size, "executor": _workers(c)}
    models: list[Any] = [load(name, device=c.device, dtype=c.dtype) for name in names]
    given = {option: getattr(c, option) for option in study.options}
    if study.data != STUDIES[_first_of(c.study)].data:
        given["data"] = None
    options = {study.options[o]: value for o, value in given.items() if o in study.options and value not in (None, ())}
    subject = models if len(study.models) > 1 else models[0]
    print(study.report(study.run(subject, out, **shared, **options)))
    if c.study == "t5-dola":  # the paper's other half, which is a study of its own under "all"
        second = STUDIES["dola-decoding"]
        print(second.report(second.run(models, out / "decoding", traps=c.data, **shared)))
    print(f"\nTables and figures are in {out}/ and {out}/figures/")


def _workers(c: Reproduce) -> Any:
    """The executor that --workers and --ray name; None where neither is given."""
    if c.workers is None and not c.ray:
        return None
    from mechsteer.studies.sweep.executors import Processes, Ray

    return (Ray if c.ray else Processes)(workers=2 if c.workers is None else c.workers)


def _figures(c: Figures) -> None:
    from mechsteer.plots import paper
    from mechsteer.studies.core.result import recorded, redraw

    parts = [c.folder, *(path.parent for path in sorted(c.folder.glob("*/study.json")))]
    for folder in parts if (c.folder / "study.json").exists() else [c.folder]:
        study, _ = recorded(folder)
        with paper(c.width, formats=c.format, style=c.style):
            for path in redraw(study, folder):
                print(path)


def _report(c: Report) -> None:
    from importlib import import_module

    kinds = {
        "study.json": "studies.core.result",
        "comparison.json": "comparison.compare_run",
        "tuning.json": "tuning.result",
        "diagnosis.json": "diagnosis.diagnose_run",
    }
    found = [
        (path.parent, kinds[path.name])
        for name in kinds
        for path in sorted({*c.folder.glob(name), *c.folder.glob(f"*/{name}")})
    ]
    if not found:
        raise MechsteerError(
            f"{c.folder} is not a folder of results: it has none of {', '.join(kinds)}, which `mechsteer reproduce`, "
            "`compare`, `tune` and `diagnose` write into --out."
        )
    for folder, module in sorted(found):
        print(import_module(f"mechsteer.{module}").repage(folder))


def _sweep(c: Sweep) -> None:
    from mechsteer.report import show
    from mechsteer.studies.sweep import read_grid, sweep

    executor = _executor(c)
    cells, run = read_grid(c.grid)
    print(f"{len(cells):,} cells, into {c.out}/", flush=True)
    own: dict[str, Any] = {} if run is None else {"run": run}
    if own:
        sys.path.insert(0, str(Path.cwd()))  # as `python -m` does: functions of one's own are found where one is
    threads(str(cells[0].get("model")))
    result = sweep(cells, c.out, executor=executor, resume=c.resume, device=c.device, batch_size=c.batch_size, **own)
    summary = result.summary.drop(columns="cell")
    failed = int((summary["state"] == "failed").sum())
    scores = list(summary)[list(summary).index("rows") + 1 :]  # shown also where they are the same in all cells
    told = [name for name in summary if len(summary) == 1 or name in scores or len(set(map(str, summary[name]))) > 1]
    print(show(summary[told], decimals=3))
    print(f"\nAll rows are in {c.out}/results.parquet, and these in {c.out}/summary.csv")
    if failed:
        print(
            f"mechsteer: {failed} of {len(summary)} cells failed; {c.out}/errors/ says how. The same command tries "
            "them again.",
            file=sys.stderr,
        )
        sys.exit(1)


def _executor(c: Sweep) -> Any:
    """The executor with its options; one that is another executor's is refused."""
    from mechsteer.studies.sweep.executors import Processes, Ray, Serial

    kind = {"serial": Serial, "processes": Processes, "ray": Ray}[c.executor]
    given = {name: getattr(c, name) for name in ("workers", "retries", "address", "num_cpus", "num_gpus")}
    options = {name: value for name, value in given.items() if value is not None}
    known = {field.name for field in dataclasses.fields(kind)}
    for name in options:
        if name not in known:
            raise MechsteerError(f"--{name.replace('_', '-')} has no meaning with --executor {c.executor}.")
    return kind(**options)


def _plan(c: Inspect) -> None:
    from mechsteer.models import load, plan
    from mechsteer.report import show

    model = load(c.model, device=c.device)
    table = plan(model, prompts=c.prompts, length=c.length, new_tokens=c.new_tokens, batch_size=c.batch_size)
    print(f"{c.prompts} prompts of {c.length} tokens, {c.new_tokens} new ones, batches of {c.batch_size}\n")
    print(show(table))
    print("\nBeside it, Python and its libraries take about 1,000 megabytes.")


def _compare(c: Compare) -> None:
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


def _diagnose(c: Diagnose) -> None:
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


def _tune(c: Tune) -> None:
    from mechsteer.models import load
    from mechsteer.tuning import tune
    from mechsteer.tuning.ladders import DEFAULT, families_of

    task, methods = _task(c), tuple(families_of(c.methods or DEFAULT))
    threads(c.model)
    model = load(c.model, device=c.device)
    options = {"floor": c.floor, "budget": c.budget, "score": c.score, "seed": c.seed, "batch_size": c.batch_size}
    found = tune(model, task, methods, out=c.out, progress=True, **options)
    print(f"\n{found}\n\nThe page is {c.out}/report.html; the tables, the figure and {found.saved_as} are beside it.")


def _score(c: Score) -> None:
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
        ("prompts are in the file more than once; the first response counts", found.repeated),
    ):
        if prompts:
            print(f"\n{len(prompts)} {what}:")
            print("\n".join(f"  {' '.join(prompt.split())[:110]}" for prompt in prompts))


def _inspect(c: Inspect) -> None:
    from mechsteer.models import load, model_info, sites, stacks, verify
    from mechsteer.report import show

    threads(c.model)
    if c.plan:
        _plan(c)
        return
    model = load(c.model, device=c.device)
    info, cfg, table = model_info(model), model.cfg, sites(model)
    if not (table["layer"] == c.layer).any():
        raise MechsteerError(f"Layer {c.layer} is out of range: layers 0 to {table['layer'].max()}.")
    layers = ", ".join(f"{count} {name}" for name, count in stacks(model).items())
    print(f"{info.name}: {type(model).__name__}, {info.family}, layers: {layers}, d_model {cfg.d_model}, ", end="")
    print(f"{cfg.n_heads} heads, vocabulary {cfg.d_vocab}, {info.dtype}, fingerprint {info.fingerprint}\n")
    print("Next-token probabilities against Hugging Face's model\n")
    print(show(verify(model), decimals=7))
    print(f"\nHook points of layer {c.layer}\n")
    print(show(table[table["layer"] == c.layer]))


def _list_organisms(_: ListOrganisms) -> None:
    import pandas as pd

    from mechsteer.models import organism_names
    from mechsteer.organisms import ORGANISMS
    from mechsteer.report import show

    bundled = set(organism_names())
    rows = [
        {
            "name": f"organism:{o.name}",
            "bundled": o.name in bundled,
            "minutes to train": o.minutes,
            "what": o.description,
        }
        for o in ORGANISMS.values()
    ]
    print(show(pd.DataFrame(rows)))


def _train_organism(c: TrainOrganism) -> None:
    from mechsteer.errors import unknown
    from mechsteer.organisms import ORGANISMS

    if c.name not in ORGANISMS:
        raise unknown("organism", c.name, ORGANISMS)
    out = c.out or Path("results/organisms") / c.name
    organism = ORGANISMS[c.name]
    print(f"Training {c.name} (about {organism.minutes} minutes on one core) into {out}")
    print(organism.train(out, seed=c.seed))


def _train_sae(c: TrainSae) -> None:
    from mechsteer.errors import one_of
    from mechsteer.organisms.saes import RECIPES, train_sae

    one_of("organism with a sparse autoencoder", c.name, RECIPES)
    out = c.out or Path("results/saes") / c.name
    print(f"Training the sparse autoencoder of {c.name} (about 8 minutes on one core) into {out}")
    print(train_sae(c.name, out, seed=c.seed))
