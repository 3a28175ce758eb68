"""The code of the guides runs as it stands there."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import mechsteer as ms
from tests.tiny import DECODERS

PAGES = sorted((Path(__file__).parents[1] / "docs").glob("*.md"))


def test_there_are_guides() -> None:
    assert PAGES


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_code_of_a_page_runs(page: Path) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```$", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    names: dict[str, Any] = {}
    for number, block in enumerate(blocks, start=1):
        exec(compile(block, f"{page.name}, block {number}", "exec"), names)


@pytest.mark.parametrize("family", DECODERS)
def test_the_librarys_tokens_are_the_tokenizers(family: str, tiny: Callable) -> None:
    model = tiny(family)
    text = "the cat sat on a mat"
    assert model.to_tokens(text)[0].tolist() == model.tokenizer(text)["input_ids"]
    assert torch.equal(model.to_tokens(text)[0], ms.prompt(model, text, chat=False).tokens)
