"""Prompts: text or messages to tokens with named spans, and batches with padding.

A span is where a part of the prompt (the instruction, the task, an emphasised stretch) lies among the tokens. Spans are
computed from the tokenizer's own character offsets while the text is put together.
"""

from mechsteer.prompts.batches import Batch, batch
from mechsteer.prompts.making import PARTS, prompt
from mechsteer.prompts.record import Messages, Prompt, PromptLike, Prompts
from mechsteer.prompts.tags import LEVELS
from mechsteer.prompts.vocabulary import token_names

__all__ = ["LEVELS", "PARTS", "Batch", "Messages", "Prompt", "PromptLike", "Prompts", "batch", "prompt", "token_names"]
