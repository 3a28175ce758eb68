"""Reading bad files in children of this process: what came of each, whatever it did to its child."""

import contextlib
import os
import select
import signal
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mechsteer as ms
from mechsteer.errors import LONGEST
from tests.fuzz.kinds import Kind
from tests.fuzz.mutate import mutated

LIMIT = 10.0
"""Seconds of processor time after which a file that is still being read counts as a hang."""

WAITING = 12
"""How many times as long it may take on a busy machine."""

GOOD = ("loaded", "refused", "unchanged")


@dataclass
class Outcome:
    """What came of many files of one kind.

    Attributes:
        counts: How many were loaded, refused, ...
        bad: What should not have come: (seed, what).
    """

    counts: Counter[str] = field(default_factory=Counter)
    bad: list[tuple[int, str]] = field(default_factory=list)

    def add(self, seed: int, what: str) -> None:
        """Count one."""
        name = what.partition(":")[0]
        self.counts[name] += 1
        if name not in GOOD:
            self.bad.append((seed, what))


@dataclass(frozen=True)
class Bench:
    """A folder with a good file of one kind.

    Attributes:
        kind: The kind.
        folder: The folder.
        path: The file.
        content: What is in it.
        value: What it gives.
    """

    kind: Kind
    folder: Path
    path: Path
    content: bytes
    value: Any

    @staticmethod
    def of(kind: Kind, folder: Path) -> "Bench":
        """Make the file in a new folder."""
        folder.mkdir(parents=True)
        path = kind.prepare(folder)
        return Bench(kind, folder, path, path.read_bytes(), kind.read(folder))

    def attempt(self, seed: int) -> str:
        """Read one bad file: ``loaded``, ``refused``, ``unchanged``, or what went wrong."""
        changed = mutated(self.kind.changes, (self.kind.name, seed), self.content)
        if changed == self.content:
            return "unchanged"
        self.path.write_bytes(changed)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                value = self.kind.read(self.folder)
        except ms.MechsteerError as error:
            message = str(error)
            wrong = "\n" in message or len(message) > LONGEST or not message.isprintable()
            return f"no line: {message!r}" if wrong else "refused"
        except BaseException as error:  # a panic of Rust code is no Exception
            return f"traceback: {_where(error)}"
        finally:
            self.path.write_bytes(self.content)
        return "silent: it was read as another one" if self.kind.ours and value != self.value else "loaded"


def _where(error: BaseException) -> str:
    """The error, and where in the package it came through."""
    import traceback

    own = [frame for frame in traceback.extract_tb(error.__traceback__) if "/mechsteer/" in frame.filename]
    place = f"{Path(own[-1].filename).name}:{own[-1].lineno} {own[-1].name}" if own else "?"
    return f"{type(error).__name__} in {place}: {' '.join(str(error).split())[:150]}"


def campaign(bench: Bench, seeds: range, progress: Callable[[int], object] = lambda done: None) -> Outcome:
    """Read the bad files of many seeds, in children that may die or hang."""
    outcome, left = Outcome(), seeds
    while left:
        for seed, what in _child(bench, left):
            outcome.add(seed, what)
            left = range(seed + 1, seeds.stop)
            progress(seed - seeds.start + 1)
    return outcome


def _child(bench: Bench, seeds: range) -> Iterator[tuple[int, str]]:
    """What comes of the seeds, up to one that ends the child."""
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of threads, which do nothing here
        pid = os.fork()
    if not pid:
        os.close(reading)
        _answer(bench, seeds, writing)
    os.close(writing)
    seed, died = seeds.start, "died: without a word"
    with open(reading, encoding="utf-8") as answers:  # noqa: PTH123
        while seed < seeds.stop:
            if not _answers(answers, pid):
                died = f"hang: longer than {LIMIT:g} s"
                break
            line = answers.readline()
            if not line:
                break
            yield seed, line.rstrip("\n")
            seed += 1
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        bench.path.write_bytes(bench.content)
        if seed < seeds.stop:
            yield seed, died


def _answers(answers: Any, pid: int) -> bool:
    """Wait for a child's next line; False if it takes too long."""
    began, spent = time.monotonic(), _seconds(pid)
    while not select.select([answers], [], [], min(1.0, LIMIT))[0]:
        if _seconds(pid) - spent > LIMIT or time.monotonic() - began > WAITING * LIMIT:
            return False
    return True


def _seconds(pid: int) -> float:
    """The processor time of a process; the clock where the system does not say it."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return time.monotonic()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _answer(bench: Bench, seeds: range, writing: int) -> None:
    """In the child: a line a file, and nothing else on the terminal."""
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        for seed in seeds:
            what = bench.attempt(seed).encode("utf-8", "backslashreplace").replace(b"\n", b" ")
            os.write(writing, what[:3000] + b"\n")
    finally:
        os._exit(0)
