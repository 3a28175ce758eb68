"""The tables of a tuning: every candidate, and the best of each method."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from mechsteer.tuning.ladders import FAMILIES
from mechsteer.tuning.search import Search, Tried
from mechsteer.tuning.side_effects import LIMIT, Side

COLUMNS = ["method", "strength", "unit", "layer", "divergence", "n", "adherence", "adherence_low", "adherence_high"]
COLUMNS += ["followed", "quality", "above_floor", "collapsed", "n_tokens", "dropped"]


def curve_table(searches: Mapping[str, Search], unsteered: Tried) -> pd.DataFrame:
    """One row a candidate, the unsteered model first.

    Returns:
        method, strength, unit (of the strength), layer (-1 without), divergence (nats; see
        :mod:`mechsteer.decoding.divergence`), n (prompts answered), adherence with adherence_low and adherence_high (95
        %; answers that follow and have not collapsed), followed (the same, collapsed ones too), quality, above_floor
        (on the same prompts), collapsed (shares), n_tokens (all that were generated for it), dropped (why it did not
        answer all prompts).
    """
    rows = [_row(unsteered, 0.0, above=True)]
    for search in searches.values():
        rows += [_row_of(search, one) for one in search.tried]
    return pd.DataFrame(rows, columns=COLUMNS)


def _row_of(search: Search, one: Tried) -> dict[str, Any]:
    above = bool(one.parts) and bool(search.rank(one)[0])
    return _row(one, search.grid.moved(one.candidate), above=above)


def _row(one: Tried, moved: float, *, above: bool) -> dict[str, Any]:
    candidate, adherence = one.candidate, one.interval("adherence")
    family = FAMILIES.get(candidate.method)
    return {
        "method": candidate.method,
        "strength": candidate.strength,
        "unit": family.argument if family else "",
        "layer": candidate.layer,
        "divergence": moved,
        "n": adherence.n,
        "adherence": adherence.mean,
        "adherence_low": adherence.low,
        "adherence_high": adherence.high,
        "followed": one.mean("followed"),
        "quality": one.mean("quality"),
        "above_floor": above,
        "collapsed": one.mean("collapsed"),
        "n_tokens": one.tokens or int(sum(one.values("n_tokens"))),
        "dropped": one.dropped,
    }


def best_table(searches: Mapping[str, Search], unsteered: Tried, side: Side) -> tuple[pd.DataFrame, Tried | None]:
    """The best candidate of each method, the best first, and the one that is chosen.

    Returns:
        The columns of :func:`curve_table`, then edge (above the floor, and nothing stronger was tried: a better one may
        lie beyond), side_same and side_kept (unrelated answers that are the same text, and that are no worse) and
        chosen; and the chosen candidate: the best of all that is above the floor, follows more often than the unsteered
        model, and leaves unrelated answers as they are. None if there is none.
    """
    found = [(search, best) for search in searches.values() if (best := search.best()) is not None]
    found.sort(key=lambda pair: pair[0].rank(pair[1]), reverse=True)
    table = pd.DataFrame([_row_of(search, one) for search, one in found], columns=COLUMNS)
    edges = [search.grid.is_edge(one.candidate, [other.candidate for other in search.tried]) for search, one in found]
    edges = [edge and bool(above) for edge, above in zip(edges, table["above_floor"], strict=True)]
    effects = [side.effect(search.grid.way(one.candidate)) for search, one in found]
    table = table.assign(edge=edges, side_same=[e.same for e in effects], side_kept=[e.kept for e in effects])
    better = table["above_floor"].astype(bool) & (table["adherence"] > unsteered.mean("adherence"))
    allowed = list(better & (table["side_kept"] >= 1 - LIMIT))
    first = allowed.index(True) if any(allowed) else None
    chosen = None if first is None else found[first][1]
    return table.assign(chosen=[place == first for place in range(len(found))]), chosen
