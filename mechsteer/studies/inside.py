"""The study of :mod:`mechsteer.studies.t5_sublayers`, under the name that it has on the command line."""

from mechsteer.studies.t5_sublayers import run

__all__ = ["run"]
