"""What tests read in the Markdown of the README and the guides: code, and links."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

FENCE = re.compile(r"^(?P<before>[^\n]*)\n```(?P<language>\w*)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)
NOT_RUN = re.compile(r"<!-- not run: \S.* -->")
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A block of code.

    Attributes:
        language: As the fence says.
        code: The lines.
        runs: Whether it is to be run: not if the line before the fence is ``<!-- not run: WHY -->``.
    """

    language: str
    code: str
    runs: bool


def blocks(text: str) -> list[Block]:
    """The fenced blocks of a page."""
    found = FENCE.finditer("\n" + text)
    return [Block(m["language"], m["code"], not NOT_RUN.fullmatch(m["before"].strip())) for m in found]


def dead_links(page: Path) -> Iterator[str]:
    """The links of a page to files that are not there, or to headings that a page does not have."""
    text = FENCE.sub("", "\n" + page.read_text(encoding="utf-8"))
    for target in LINK.findall(text):
        if re.match(r"https?://|mailto:", target):
            continue
        path, _, anchor = target.partition("#")
        other = page.parent / path if path else page
        if not other.exists() or (anchor and anchor not in anchors(other)):
            yield target


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub and the site make them."""
    if page.suffix != ".md":
        return set()
    text = FENCE.sub("", "\n" + page.read_text(encoding="utf-8"))
    plain = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in HEADING.findall(text))
    return {heading.strip().replace(" ", "-") for heading in plain}
