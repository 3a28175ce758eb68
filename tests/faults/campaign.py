"""Killing work at any time, and looking at what the next run makes of what is left."""

import hashlib
import os
import random
import signal
import time
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.faults.jobs import Job

TIMES = ("seconds", "seconds_of_part", "elapsed", "seconds_per_prompt")
KILLS_A_FOLDER = 3
LEFT = (".tmp", ".unfinished", ".activations")
ENDED = 120.0
"""Seconds that workers have to end after the process that started them was killed; Ray's look once in a while."""


@dataclass
class Outcome:
    """What came of the kills.

    Attributes:
        kills: How many processes were killed in their work.
        finished: How many had finished before.
        wrong: What should not be.
    """

    kills: int = 0
    finished: int = 0
    wrong: list[str] = field(default_factory=list)


def forked(job: Job, folder: Path) -> int:
    """Run a job in a child that says nothing."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of threads, which do nothing here
        pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        os.setsid()  # so that its workers can be told from others
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.dup2(os.open(folder.with_suffix(".err"), os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
        job(folder)
        code = 0
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        os._exit(code)


def campaign(job: Job, place: Path, kills: int, seed: int) -> Outcome:
    """Kill a job so many times, a few times in each folder, and compare what it then ends with."""
    rng, outcome = random.Random(seed), Outcome()
    whole = place / "whole"
    whole.mkdir(parents=True)
    began = time.monotonic()
    _finish(job, whole, outcome)
    takes = time.monotonic() - began
    expected, number = tables(whole), 0
    while outcome.kills < kills and len(outcome.wrong) < 10 and number < 10 * kills:
        folder = place / f"killed-{number}"
        folder.mkdir()
        number += 1
        for _ in range(min(KILLS_A_FOLDER, kills - outcome.kills)):
            _kill(job, folder, rng.uniform(0, takes), outcome)
        _finish(job, folder, outcome)
        outcome.wrong += [f"{folder}: {what}" for what in compared(expected, folder)]
    return outcome


def _kill(job: Job, folder: Path, after: float, outcome: Outcome) -> None:
    pid = forked(job, folder)
    time.sleep(after)
    os.kill(pid, signal.SIGKILL)
    status = os.waitpid(pid, 0)[1]
    if os.WIFSIGNALED(status):
        outcome.kills += 1
        if not _ended(pid):
            outcome.wrong.append(f"{folder}: workers go on after {ENDED:g} s")
    else:
        outcome.finished += 1
        if status:
            outcome.wrong.append(f"{folder}: an error, see {folder}.err")


def _ended(session: int) -> bool:
    """Whether no process of a killed one's session goes on; those that end are waited for."""
    until = time.monotonic() + ENDED
    while _living(session):
        if time.monotonic() > until:
            return False
        time.sleep(0.2)
    return True


def _living(session: int) -> list[int]:
    """The processes of a session that have not ended; none where there is no /proc."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, its = path.read_text().rpartition(")")[2].split()[:4]
        except OSError:
            continue
        if int(its) == session and state != "Z":
            found.append(int(path.parent.name))
    return found


def _finish(job: Job, folder: Path, outcome: Outcome) -> None:
    if os.waitpid(forked(job, folder), 0)[1]:
        outcome.wrong.append(f"{folder}: the last run fails, see {folder}.err")


def tables(folder: Path) -> dict[str, Any]:
    """Every table by its file, without what takes time, and the bytes of figures and weights; of a store, its rows."""
    import mechsteer as ms
    from mechsteer.files import read_table

    if (folder / "store").exists():
        store = ms.ActivationStore.open(folder / "store", verify=True)
        rows = {site: store[site][:].tolist() for site in store}
        return {"rows": [store.index.to_dict("list"), rows], "prompts": [p.text for p in store.prompts()]}
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("[!.]*")):
        name = str(path.relative_to(folder))
        if path.suffix == ".parquet" and path.parent == folder:
            table = read_table(path)
            found[name] = table.drop(columns=[name for name in table if name in TIMES]).to_dict("list")
        elif path.suffix in (".png", ".safetensors"):
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def compared(expected: dict[str, Any], folder: Path) -> list[str]:
    """What differs from an uninterrupted run, and what is left over."""
    made = tables(folder)
    wrong = [f"{name} is not there" for name in expected if name not in made]
    wrong += [f"{name} differs" for name in made if repr(made[name]) != repr(expected.get(name))]
    return wrong + [f"{path.name} is left" for path in folder.rglob(".*") if any(mark in path.name for mark in LEFT)]
