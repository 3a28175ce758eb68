"""Instruction vectors (arXiv 2410.12877): the study ``steer-instruct``."""

from mechsteer.studies.instruction_vectors.study import run

__all__ = ["run"]
