"""Every steering family by strength: the study ``steering``."""

from mechsteer.studies.families.study import run

__all__ = ["run"]
