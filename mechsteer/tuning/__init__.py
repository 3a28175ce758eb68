"""``tune``: methods, layers and strengths chosen on one half of the prompts, and tested once on the other."""

from mechsteer.tuning.result import Tuning
from mechsteer.tuning.tune_run import tune

__all__ = ["Tuning", "tune"]
