"""Inside a T5 that obeys or is trapped: the study ``inside``."""

from mechsteer.studies.t5_sublayers.study import run

__all__ = ["run"]
