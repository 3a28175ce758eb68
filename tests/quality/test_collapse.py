"""The detector on the bundled labelled outputs: limits from one half, numbers from the other."""

from collections import Counter
from typing import Any

import pytest

from mechsteer.quality.collapse import LIMITS, excesses, reason_of
from mechsteer.quality.labelled import chosen_limits, labelled, other_splits, report
from mechsteer.quality.surprise import surprises
from mechsteer.tasks import instructions


def half(name: str) -> list[Any]:
    return [row for row in labelled() if row.half == name]


def test_the_set_has_what_its_card_says() -> None:
    rows = labelled()
    counts = Counter(row.label for row in rows)
    assert len(rows) == 423 and set(counts) == {"good", "truncated", "loop", "word salad", "copied prompt", "empty"}
    assert min(counts.values()) >= 5 and {"short", "list", "JSON"} <= {row.form for row in rows if row.label == "good"}
    assert not {row.prompt for row in half("choosing")} & {row.prompt for row in half("measuring")}
    assert len({(row.model, row.prompt, row.output) for row in rows}) >= len(rows) - counts["empty"]


def test_the_limits_are_those_of_one_half() -> None:
    assert chosen_limits(half("choosing")) == LIMITS


def test_the_detector_on_the_other_half() -> None:
    found = report(half("measuring"))
    assert found.auc >= 0.95
    assert found.alarms[0] <= 0.02 * found.alarms[1] and found.alarms[1] >= 90
    assert found.steered_alarms[0] <= 0.02 * found.steered_alarms[1]
    assert found.found[0] >= 0.9 * found.found[1]


def test_other_divisions_of_the_prompts_say_much_the_same() -> None:
    others = other_splits(6)
    assert min(one.auc for one in others) >= 0.95
    assert sum(one.alarms[0] for one in others) <= 0.02 * sum(one.alarms[1] for one in others)


def test_the_measured_surprise_is_what_the_model_gives(instruct_llama: Any) -> None:
    model, task = instruct_llama, instructions("upper", n=2)
    for prompt in task.prompts(model):
        (row,) = [row for row in labelled() if row.prompt == prompt.text and row.made == "unsteered, upper"]
        ids = model.tokenizer(row.output, add_special_tokens=False)["input_ids"]
        (found,) = surprises(model, [prompt], [ids])
        assert (found.mean, found.p95, found.excess) == pytest.approx(
            (row.surprise, row.surprise_p95, row.surprise_excess), abs=2e-3
        )


@pytest.mark.parametrize(
    ("text", "measured", "reason"),
    [
        ("", {}, "empty"),
        ("\n\n...\n", {}, "empty"),
        ("I am ready to help. " * 8, {}, "loop"),
        ('{"a{"a{"a{"a{"a{"a{"a{"a{"a', {}, "loop"),
        ("no no no no no", {}, "loop"),
        ("eggs patient hammer find hibou kind noise", {"surprise": 9.0}, "word salad"),
        ("Why is the sky so blue today?", {"copied": 1.0}, "copied prompt"),
        ("wolf", {"surprise": 9.0, "n_tokens": 1}, ""),
        ("Yes.", {"copied": 1.0}, ""),
        ('{"name": "Jo", "age": 25, "city": "Rome"}', {"surprise": 0.1}, ""),
        ("1. January\n2. February\n3. March\n4. April\n5. May\n6. June", {"surprise": 0.09, "n_tokens": 24}, ""),
    ],
)
def test_reasons(text: str, measured: dict[str, Any], reason: str) -> None:
    assert reason_of(excesses(text, **measured)) == reason


SPREAD = {
    "class": "class Stack:\n    def __init__(self):\n        self.items = []\n\n    def push(self, item):\n        "
    "self.items.append(item)\n\n    def pop(self):\n        return self.items.pop()\n\n    def peek(self):\n        "
    "return self.items[-1]\n\n    def size(self):\n        return len(self.items)",
    "timetable": "\n".join(f"{day}: 9 am to 5 pm" for day in ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday")),
    "matrix": "[[1, 0, 0], [0, 1, 0], [0, 0, 1]]",
    "times table": "\n".join(f"7 x {i} = {7 * i}" for i in range(1, 11)),
    "refrain": "Row, row, row your boat,\nGently down the stream.\nMerrily, merrily, merrily,\nLife is but a dream.",
    "records": ", ".join(f'{{"id": {i}, "name": "{n}", "active": true}}' for i, n in enumerate(("Ann", "Bob", "Cid"))),
    "headings": "\n\n".join(
        f"## {d}\n\n**Lunch:** {a}\n\n**Dinner:** {b}"
        for d, a, b in zip(
            ("Monday", "Tuesday", "Friday"),
            ("lentil soup", "tuna salad", "toast"),
            ("fish", "curry", "pasta"),
            strict=True,
        )
    ),
    "chinese": "天空是蓝色的,因为空气分子散射蓝光的程度比红光更强。傍晚时,天空看起来是红色的。",
}
"""Good answers in which few words are different, or many stand again and again."""

LOOPS = {
    "sentence": "The sky is blue because of the air. " * 8,
    "word": "blue blue blue blue blue blue",
    "characters": "The sky is " + "o" * 120,
    "counter": "\n".join(f"{i}. Sit down on the chair and wait until it is time." for i in range(1, 10)),
    "slot": " ".join(f"My name is {n} and I am from the city of kings." for n in ("Al", "Bo", "Cy", "Di", "Ed", "Fi")),
    "late": "The sky is blue because air scatters light. At dusk it is red. " + "It is a matter of light. " * 12,
    "japanese": "空が青い。" * 12,
    "digits": "42 " * 20,
}


@pytest.mark.parametrize("name", SPREAD)
def test_structure_is_no_loop(name: str) -> None:
    assert reason_of(excesses(SPREAD[name])) == ""


@pytest.mark.parametrize("name", LOOPS)
def test_loops_of_every_kind_are_found(name: str) -> None:
    assert reason_of(excesses(LOOPS[name])) == "loop"
