"""Running a model: generating under any strategy and intervention, and scoring given texts."""

from mechsteer.decoding.generate import Generation, generate
from mechsteer.decoding.score import score
from mechsteer.decoding.strategies import Greedy, Sample, Strategy

__all__ = ["Generation", "Greedy", "Sample", "Strategy", "generate", "score"]
