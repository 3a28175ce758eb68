"""The code of the README and of the guides runs as it stands there, and no link of theirs is dead."""

import ast
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pytest
import torch

import mechsteer as ms
from tests.markdown import blocks, dead_links
from tests.tiny import DECODERS

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
LINKED = [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "data").rglob("*.md"))]


def named(page: Path) -> str:
    return str(page.relative_to(ROOT))


def test_there_are_guides() -> None:
    assert len(PAGES) > 10


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("page", PAGES, ids=named)
def test_the_code_of_a_page_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for number, block in enumerate(blocks(page.read_text(encoding="utf-8")), start=1):
        if block.language == "python" and block.runs:
            exec(compile(block.code, f"{page.name}, block {number}", "exec"), names)
        elif block.language == "python":
            ast.parse(block.code)
    plt.close("all")


def test_answers_in_the_readme_are_those_that_its_code_prints(capsys: pytest.CaptureFixture[str]) -> None:
    first = next(b for b in blocks((ROOT / "README.md").read_text(encoding="utf-8")) if b.language == "python")
    said = [line.removeprefix("# ") for line in first.code.splitlines() if line.startswith("# ")]
    exec(compile(first.code, "README.md", "exec"), {})
    assert len(said) == 2 and capsys.readouterr().out.splitlines()[:2] == said


@pytest.mark.parametrize("page", LINKED, ids=named)
def test_no_link_is_dead(page: Path) -> None:
    assert list(dead_links(page)) == []


def test_a_planted_dead_link_is_found(tmp_path: Path) -> None:
    (tmp_path / "b.md").write_text("# There, or not?\n\n```sh\n# no heading\n```\n")
    page = tmp_path / "a.md"
    good = "[b](b.md) [b](b.md#there-or-not) [c](#here) [d](https://example.org/x) ![e](b.md)\n\n# Here\n"
    page.write_text(good)
    assert list(dead_links(page)) == []
    page.write_text(f"{good}\n[x](c.md) ![x](b.png) [x](b.md#no-heading) [x](#below)\n\n```md\n[x](d.md)\n```\n")
    assert list(dead_links(page)) == ["c.md", "b.png", "b.md#no-heading", "#below"]


def test_a_block_is_left_out_only_where_it_says_why() -> None:
    text = (
        "```python\na\n```\n<!-- not run: takes a minute -->\n```python\nb\n```\n<!-- not run: -->\n```python\nc\n```\n"
    )
    assert [(block.code, block.runs) for block in blocks(text)] == [("a\n", True), ("b\n", False), ("c\n", True)]


@pytest.mark.parametrize("family", DECODERS)
def test_the_librarys_tokens_are_the_tokenizers(family: str, tiny: Callable) -> None:
    model = tiny(family)
    text = "the cat sat on a mat"
    assert model.to_tokens(text)[0].tolist() == model.tokenizer(text)["input_ids"]
    assert torch.equal(model.to_tokens(text)[0], ms.prompt(model, text, chat=False).tokens)


def sources() -> str:
    """The package's code, with texts that go over several lines in one piece."""
    code = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "mechsteer").rglob("*.py"))
    return re.sub(r'"\s*\n\s*f?"', "", code)


def test_the_messages_that_are_explained_are_the_packages() -> None:
    page = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    messages = re.findall(r"`([^`]+)`", " ".join(re.findall(r"^\*\*.*?\*\*:", page, flags=re.MULTILINE)))
    assert len(messages) > 15
    code = sources()
    for message in messages:
        parts = [
            part
            for part in re.split(r"\.\.\.|\d+|'\w+'|\[|\]", message.removeprefix("Unknown "))
            if len(part.strip()) > 3
        ]
        assert parts and all(part.strip() in code for part in parts), message
