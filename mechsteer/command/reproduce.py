"""``mechsteer reproduce``, ``figures`` and ``report``: the studies, and what is made again of their tables."""

import dataclasses
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from mechsteer.command.options import Device, Positional, explained, shown_as, threads
from mechsteer.errors import MechsteerError, foreign
from mechsteer.files import is_there
from mechsteer.studies.core.study import Study
from mechsteer.studies.registry import OPTIONS, STUDIES, names_with

if TYPE_CHECKING:
    StudyName = str
else:
    StudyName = Literal[(*STUDIES, "all")]

_WHICH = f"Which study. {'; '.join(f'{study.name}: {study.title}' for study in STUDIES.values())}."
_DATA = "; ".join(f"for {study.name}, {study.data[0]}" for study in STUDIES.values() if study.data)
_ON_DATA = [study.name for study in STUDIES.values() if study.on_data]
_DATA = f"F{_DATA[1:]} (with it, {', '.join(f'{n} is {STUDIES[n].on_data}' for n in _ON_DATA)}). Default: bundled."


def _and(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _taken(option: str, metavar: str, what: str) -> Any:
    """An option of some studies, which its help text names."""
    return explained(metavar, f"For {_and(names_with(option))}, {what}")


@dataclasses.dataclass(frozen=True)
class Reproduce:
    """Regenerate a paper's tables and figures: on the bundled model by default, on any other with --model.

    A run that was stopped continues where it was when it is started again with the same --out.
    """

    study: Positional[Annotated[StudyName, tyro.conf.arg(help=_WHICH)]]
    model: Annotated[str | None, shown_as("MODEL")] = None
    """organism:NAME, a local directory, or an id on the Hugging Face hub. Default: the study's bundled models."""
    out: Annotated[Path, shown_as("FOLDER")] = Path("results")
    """Folder for results; with "all", each study gets a folder of its own in it."""
    data: Annotated[Path | None, tyro.conf.arg(metavar="FILE", help=_DATA)] = None
    device: Device = None
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Number format of the weights."""
    batch_size: int = 128
    """Prompts computed together; does not change the results."""
    workers: Annotated[int | None, shown_as("INT")] = None
    """Compute cells in so many worker processes, each with a model of its own; the tables stay the same."""
    ray: bool = False
    """The workers are actors of a Ray cluster (needs mechsteer[ray])."""
    base: Annotated[
        str | None, _taken("base", "MODEL", "the model that MODEL was tuned from: MODEL's vectors are tried on it.")
    ] = None
    perplexity_model: Annotated[
        str | None,
        _taken(
            "perplexity_model", "MODEL", "a second language model that finds collapsed outputs. Default: by repetition."
        ),
    ] = None
    n: Annotated[
        int | None,
        _taken("n", "INT", "so many prompts, the first ones; for questions of each kind. Default: all; questions: 14."),
    ] = None
    kinds: Annotated[
        tuple[str, ...],
        _taken(
            "kinds",
            "ID ...",
            "prompts with at least one of these instructions, e.g. punctuation:no_comma; for questions e.g. upper. "
            "Default: all.",
        ),
    ] = ()
    max_new_tokens: Annotated[int | None, _taken("max_new_tokens", "INT", "the most new tokens. Default: 256.")] = None
    sae: Annotated[
        str | None,
        _taken("sae", "SAE", "a directory that SAELens wrote, or organism:NAME. Default: the bundled one of MODEL."),
    ] = None
    only: Annotated[
        tuple[str, ...],
        _taken("only", "PART ...", "some of numbers, architectures, compound and linear. Default: all."),
    ] = ()
    others: Annotated[
        tuple[str, ...],
        _taken("others", "MODEL ...", "models that vectors cross from and to. Default: bundled ones of one world."),
    ] = ()


@dataclasses.dataclass(frozen=True)
class Figures:
    """Draw a study's figures again, from the tables in its folder alone."""

    folder: Positional[Annotated[Path, shown_as("FOLDER")]]
    """A folder that `mechsteer reproduce` has written."""
    out: Annotated[Path | None, shown_as("FOLDER")] = None
    """Where they go, so that sets for one column and two lie side by side. Default: figures in the study's folder."""
    format: tuple[Literal["pdf", "svg", "png"], ...] = ("pdf", "png")
    """The files that each figure becomes."""
    width: Annotated[float | None, shown_as("INCHES")] = None
    """Width of every figure, e.g. 3.3 for one column and 6.75 for two. Default: as its panels are."""
    style: Annotated[Path | None, shown_as("FILE")] = None
    """A style sheet of matplotlib, which wins over the house style: lines such as font.size: 8."""


@dataclasses.dataclass(frozen=True)
class Report:
    """Write report.html of a study, comparison, tuning or diagnosis again, from the tables in its folder alone."""

    folder: Positional[Annotated[Path, shown_as("FOLDER")]]
    """A folder that `mechsteer reproduce`, `compare`, `tune` or `diagnose` has written, or one that holds some."""


def reproduce(c: Reproduce) -> None:
    """Run one study or all of them, and print what they found.

    Raises:
        MechsteerError: as the study does; of all of them, when all others have run.
    """
    if c.data is not None and c.study in _ON_DATA:
        c = dataclasses.replace(c, study=STUDIES[c.study].on_data)
    _check_options(c)
    if c.study != "all":
        _reproduce_one(c, STUDIES[c.study], _models(c, STUDIES[c.study]))
        return
    own, refused = _models(c, STUDIES[_first_of(c.study)]) if c.model else None, []
    for study in (study for study in STUDIES.values() if study.models):
        models = _models(c, study) if own is None else own
        try:
            _reproduce_one(c, study, models)
        except MechsteerError as error:  # no model is of every study: some are for encoder-decoders, most for others
            if own is None:
                raise
            refused.append(f"{study.name}: {error}")
    if refused:
        raise MechsteerError(f"The other studies are in {c.out}/; these could not run. {' '.join(refused)}")


def _check_options(c: Reproduce) -> None:
    """Refuse options of other studies, and a file that is not in the study's format, before a model is fetched.

    Raises:
        MechsteerError: naming the studies that take the option, or what is wrong with the file.
    """
    for option in OPTIONS:
        takers = names_with(option)
        if getattr(c, option) not in (None, ()) and c.study not in takers and (option, c.study) != ("data", "all"):
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


def _models(c: Reproduce, study: Study) -> list[Any]:
    """What a study runs on, loaded; the folder for its results is looked at before."""
    from mechsteer.files import writable_dir
    from mechsteer.models import load

    names = (c.model,) if c.model else study.models
    writable_dir(c.out)
    threads(names[0])
    return [load(name, device=c.device, dtype=c.dtype) for name in names]


def _reproduce_one(c: Reproduce, study: Study, models: list[Any]) -> None:
    from mechsteer.files import writable_dir

    out = writable_dir(c.out / study.name if c.study == "all" else c.out)
    shared: dict[str, Any] = {"batch_size": c.batch_size, "executor": _workers(c)}
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


def figures(c: Figures) -> None:
    """Draw the figures again, and print their paths; what is refused is said when all others are drawn."""
    from mechsteer.plots import paper
    from mechsteer.studies.core.result import recorded, redraw

    parts = [c.folder, *(path.parent for path in sorted(c.folder.glob("*/study.json")))]
    refused = []
    for folder in parts if is_there(c.folder / "study.json") else [c.folder]:
        study, _ = recorded(folder)
        try:
            with paper(c.width, formats=c.format, style=c.style), foreign(f"The tables in {folder} cannot be drawn"):
                drawn = redraw(study, folder, c.out and c.out / folder.relative_to(c.folder))
            print(*drawn, sep="\n")
        except MechsteerError as error:
            refused.append(str(error))
    if refused:
        raise MechsteerError(" ".join(refused))


def report(c: Report) -> None:
    """Write the pages again, and print their paths."""
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
        wrong = "is a file, not" if c.folder.is_file() else "is not"
        raise MechsteerError(
            f"{c.folder} {wrong} a folder of results: it has none of {', '.join(kinds)}, which `mechsteer reproduce`, "
            "`compare`, `tune` and `diagnose` write into --out."
        )
    for folder, module in sorted(found):
        with foreign(f"No page can be made of what lies in {folder}"):
            page = import_module(f"mechsteer.{module}").repage(folder)
        print(page)
