"""A test that changes a model which others use is found out."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import mechsteer as ms
from tests.shared import Shared


def in_place(model: Any) -> None:
    with torch.no_grad():
        model.blocks[0].mlp.W_in[0, 0] += 1


def behind_torchs_back(model: Any) -> None:
    model.blocks[0].mlp.W_in.data[0, 0] += 1


def and_back(model: Any) -> None:
    weight = model.blocks[0].mlp.W_in
    with torch.no_grad():
        kept = weight[0, 0].clone()
        weight[0, 0] += 1
        weight[0, 0] = kept


def by_a_hook(model: Any) -> None:
    model.add_hook("blocks.0.hook_resid_post", lambda x, hook: x)


def by_a_setting(model: Any) -> None:
    model.cfg.n_ctx += 1


@pytest.mark.parametrize(
    ("change", "said", "lasting"),
    [
        (in_place, ["weights of tiny"], ["tiny"]),
        (behind_torchs_back, [], ["tiny"]),
        (and_back, [], []),
        (by_a_hook, ["hooks of tiny"], []),
        (by_a_setting, ["settings of tiny"], []),
        (lambda model: model.train(), ["training mode of tiny"], []),
        (lambda model: ms.generate(model, "the cat", max_new_tokens=2), [], []),
    ],
)
def test_changes_are_told_once(
    change: Callable[[Any], Any], said: list[str], lasting: list[str], checkpoint: Callable[..., Path]
) -> None:
    models = Shared()
    model = models.get("tiny", lambda: ms.load(str(checkpoint("gpt2")), check=False))
    assert models.get("tiny", lambda: pytest.fail("loaded again")) is model
    assert models.changed() == [] == models.with_other_weights()
    change(model)
    assert models.changed() == said and models.changed() == []
    assert models.with_other_weights() == lasting
