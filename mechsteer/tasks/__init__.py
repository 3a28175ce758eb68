"""Tasks: data and the scorer that belongs to it."""

from mechsteer.tasks.answers import Answers, Question, copying, recall
from mechsteer.tasks.instructions import Instructed, Instructions, instructions
from mechsteer.tasks.memotrap import MemoTrap, Trap, memotrap

__all__ = [
    "Answers",
    "Instructed",
    "Instructions",
    "MemoTrap",
    "Question",
    "Trap",
    "copying",
    "instructions",
    "memotrap",
    "recall",
]
