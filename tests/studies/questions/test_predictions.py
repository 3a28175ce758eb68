"""Held-out predictions of the instructed state: a planted shift, map or set of clusters is recognised."""

import pandas as pd
import pytest
import torch
from torch import Tensor

from mechsteer.studies.questions.predictions import (
    affine_of,
    cluster_shifts,
    clusters,
    errors_of,
    explained,
    nearest,
    predictors,
)

SITE = "blocks.0.hook_resid_post"
GROUPS = [f"topic {i % 20}" for i in range(80)]


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def planted(what: str, seed: int) -> tuple[Tensor, Tensor]:
    """States with and without; in all, some noise of each pair's own."""
    x, noise = drawn(80, 6, seed=seed), 0.1 * drawn(80, 6, seed=seed + 1)
    shift = torch.tensor([2.0, 0, 0, 0, 0, 0])
    if what == "shift":
        return x + shift + noise, x
    if what == "map":
        return x + shift + 2 * x[:, 1:2] * torch.eye(6)[2] + noise, x
    side = (x[:, 0] > 0).float()[:, None]
    x = x + 20 * side * torch.eye(6)[3]  # two clusters, far apart
    return x + side * shift - (1 - side) * shift + noise, x


@pytest.fixture(scope="module", params=["shift", "map", "clusters"])
def table(request: pytest.FixtureRequest) -> tuple[str, pd.DataFrame]:
    found = predictors(*planted(request.param, 0), GROUPS, site=SITE)
    errors = errors_of(found, *planted(request.param, 10), GROUPS).assign(kind="upper")
    return request.param, explained(errors).query("kind == 'all'").set_index("way")


def test_each_world_is_predicted_best_by_its_own_map(table: tuple[str, pd.DataFrame]) -> None:
    what, rows = table
    assert rows.loc["shift", "beyond_shift"] == rows.loc["shift", "beyond_shift_high"] == 0.0
    beyond = rows["beyond_shift_low"]
    if what == "shift":
        assert rows.loc["shift", "explained"] > 0.97 and beyond.max() <= 0.02
    elif what == "map":
        assert beyond["affine 1"] > 0.9 and beyond["clusters 2"] < 0.5 < rows.loc["affine 1", "explained"]
        assert beyond["affine 4, shuffled"] <= 0
    else:
        assert beyond["clusters 2"] > 0.9 and rows.loc["projection", "beyond_shift_high"] < 0.9


def test_intervals_hold_the_estimate_and_one_kind_is_its_own_mean(table: tuple[str, pd.DataFrame]) -> None:
    _, rows = table
    assert (rows["explained_low"] <= rows["explained"]).all() and (rows["explained"] <= rows["explained_high"]).all()
    assert (rows["n"] == 80).all()


def test_errors_are_sums_by_topic() -> None:
    with_it, without = planted("shift", 0)
    errors = errors_of({"shift": lambda x: x + 1.0}, with_it, without, GROUPS).set_index("topic")
    expected = sum(float((with_it[i] - without[i] - 1).square().sum()) for i in range(80) if GROUPS[i] == "topic 3")
    assert errors.loc["topic 3", "error"] == pytest.approx(expected, rel=1e-5)
    assert errors.loc["topic 3", "shifted"] == errors.loc["topic 3", "error"] and errors["n"].tolist() == [4] * 20


def test_the_mean_of_kinds_weighs_kinds_alike() -> None:
    rows = [
        {"way": "shift", "topic": t, "n": 1, "error": e, "before": 10 * scale, "shifted": 5 * scale, "kind": kind}
        for kind, scale, e in (("a", 1.0, 1.0), ("b", 100.0, 500.0))
        for t in ("x", "y", "z")
    ]
    table = explained(pd.DataFrame(rows)).set_index("kind")
    assert table["explained"].to_dict() == pytest.approx({"a": 0.9, "b": 0.5, "all": 0.7})
    assert table["beyond_shift"].to_dict() == pytest.approx({"a": 0.8, "b": 0.0, "all": 0.4})


def test_the_ridge_weight_is_small_where_the_map_is_sure_and_large_where_there_is_none() -> None:
    _, sure = affine_of(*planted("map", 0), GROUPS, site=SITE, rank=1)
    _, none = affine_of(*planted("shift", 0), GROUPS, site=SITE, rank=1)
    assert sure < none == 100.0


def test_clusters_are_found_and_an_empty_one_has_the_mean() -> None:
    states = torch.cat([drawn(10, 3), drawn(10, 3, seed=1) + 30])
    centres, labels = clusters(states, 2)
    assert len(set(labels[:10].tolist())) == len(set(labels[10:].tolist())) == 1 and labels[0] != labels[10]
    assert nearest(states, centres).equal(labels)
    shifts = cluster_shifts(torch.arange(20.0)[:, None], torch.zeros(20, dtype=torch.long), 2)
    assert shifts.flatten().tolist() == [9.5, 9.5]
