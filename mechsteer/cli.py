"""The command line. Thin over the library: every command is one call of a public function.

Nothing heavy is imported until a command runs, so ``--help`` is instant. Bad input ends with one line and exit code 2.
"""

import dataclasses
import io
import os
import shlex
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Annotated, Any, NoReturn

import tyro

from mechsteer import __version__
from mechsteer.command import explore, generate, models, prompts, reproduce, sweep
from mechsteer.command.explore import Explore
from mechsteer.command.generate import Generate
from mechsteer.command.models import Inspect, ListOrganisms, OrganismsCommand, TrainOrganism, TrainSae
from mechsteer.command.prompts import Compare, Diagnose, Score, Tune
from mechsteer.command.reproduce import Figures, Report, Reproduce
from mechsteer.command.sweep import Sweep
from mechsteer.errors import MechsteerError, one_line
from mechsteer.files import printable
from mechsteer.running_command import running

Command = (
    Annotated[Reproduce, tyro.conf.subcommand("reproduce")]
    | Annotated[Figures, tyro.conf.subcommand("figures")]
    | Annotated[Report, tyro.conf.subcommand("report")]
    | Annotated[Sweep, tyro.conf.subcommand("sweep")]
    | Annotated[Generate, tyro.conf.subcommand("generate")]
    | Annotated[Explore, tyro.conf.subcommand("explore")]
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
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal that lacks a character shows its escape
            stream.reconfigure(errors="backslashreplace")
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
        with running(printable(shlex.join(["mechsteer", *given]))):
            _check_lists(command, given)
            _run(command)
            sys.stdout.flush()
    except MechsteerError as error:
        print(f"mechsteer: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        _stop(error)
    except KeyboardInterrupt:
        print("mechsteer: stopped; what was finished is kept, the same command continues.", file=sys.stderr)
        sys.exit(130)


def _check_lists(command: Any, given: Sequence[str]) -> None:
    """Refuse an option of several values that is given twice: the last would count alone, and the others be lost.

    Raises:
        MechsteerError: with the option.
    """
    for field in dataclasses.fields(command):
        option = f"--{field.name}"
        times = sum(one.partition("=")[0] == option for one in given)
        if times > 1 and isinstance(getattr(command, field.name), tuple):
            raise MechsteerError(f"{option} is given {times} times: give all its values behind one, {option} A B.")


def _stop(error: OSError) -> NoReturn:
    """End where the system refuses something that no file of ours is to blame for, as a line on a full disk."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what Python still wants to print
    if not isinstance(error, BrokenPipeError):  # whoever reads has seen enough: `mechsteer ... | head`
        print(f"mechsteer: {one_line(str(error))}", file=sys.stderr)
    sys.exit(2)


def _run(command: Any) -> None:
    if isinstance(command, OrganismsCommand):
        command = command.command
    actions = {
        Reproduce: reproduce.reproduce,
        Figures: reproduce.figures,
        Report: reproduce.report,
        Sweep: sweep.run,
        Generate: generate.run,
        Explore: explore.run,
        Compare: prompts.compare,
        Diagnose: prompts.diagnose,
        Tune: prompts.tune,
        Score: prompts.score,
        Inspect: models.inspect,
        ListOrganisms: models.list_organisms,
        TrainOrganism: models.train_organism,
        TrainSae: models.train_sae,
    }
    actions[type(command)](command)
