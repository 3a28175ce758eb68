"""Instruction vectors on IFEval's prompts, on any model: the study ``ifeval-vectors``."""

from mechsteer.studies.ifeval_vectors.study import run

__all__ = ["run"]
