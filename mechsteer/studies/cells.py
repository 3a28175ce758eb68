"""Cells computed once, under their earlier address; see :mod:`mechsteer.studies.core.cells`."""

from mechsteer.studies.core.cells import cell, evaluated

__all__ = ["cell", "evaluated"]
