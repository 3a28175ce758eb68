"""``compare``: several ways to steer on the same prompts, beside each other."""

from mechsteer.comparison.compare_run import Comparison, compare

__all__ = ["Comparison", "compare"]
