"""The study of :mod:`mechsteer.studies.instruction_vectors`, under the name that it has on the command line."""

from mechsteer.studies.instruction_vectors import run

__all__ = ["run"]
