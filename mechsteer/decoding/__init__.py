"""Running a model: generating under any strategy and intervention, and scoring given texts."""

from mechsteer.decoding.directer import Directer
from mechsteer.decoding.dola import DoLa
from mechsteer.decoding.gated import Gated
from mechsteer.decoding.generate import Generation, generate
from mechsteer.decoding.score import score
from mechsteer.decoding.strategies import Choice, Chooser, Greedy, Pass, Sample, Strategy
from mechsteer.decoding.stream import stream

__all__ = [
    "Choice",
    "Chooser",
    "Directer",
    "DoLa",
    "Gated",
    "Generation",
    "Greedy",
    "Pass",
    "Sample",
    "Strategy",
    "generate",
    "score",
    "stream",
]
