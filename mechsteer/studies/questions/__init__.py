"""Four questions that the instruction-vector paper leaves open: the study ``questions``."""

from mechsteer.studies.questions.study import run

__all__ = ["run"]
