"""Gradient steering against memorisation (arXiv 2512.03803v2): the study ``t5-dola``."""

from mechsteer.studies.t5_dola.study import run

__all__ = ["run"]
