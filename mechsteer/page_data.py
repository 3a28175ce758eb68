"""Data inside a page: JSON, compressed, in base64; a script reads it with the browser's DecompressionStream."""

import base64
import gzip
import html
import json
from typing import Any


def packed(value: Any) -> str:
    """A value as compressed JSON in base64, the same bytes each time."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return base64.b64encode(gzip.compress(text.encode(), 6, mtime=0)).decode()


def holder(name: str, value: str) -> str:
    """An element that holds what :func:`packed` made; no browser runs or shows it."""
    return f'<script type="application/gzip" data-for="{html.escape(name)}">{value}</script>'
