"""The papers' IFEval table, on any model: prompting and attention methods, with quality and cost."""

from mechsteer.studies.ifeval.study import run

__all__ = ["run"]
