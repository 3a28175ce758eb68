"""The study of :mod:`mechsteer.studies.families`, under the name that it has on the command line."""

from mechsteer.studies.families import run

__all__ = ["run"]
