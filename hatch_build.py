"""README.md for the package page: its links lead to the repository, where ``[project.urls]`` names one.

The package page has no other file of the repository. Without a ``Repository`` there, links to files become plain text
and figures are left out, so that no link on the page is dead.
"""

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

LINK = re.compile(r"(!?)\[([^\]]*)\]\((?!https?://|#|mailto:)([^)\s]+)\)")


def absolute(text: str, repository: str = "") -> str:
    """A text of Markdown whose links to files are links to ``repository``, or none.

    Args:
        text: The text, with links relative to the repository's root.
        repository: The repository's page, under which ``blob/main`` and ``raw/main`` have its files; or nothing.
    """

    def link(found: re.Match[str]) -> str:
        image, name, path = found.groups()
        if repository:
            return f"{image}[{name}]({repository.rstrip('/')}/{'raw' if image else 'blob'}/main/{path})"
        return "" if image else name

    return LINK.sub(link, text)


class Readme(MetadataHookInterface):
    """Gives hatchling the readme."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Put the text into the project's metadata."""
        text = (Path(self.root) / "README.md").read_text(encoding="utf-8")
        repository = metadata.get("urls", {}).get("Repository", "")
        metadata["readme"] = {"content-type": "text/markdown", "text": absolute(text, repository)}
