"""DIRECTER (arXiv 2603.06745): the study ``directer``."""

from mechsteer.studies.directer.study import run

__all__ = ["run"]
