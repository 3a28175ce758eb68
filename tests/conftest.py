"""Models for the tests: tiny random ones, made once a session, and the bundled organism."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny models: threads of several workers would only wait for each other


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A function from a family name to the directory of a tiny checkpoint."""
    from tests.tiny import write_checkpoint

    made: dict[tuple[str, bool], Path] = {}

    def get(family: str, *, chat: bool = False) -> Path:
        key = (family, chat)
        if key not in made:
            made[key] = write_checkpoint(family, tmp_path_factory.mktemp(f"ckpt-{len(made)}"), chat=chat)
        return made[key]

    return get


@pytest.fixture(scope="session")
def tiny(checkpoint: Callable[..., Path]) -> Callable[..., Any]:
    """A function from a family name to a loaded tiny model."""
    import mechsteer as ms

    made: dict[tuple[str, bool], Any] = {}

    def get(family: str, *, chat: bool = False) -> Any:
        key = (family, chat)
        if key not in made:
            made[key] = ms.load(str(checkpoint(family, chat=chat)))
        return made[key]

    return get


@pytest.fixture(scope="session")
def trap_t5() -> Any:
    """The bundled encoder-decoder organism."""
    import mechsteer as ms

    return ms.load("organism:trap-t5")


@pytest.fixture
def unchecked() -> Iterator[None]:
    """What users meet; under the tests' type checks the signature itself would refuse first."""
    import jaxtyping

    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def mechsteer(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """A function that runs the command line in this process: exit code, stdout, stderr."""
    from mechsteer import cli

    def run(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = 0
        try:
            cli.main([str(a) for a in arguments])
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else int(bool(stop.code))
        out, err = capsys.readouterr()
        return code, out, err

    return run
