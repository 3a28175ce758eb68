"""Tasks: data and the scorer that belongs to it."""

from mechsteer.tasks.answers import Answers, Question, copying, recall
from mechsteer.tasks.ifeval import IFEval, IFEvalPrompt, ifeval
from mechsteer.tasks.instructions import Instructed, Instructions, instructions
from mechsteer.tasks.json_schema import JsonSchema, Structured, json_schema
from mechsteer.tasks.memotrap import MemoTrap, Trap, memotrap
from mechsteer.tasks.needle import Hidden, Needle, needle

__all__ = [
    "Answers",
    "Hidden",
    "IFEval",
    "IFEvalPrompt",
    "Instructed",
    "Instructions",
    "JsonSchema",
    "MemoTrap",
    "Needle",
    "Question",
    "Structured",
    "Trap",
    "copying",
    "ifeval",
    "instructions",
    "json_schema",
    "memotrap",
    "needle",
    "recall",
]
