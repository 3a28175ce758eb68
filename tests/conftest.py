"""Models for the tests: tiny random ones, made once a session, and the bundled organism."""

import gc
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from tests.shared import Shared
from tests.typecheck import begin_file

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny models: threads of several workers would only wait for each other


settings.register_profile("patient", settings(), deadline=None)  # a busy machine is no failure
settings.load_profile("patient")


def pytest_collection() -> None:
    """Imports make no garbage that is worth looking for."""
    gc.disable()


def pytest_collection_finish() -> None:
    """What was imported stays: no later collection of garbage looks through it, which takes a twelfth of the time.

    Nor is every 700th object a reason to look for garbage.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
    gc.enable()


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
def shared() -> Iterator[Shared]:
    """The models of this session."""
    models = Shared()
    yield models
    assert not models.with_other_weights(), "tests changed the weights of a model that others use"


@pytest.fixture(scope="module", autouse=True)
def _shared_models_stay_as_they_are(shared: Shared) -> Iterator[None]:
    begin_file()
    yield
    assert not shared.changed(), "a test of this file left a model that others use otherwise than it found it"


@pytest.fixture(scope="session")
def tiny(checkpoint: Callable[..., Path], shared: Shared) -> Callable[..., Any]:
    """A function from a family name to a loaded tiny model. Tests may not change it: load another."""
    import mechsteer as ms

    def get(family: str, *, chat: bool = False) -> Any:
        name = f"{family}, chat" if chat else family
        return shared.get(name, lambda: ms.load(str(checkpoint(family, chat=chat))))

    return get


@pytest.fixture(scope="session")
def organism(shared: Shared) -> Callable[[str], Any]:
    """A function from the name of a bundled organism to the model. Tests may not change it: load another."""
    import mechsteer as ms

    return lambda name: shared.get(name, lambda: ms.load(f"organism:{name}"))


@pytest.fixture(scope="session")
def trap_t5(organism: Callable[[str], Any]) -> Any:
    """The bundled encoder-decoder organism."""
    return organism("trap-t5")


@pytest.fixture(scope="session")
def instruct_llama(organism: Callable[[str], Any]) -> Any:
    """The bundled decoder-only organism."""
    return organism("instruct-llama")


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
