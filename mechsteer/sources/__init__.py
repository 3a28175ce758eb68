"""Where states come from: a model that is run, or activations that were captured: in a store, in memory, in a cache."""

from mechsteer.sources.cache import as_recorded, from_cache
from mechsteer.sources.live import Running, Steering, batches, begin, last_states, run_under
from mechsteer.sources.pairs import (
    GROUPS,
    Pair,
    Paired,
    check_made_by,
    pair_prompts,
    paired,
    pairs_at_layers,
    refuse_steer,
)
from mechsteer.sources.recorded import (
    DEFAULT_GROUP,
    ROWS,
    Member,
    Places,
    Recorded,
    member_of,
    members_of,
    prompt_id,
)

__all__ = [
    "DEFAULT_GROUP",
    "GROUPS",
    "ROWS",
    "Member",
    "Pair",
    "Paired",
    "Places",
    "Recorded",
    "Running",
    "Steering",
    "as_recorded",
    "batches",
    "begin",
    "check_made_by",
    "from_cache",
    "last_states",
    "member_of",
    "members_of",
    "pair_prompts",
    "paired",
    "pairs_at_layers",
    "prompt_id",
    "refuse_steer",
    "run_under",
]
