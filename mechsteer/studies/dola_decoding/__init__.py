"""DoLa against greedy decoding, by category of instruction (arXiv 2512.03803v2): the study ``dola-decoding``."""

from mechsteer.studies.dola_decoding.study import run

__all__ = ["run"]
