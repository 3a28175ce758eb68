"""GUIDE and Influence (arXiv 2409.19001): the study ``guide``."""

from mechsteer.studies.guide.study import run

__all__ = ["run"]
