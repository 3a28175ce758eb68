"""Inside a T5 that obeys or is trapped: the study ``inside``."""

from mechsteer.studies.inside.study import run

__all__ = ["run"]
