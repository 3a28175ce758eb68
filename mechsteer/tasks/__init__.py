"""Tasks: data and the scorer that belongs to it."""

from mechsteer.tasks.answers import Answers, Question, copying, recall
from mechsteer.tasks.ifeval import IFEval, IFEvalPrompt, ifeval
from mechsteer.tasks.instructions import Instructed, Instructions, instructions
from mechsteer.tasks.memotrap import MemoTrap, Trap, memotrap

__all__ = [
    "Answers",
    "IFEval",
    "IFEvalPrompt",
    "Instructed",
    "Instructions",
    "MemoTrap",
    "Question",
    "Trap",
    "copying",
    "ifeval",
    "instructions",
    "memotrap",
    "recall",
]
