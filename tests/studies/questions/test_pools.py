"""Pools of pairs: what varies in each, and that sides and splits share nothing that they should not."""

import pytest

from mechsteer.errors import MechsteerError
from mechsteer.studies.questions import pools
from mechsteer.tasks import Instructed, instructions

TOPICS = pools.topics_of("validation", 8)


def drawn(pool: str, count: int = 64, **options: int) -> list[Instructed]:
    return pools.drawn("upper", pool, count, draw=options.get("draw", 0), side=options.get("side", 0), topics=TOPICS)


@pytest.mark.parametrize(
    ("pool", "topics", "wordings"), [(pools.NARROW, 1, 1), (pools.TOPICS, 20, 1), (pools.WIDE, 20, 4)]
)
def test_a_pool_varies_as_it_says(pool: str, topics: int, wordings: int) -> None:
    samples = drawn(pool)
    assert len({(s.task, s.context) for s in samples}) >= 60  # of one topic, by chance some twice
    assert len({s.topic for s in samples}) >= topics and len({s.instruction for s in samples}) == wordings
    if topics == 1:
        assert len({s.topic for s in samples}) == 1
    assert all(s.topic in s.task and s.topic not in s.context and s.context for s in samples)


@pytest.mark.parametrize("pool", pools.POOLS)
def test_a_smaller_number_is_the_first_of_a_larger_one_and_draws_differ(pool: str) -> None:
    assert drawn(pool, 5) == drawn(pool)[:5]
    assert drawn(pool) == drawn(pool) != drawn(pool, draw=1)


@pytest.mark.parametrize("pool", [pools.TOPICS, pools.WIDE])
def test_the_sides_of_a_draw_share_no_question(pool: str) -> None:
    one, other = ({s.task for s in drawn(pool, side=side)} for side in (0, 1))
    assert not one & other


def test_vectors_come_from_topics_that_nothing_is_chosen_or_reported_on() -> None:
    chosen_on = {s.topic for s in instructions("list", split="validation", n=8).samples}
    reported = {s.topic for s in instructions("list").samples}
    assert not set(TOPICS) & (chosen_on | reported | set(pools.topics_of("evaluation")))
    assert len(TOPICS) == len(set(TOPICS)) == 32


def test_limits_are_those_that_the_instruction_names() -> None:
    samples = pools.drawn("length", pools.WIDE, 30, draw=0, topics=TOPICS)
    assert all(str(s.limit) in s.instruction for s in samples) and len({s.limit for s in samples}) > 3


def test_questions_have_a_place_for_their_topic() -> None:
    assert len(pools.questions()) == 5 and all(q.count("{topic}") == 1 for q in pools.questions())


@pytest.mark.parametrize(("kinds", "message"), [([], "got none"), (["uper"], "'upper'"), (["keyword"], "keyword")])
def test_other_kinds_are_refused(kinds: list[str], message: str) -> None:
    with pytest.raises(MechsteerError, match=message):
        pools.check_kinds(kinds)
