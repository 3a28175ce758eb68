"""Checksums that lie inside our own files, so that a file knows whether it is whole.

A file is written with a blank checksum; then the SHA-256 of all of its bytes takes the place of the blank. Reading puts
the blank back and compares. So every byte is covered, the checksum can't come apart from its file, and the format stays
what it was: safetensors, parquet and GGUF keep the checksum in their metadata, JSON under the name ``checksum``.
"""

import hashlib
import os
import re

from mechsteer.errors import MechsteerError

NAME = "checksum"
BLANK = "mechsteer-sha256:" + 64 * "0"
_STATED = re.compile(rb"mechsteer-sha256:([0-9a-f]{64})")
_REMAINS = re.compile(rb"mechsteer-sha|eer-sha256")


def sealed(content: bytes) -> bytes:
    """The content of a file with its checksum in the place of its first :data:`BLANK`."""
    before, blank, after = content.partition(BLANK.encode())
    assert blank, "the content has no place for a checksum"
    stated = hashlib.sha256(content).hexdigest().encode()
    return b"".join([before, blank[: -len(stated)], stated, after])


def has_checksum(content: bytes) -> bool:
    """Whether the content states a checksum, if only in part. Files of the first versions of mechsteer do not."""
    return _REMAINS.search(content) is not None


def check(content: bytes, path: str | os.PathLike[str], what: str) -> None:
    """Raise unless the content is, bit for bit, what :func:`sealed` returned.

    Args:
        content: All bytes of the file.
        path: The file, for the message.
        what: What kind of file, for the message.

    Raises:
        MechsteerError: for a file that was changed, damaged or cut, and for one without a checksum, saying what to do.
    """
    stated = list(_STATED.finditer(content))
    if not stated:
        raise MechsteerError(
            f"{path} is not a readable {what} of this version of mechsteer: it has no checksum (truncated, foreign, or "
            "written by an earlier version?). Make it again."
        )
    if not any(_sum_without(content, found.span(1)) == found[1] for found in stated):
        raise MechsteerError(
            f"{path} is not a readable {what}: it is damaged, for its content does not fit its checksum. Make it "
            "again, or take a copy that is whole."
        )


def _sum_without(content: bytes, place: tuple[int, int]) -> bytes:
    """The hash of the content with a blank at that place."""
    start, end = place
    made = hashlib.sha256(memoryview(content)[:start])
    made.update(b"0" * (end - start))
    made.update(memoryview(content)[end:])
    return made.hexdigest().encode()
