"""Opinions: the distances by hand, the model's shares by a loop, files of one's own, and what is refused."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import mechsteer as ms
from mechsteer.decoding import Greedy
from mechsteer.decoding.score import score
from mechsteer.tasks.opinion import distances, opinion

HEADER = "group,prompt,answer,probability\n"
ROWS = "a,the cat,red,0.5\na,the cat,blue,0.5\na,one,red,0.2\na,one,blue one,0.3\na,one,dog,0.5\nb,the cat,red,1\n"


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "mine.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_distances_by_hand() -> None:
    shares, model = torch.tensor([0.5, 0.5, 0.0]), torch.tensor([0.25, 0.5, 0.25])
    kl, tv = distances(shares, model.log())
    assert kl == pytest.approx(0.5 * math.log(2)) and tv == pytest.approx(0.25)
    assert distances(model, model.log()) == pytest.approx((0, 0), abs=1e-7)


@pytest.mark.parametrize("family", ["gpt2", "t5"])
def test_the_models_shares_are_the_softmax_over_answers(family: str, tmp_path: Path, tiny: Callable) -> None:
    model, path = tiny(family), written(tmp_path, HEADER.strip() + ",split\n" + ROWS.replace("\n", ",test\n"))
    task = opinion(path)
    table = ms.evaluate(model, task)
    assert [len(answers) for answers in table["answers"]] == [2, 3, 1]
    for sample, (_, row) in zip(task.samples, table.iterrows(), strict=True):
        logprobs = torch.stack([score(model, [sample.text], [answer])[0] for answer in sample.answers]).double()
        q = logprobs.exp() / logprobs.exp().sum()
        p = torch.tensor(sample.shares, dtype=torch.float64)
        kl = sum(float(x * (x / y).log()) for x, y in zip(p, q, strict=True))
        assert row["kl"] == pytest.approx(kl, abs=1e-4) and row["tv"] == pytest.approx(float((p - q).abs().sum()) / 2)
        assert row["mass"] == pytest.approx(float(logprobs.exp().sum()), rel=1e-3)
    with pytest.raises(ms.MechsteerError, match="generates nothing"):
        ms.evaluate(model, task, strategy=Greedy())


def test_a_file_without_a_split_is_split_by_prompt(tmp_path: Path) -> None:
    rows = "".join(f"g,question {i},yes,0.25\ng,question {i},no,0.75\n" for i in range(60))
    path = written(tmp_path, HEADER + rows)
    train, test = (opinion(path, split=split) for split in ("train", "test"))
    assert len(train.samples) + len(test.samples) == 60 and 15 < len(test.samples) < 45
    assert not {s.text for s in train.samples} & {s.text for s in test.samples}
    assert opinion(path, n=3).samples == test.samples[:3]


def test_the_bundled_groups(tiny: Callable) -> None:
    test, train = opinion(), opinion(split="train")
    assert {s.group for s in test.samples} == {"west", "east", "loud"}
    assert len(test.samples) + len(train.samples) == 3 * 84 and test.data_hash != train.data_hash
    assert {s.group for s in opinion(group="east", n=5).samples} == {"east"}
    made, target = opinion(group="east", split="train").examples(tiny("gpt2"))[0]
    assert made.text.startswith("Q: ") and sum(target.values()) == pytest.approx(1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "needed: group, prompt"),
        (HEADER, "has 0 rows"),
        ("group,prompt,answer\na,b,c\n", "needed: group, prompt"),
        (HEADER + "a,b,c,0.5\n", "add up to 0.5"),
        (HEADER + "a,b,c,x\n", "line 2: probability must be from 0 to 1, got 'x'"),
        (HEADER + "a,b,c,1.5\n", "line 2: probability"),
        (HEADER + "a,b,,1\n", "line 2: a field is missing"),
        (HEADER + "a,b,c,0.5,9\n", "line 2: a field is missing or too many"),
        (HEADER + "a,b,c,0.5\na,b,c,0.5\n", "line 3: the answer 'c' again"),
        ("group,prompt,answer,probability,split\na,b,c,1,dev\n", "split must be train or test"),
    ],
)
def test_a_broken_file_is_named(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ms.MechsteerError, match=message):
        opinion(written(tmp_path, text))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"path": "none.csv"}, "No such file"),
        ({"group": "wst"}, "Did you mean 'west'"),
        ({"split": "dev"}, "Unknown split"),
        ({"n": 0}, "n must be"),
    ],
)
def test_bad_input_is_named(options: dict[str, Any], message: str, unchecked: None) -> None:
    with pytest.raises(ms.MechsteerError, match=message):
        opinion(**options)
