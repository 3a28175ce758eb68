"""The quick profile: some bad files of every kind, read in this process; ``make fuzz`` reads 100,000."""

from pathlib import Path
from typing import Any

import pytest

import mechsteer as ms
from tests.fuzz.campaign import GOOD, Bench, Outcome, campaign
from tests.fuzz.kinds import KINDS, Kind
from tests.fuzz.mutate import mutated
from tests.typecheck import unchecked

SLOW = "config.json generation_config.json tokenizer safetensors sharded GGUF SAE".split()


@pytest.fixture(scope="module", autouse=True)
def _quiet() -> Any:
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    with unchecked():  # what users meet
        yield
    logging.set_verbosity(before)


@pytest.mark.parametrize("name", KINDS)
def test_a_bad_file_is_one_line_or_a_correct_load(name: str, tmp_path: Path) -> None:
    count = 4 if name.startswith(tuple(SLOW)) else 25
    bench, outcome = Bench.of(KINDS[name], tmp_path / "bench"), Outcome()
    for seed in range(count):
        outcome.add(seed, bench.attempt(seed))
    assert not outcome.bad
    assert outcome.counts["refused"]


def _kind(read: Any, ours: bool = False) -> Kind:
    def prepare(folder: Path) -> Path:
        path = folder / "file"
        path.write_bytes(b"good")
        return path

    return Kind("test", prepare, read, (lambda rng, content: content + b"!",), ours)


def test_what_is_wrong_is_seen(tmp_path: Path) -> None:
    def of(number: int, what: Any, ours: bool = False) -> str:
        def read(folder: Path) -> Any:
            content = (folder / "file").read_bytes()
            return what() if content != b"good" else content

        return Bench.of(_kind(read, ours), tmp_path / str(number)).attempt(0)

    def fail(error: BaseException) -> Any:
        raise error

    assert of(0, lambda: fail(ms.MechsteerError("one line"))) == "refused"
    assert of(1, lambda: 3) == "loaded"
    assert of(2, lambda: 3, True).startswith("silent")
    assert of(3, lambda: fail(KeyError("x"))).startswith("traceback: KeyError")
    several = ms.MechsteerError("x")
    several.args = ("two\nlines",)
    assert of(4, lambda: fail(several)).startswith("no line")


def test_a_child_that_dies_or_hangs_is_counted_and_the_others_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import os
    import time

    def read(folder: Path) -> bytes:
        content = (folder / "file").read_bytes()
        if content == b"die":
            os._exit(3)
        if content == b"hang":
            time.sleep(60)
        return content

    monkeypatch.setattr("tests.fuzz.campaign.LIMIT", 0.3)
    kind = Kind("test", _kind(read).prepare, read, (lambda rng, content: rng.choice((b"die", b"hang", b"fine")),))
    bench = Bench.of(kind, tmp_path / "bench")
    expected = [mutated(kind.changes, ("test", seed), b"good") for seed in range(6)]
    outcome = campaign(bench, range(6))
    names = {b"die": "died", b"hang": "hang", b"fine": "loaded"}
    assert outcome.counts == {
        name: count for content, name in names.items() if (count := expected.count(content))
    } and set(expected) == set(names)
    assert all(what.partition(":")[0] not in GOOD for _, what in outcome.bad)
