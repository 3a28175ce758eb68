"""Searches of several methods side by side: what they ask for at one time is answered together, in large batches.

Each search is as it would be alone: it sees its own answers only.
"""

from collections.abc import Generator, Mapping, Sequence
from functools import partial

import pandas as pd

from mechsteer.errors import MechsteerError
from mechsteer.tuning.search import Search
from mechsteer.tuning.trying import Asked, Runs, all_or_each

Answers = list[pd.DataFrame]
Going = Generator[list[Asked], Answers, None]


def in_step(runs: Runs, searches: Mapping[str, Search]) -> dict[str, str]:
    """Run searches to their ends.

    Returns:
        Those that could not go on, and why.
    """
    going: dict[str, Going] = {name: search.steps() for name, search in searches.items()}
    failed: dict[str, str] = {}
    answers: dict[str, Answers] = {}
    while going:
        asked: dict[str, list[Asked]] = {}
        for name in list(going):
            try:
                asked[name] = going[name].send(answers[name]) if name in answers else next(going[name])
            except StopIteration:
                del going[name]
            except MechsteerError as error:
                failed[name] = str(error)
                del going[name]
        found = all_or_each(asked, partial(_answered, runs))
        answers = {name: tables for name, tables in found.items() if not isinstance(tables, str)}
        failed |= {name: why for name, why in found.items() if isinstance(why, str)}
        going = {name: one for name, one in going.items() if name in answers}
    return failed


def _answered(runs: Runs, asked: Mapping[str, Sequence[Asked]]) -> dict[str, Answers]:
    """What each asked for."""
    tables = iter(runs.many([one for some in asked.values() for one in some]))
    return {name: [next(tables) for _ in some] for name, some in asked.items()}
