"""The type checker of the test runs: beartype, with an int allowed where a float is annotated, as PEP 484 says."""

from collections.abc import Iterator
from contextlib import contextmanager

from beartype import BeartypeConf, beartype
from jaxtyping import config

checker = beartype(conf=BeartypeConf(is_pep484_tower=True))


@contextmanager
def unchecked() -> Iterator[None]:
    """For whole studies: shapes are not checked, which takes four fifths of their time; their parts are checked."""
    config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        config.update("jaxtyping_disable", False)
