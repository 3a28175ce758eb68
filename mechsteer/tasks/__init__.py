"""Tasks: data and the scorer that belongs to it."""

from mechsteer.tasks.answers import Answers, Question, copying, recall
from mechsteer.tasks.ifeval import IFEval, IFEvalPrompt
from mechsteer.tasks.ifeval.file import ifeval
from mechsteer.tasks.instructions import Instructed, Instructions, instructions
from mechsteer.tasks.json_schema import JsonSchema, Structured, json_schema
from mechsteer.tasks.memotrap import MemoTrap, Trap, memotrap
from mechsteer.tasks.needle import Hidden, Needle, needle
from mechsteer.tasks.opinion import Opinion, OpinionQuestion, opinion
from mechsteer.tasks.own_samples import OwnSample
from mechsteer.tasks.own_task import OwnTask, task
from mechsteer.tasks.rules import Asked, Rules, bundled_rules, rules

__all__ = [
    "Answers",
    "Asked",
    "Hidden",
    "IFEval",
    "IFEvalPrompt",
    "Instructed",
    "Instructions",
    "JsonSchema",
    "MemoTrap",
    "Needle",
    "Opinion",
    "OpinionQuestion",
    "OwnSample",
    "OwnTask",
    "Question",
    "Rules",
    "Structured",
    "Trap",
    "bundled_rules",
    "copying",
    "ifeval",
    "instructions",
    "json_schema",
    "memotrap",
    "needle",
    "opinion",
    "recall",
    "rules",
    "task",
]
