"""``diagnose``: why a model ignores an instruction."""

from mechsteer.diagnosis.diagnose_run import Diagnosis, diagnose
from mechsteer.diagnosis.finding import Finding

__all__ = ["Diagnosis", "Finding", "diagnose"]
