"""The documentation site builds without a complaint, has every page, and a dead link fails it."""

import importlib.util
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

import mechsteer as ms

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def builder() -> ModuleType:
    pytest.importorskip("zensical")
    spec = importlib.util.spec_from_file_location("build_docs", ROOT / "docs" / "build.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def laid(builder: ModuleType, tmp_path: Path) -> Path:
    builder.lay(tmp_path / "pages")
    return tmp_path


def test_the_site_has_every_page_and_every_public_name(builder: ModuleType, laid: Path) -> None:
    done = builder.made(laid)
    assert done.returncode == 0, done.stdout
    for page in (ROOT / "docs").rglob("*.md"):
        made = laid / "site" / page.relative_to(ROOT).with_suffix("")
        made = made.parent if page.name == "index.md" else made
        assert (made / "index.html").is_file(), page
    reference = (laid / "site" / "docs" / "reference" / "index.html").read_text(encoding="utf-8")
    names = {found.lower() for found in re.findall(r'<h3 id="([^"]+)"', reference)}
    assert {name.lower() for name in ms._HOME_OF} <= names
    assert re.search(r"<code>model</code>: A loaded model", reference), "arguments are lists"
    for linked in ("assets/t5_memotrap.png", "data/tasks/own/ten_words.jsonl", "notebooks/05_guide.ipynb"):
        assert (laid / "site" / linked).is_file()


@pytest.mark.parametrize("link", ["[a](nowhere.md)", "[a](concepts.md#nowhere)"])
def test_a_planted_dead_link_fails_the_build(link: str, builder: ModuleType, laid: Path) -> None:
    page = laid / "pages" / "docs" / "start.md"
    page.write_text(f"{page.read_text(encoding='utf-8')}\n{link}\n", encoding="utf-8")
    done = builder.made(laid)
    assert done.returncode != 0 and "start.md" in re.sub(r"\x1b\[[0-9;]*m", "", done.stdout)


def test_a_page_that_the_navigation_does_not_name_comes_last(builder: ModuleType) -> None:
    config = "nav:\n  - Concepts: docs/concepts.md\n"
    more = builder.with_all_pages(config).removeprefix(f"{config}  - More:\n").splitlines()
    pages = {str(page.relative_to(ROOT)) for page in (ROOT / "docs").rglob("*.md")}
    assert more == [f"      - {page}" for page in sorted(pages - {"docs/concepts.md"})]
    named = "nav:\n" + "".join(f"  - One: {page}\n" for page in pages)
    assert builder.with_all_pages(named) == named


@pytest.mark.parametrize(
    ("doc", "markdown"),
    [
        (
            "One.\n\nArgs:\n    a: First,\n        and more.\n    b: See :func:`mechsteer.add`.",
            "- `a`: First, and more.\n- `b`: See `add`.",
        ),
        ("One.\n\nExample:\n    >>> f(1)\n    >>> g(2)\n", "```pycon\n>>> f(1)\n>>> g(2)\n```"),
        ("``x`` is::\n\n    y = 2\n", "`x` is:\n\n    y = 2"),
    ],
)
def test_docstrings_become_markdown(doc: str, markdown: str, builder: ModuleType) -> None:
    assert markdown in builder.markdown(doc)


def test_signatures_have_defaults_and_no_types(builder: ModuleType) -> None:
    def example(a: int, *, b: Callable[..., int] | None = None, c: float = 0.5) -> int: ...

    assert builder.signature("example", example) == "example(a, *, b=None, c=0.5)"
    assert builder.signature("MechsteerError", ms.MechsteerError) == "MechsteerError"
