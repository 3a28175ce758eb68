"""Layerwise additive interventions (arXiv 2502.06115): the study ``layerwise``."""

from mechsteer.studies.layerwise.study import run

__all__ = ["run"]
