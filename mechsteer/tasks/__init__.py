"""Tasks: data and the scorer that belongs to it."""

from mechsteer.tasks.answers import Answers, Question, copying, recall
from mechsteer.tasks.memotrap import MemoTrap, Trap, memotrap

__all__ = ["Answers", "MemoTrap", "Question", "Trap", "copying", "memotrap", "recall"]
