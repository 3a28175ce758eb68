"""Chat formats in wide use, to be tried where a tokenizer has their marks and its own template does not write them."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Format:
    """One user turn and the header of the answer.

    Attributes:
        name: What it is called.
        before: What stands before the user's text.
        after: What stands behind it.
        marks: The tokens without which it is not meant.
    """

    name: str
    before: str
    after: str
    marks: tuple[str, ...]


FORMATS = (
    Format(
        "ChatML",
        "<|im_start|>user\n",
        "<|im_end|>\n<|im_start|>assistant\n",
        ("<|im_start|>", "<|im_end|>"),
    ),
    Format(
        "Llama 3",
        "<|start_header_id|>user<|end_header_id|>\n\n",
        "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
        ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    ),
    Format(
        "Gemma",
        "<start_of_turn>user\n",
        "<end_of_turn>\n<start_of_turn>model\n",
        ("<start_of_turn>", "<end_of_turn>"),
    ),
    Format("Phi 3", "<|user|>\n", "<|end|>\n<|assistant|>\n", ("<|user|>", "<|end|>", "<|assistant|>")),
    Format("Mistral", "[INST] ", " [/INST]", ("[INST]", "[/INST]")),
)


def formats_for(tokenizer: Any) -> Iterator[Format]:
    """The formats whose marks are tokens of this tokenizer, though not in its template."""
    vocabulary, template = tokenizer.get_vocab(), str(getattr(tokenizer, "chat_template", None) or "")
    for one in FORMATS:
        if all(mark in vocabulary for mark in one.marks) and one.marks[0] not in template:
            yield one
