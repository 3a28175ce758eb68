"""Which ways to steer help each other: the study ``compose``."""

from mechsteer.studies.compose.study import run

__all__ = ["run"]
