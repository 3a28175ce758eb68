"""Heat maps place every weight beside its tokens."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.colors import LogNorm

from mechsteer import plots
from mechsteer.errors import MechsteerError

TOKENS = ["<s>", "▁Use", "▁$\\oops$", "Ċ"]
TABLE = pd.DataFrame(
    [(layer, position, TOKENS[position], layer + position / 10) for position in (2, 0, 3, 1) for layer in (1, 0)],
    columns=["layer", "position", "token", "influence"],
)
CROSS = torch.tensor([[[0.75, 0.25, 0.0], [0.0, 0.5, 0.5]], [[0.25, 0.75, 0.0], [1.0, 0.0, 0.0]]])


def axes(**options: Any) -> Any:
    with plots.style():
        return plots.figure(**options)[1][0]


def long_table(count: int, layers: int = 2) -> pd.DataFrame:
    rows = [(layer, p, f"t{p}", 1.0 + p) for layer in range(layers) for p in range(count)]
    return pd.DataFrame(rows, columns=["layer", "position", "token", "rollout"])


def texts(labels: list[Any]) -> list[str]:
    return [label.get_text() for label in labels]


def bar_of(ax: Any) -> Any:
    return next(other for other in ax.figure.axes if other is not ax)


def test_a_token_map_has_the_first_layer_at_the_bottom_and_the_tokens_below() -> None:
    ax = axes(width=4)
    image = plots.token_map(ax, TABLE, span=[1, 2], title="t")
    assert image.get_array().tolist() == [[0.0, 0.1, 0.2, 0.3], [1.0, 1.1, 1.2, 1.3]]
    assert image.origin == "lower" and ax.get_ylim() == (-0.5, 1.5)
    assert texts(ax.get_xticklabels()) == ["<s>", "Use", "$\\oops$", "↵"]
    assert texts(ax.get_yticklabels()) == ["0", "1"]
    colours = [label.get_color() for label in ax.get_xticklabels()]
    assert colours == ["black", plots.COLOURS[1], plots.COLOURS[1], "black"]
    assert [list(line.get_xdata()) for line in ax.lines] == [[0.5, 1.5], [1.5, 2.5]]
    assert image.get_clim() == (0.0, 1.3)
    assert bar_of(ax).get_ylabel() == "Influence"
    ax.figure.draw_without_rendering()  # a dollar sign is no formula


def test_a_log_scale_keeps_zeros_visible_and_says_so() -> None:
    ax = axes(width=4)
    table = TABLE.assign(influence=[1e-9, 0.0, 0.5, 1.0, 0.25, 0.1, 1e-3, 0.02])
    image = plots.token_map(ax, table, log=True)
    assert isinstance(image.norm, LogNorm)
    assert image.get_clim() == (1e-4, 1.0)
    assert not np.ma.getmaskarray(image.get_array()).any() and image.get_array().min() > 0
    assert image.colorbar.extend == "min"
    ax.figure.draw_without_rendering()
    assert {"0.001", "0.01", "0.1", "1"} <= set(texts(bar_of(ax).get_yticklabels()))


def test_negative_values_and_missing_cells_are_drawn_as_what_they_are() -> None:
    ax = axes(width=4)
    image = plots.token_map(ax, TABLE.assign(influence=TABLE["influence"] - 0.5).iloc[1:])
    assert image.get_clim() == (-0.5, 0.8)
    assert np.ma.masked_invalid(image.get_array()).mask.sum() == 1


@pytest.mark.parametrize(("count", "label", "step"), [(40, "Token", 1), (120, "Position", 20), (2000, "Position", 500)])
def test_as_many_tokens_as_are_readable(count: int, label: str, step: int) -> None:
    ax = axes(width=7)
    plots.token_map(ax, long_table(count), value="rollout", span=range(10, 20))
    ax.figure.draw_without_rendering()
    assert ax.get_xlabel() == label
    boxes = [tick.get_window_extent() for tick in ax.get_xticklabels()]
    assert all(a.x1 <= b.x0 + 0.5 for a, b in pairwise(boxes))
    expected = [f"t{place}" if step == 1 else str(place) for place in range(0, count, step)]
    assert texts(ax.get_xticklabels()) == expected
    assert len(ax.lines) == 10


def test_many_layers_are_numbered_without_overlap() -> None:
    ax = axes(width=3, height=2)
    plots.token_map(ax, long_table(4, layers=64), value="rollout")
    ax.figure.draw_without_rendering()
    boxes = [tick.get_window_extent() for tick in ax.get_yticklabels()]
    assert all(a.y1 <= b.y0 + 0.5 for a, b in pairwise(boxes))


def test_an_attention_map_may_be_rectangular() -> None:
    ax = axes(width=4)
    image = plots.attention_map(ax, CROSS, ["<pad>", "▁wolf"], ["▁Write", "▁a", "</s>"], span=[0])
    assert image.get_array().tolist() == [[0.5, 0.5, 0.0], [0.5, 0.25, 0.25]]
    assert texts(ax.get_xticklabels()) == ["Write", "a", "</s>"]
    assert texts(ax.get_yticklabels()) == ["<pad>", "wolf"] and ax.get_ylim() == (1.5, -0.5)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("Key", "Query")
    assert bar_of(ax).get_ylabel() == "Attention weight, mean of 2 heads"
    one = axes()
    image = plots.attention_map(one, CROSS.numpy(), ["<pad>", "▁wolf"], ["▁Write", "▁a", "</s>"], head=1)
    assert image.get_array().tolist() == CROSS[1].tolist() and bar_of(one).get_ylabel() == "Attention weight, head 1"
    plain = axes()
    plots.attention_map(plain, CROSS[0, :, :2], ["a", "b"])
    assert bar_of(plain).get_ylabel() == "Attention weight"


def test_a_large_attention_map_has_position_numbers() -> None:
    ax = axes(width=3)
    plots.attention_map(ax, np.eye(300), [str(i) for i in range(300)])
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("Key position", "Query position")


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda ax: plots.token_map(ax, TABLE, value="rollout"), r"Unknown column \(of the table\) 'rollout'"),
        (
            lambda ax: plots.token_map(ax, pd.concat([TABLE.assign(stack="encoder"), TABLE.assign(stack="decoder")])),
            r"several rows for one cell \(layer, position\).*They differ in stack",
        ),
        (
            lambda ax: plots.token_map(ax, pd.concat([TABLE.assign(delta=0.0), TABLE.assign(delta=1.5)])),
            "They differ in delta",
        ),
        (lambda ax: plots.token_map(ax, TABLE, span=[3, 4]), r"positions \[4\] are not in the table"),
        (lambda ax: plots.token_map(ax, TABLE.assign(influence=0.0), log=True), "not negative and not all 0"),
        (lambda ax: plots.token_map(ax, TABLE.assign(influence=-1.0), log=True), "not negative and not all 0"),
        (lambda ax: plots.token_map(ax, TABLE.assign(influence="x")), "has no numbers"),
        (lambda ax: plots.attention_map(ax, CROSS, ["a", "b"]), r"shape \[2, 2, 3\], but there are 2 query and 2 key"),
        (lambda ax: plots.attention_map(ax, CROSS[0, 0], ["a"]), "got 1 dimensions"),
        (lambda ax: plots.attention_map(ax, CROSS, ["a", "b"], ["c"] * 3, head=2), "Head 2 is out of range"),
        (lambda ax: plots.attention_map(ax, CROSS, ["a", "b"], ["c"] * 3, span=[3]), r"\[3\] are not among the 3 keys"),
        (lambda ax: plots.attention_map(ax, CROSS / 0, ["a", "b"], ["c"] * 3), "not finite"),
    ],
)
def test_what_cannot_be_drawn_is_named(draw: Callable[[Any], None], message: str) -> None:
    with pytest.raises(MechsteerError, match=message):
        draw(axes())


def test_maps_have_the_same_bytes_each_time(tmp_path: Path) -> None:
    def written(name: str) -> list[bytes]:
        with plots.style():
            made, panels = plots.figure(2, width=2.5, height=2.0)
            plots.token_map(panels[0], TABLE, span=[1, 2])
            plots.attention_map(panels[1], CROSS, ["<pad>", "▁wolf"], ["▁Write", "▁a", "</s>"])
            return [path.read_bytes() for path in plots.save(made, tmp_path / name)]

    assert written("a") == written("b")


def test_the_first_token_can_be_left_out_and_the_title_says_so() -> None:
    weights = torch.tensor([[1.0, 0.0, 0.0], [0.9, 0.1, 0.0], [0.8, 0.05, 0.15]])
    ax = axes(width=4)
    image = plots.attention_map(ax, weights, ["<s>", "a", "b"], span=[0, 2], skip_first=True, title="Layer 3")
    assert np.allclose(image.get_array(), [[0.1, 0.0], [0.05, 0.15]]) and image.get_clim()[1] == pytest.approx(0.15)
    assert texts(ax.get_xticklabels()) == texts(ax.get_yticklabels()) == ["a", "b"]
    assert [list(line.get_xdata()) for line in ax.lines] == [[0.5, 1.5]]
    assert ax.get_title() == "Layer 3 (first token left out)"
    ax = axes(width=4)
    image = plots.attention_map(ax, CROSS[0], ["<pad>", "x"], ["<s>", "a", "b"], skip_first=True)
    assert image.get_array().tolist() == [[0.25, 0.0], [0.5, 0.5]]
    assert texts(ax.get_yticklabels()) == ["<pad>", "x"] and ax.get_title() == "First token left out"
    with pytest.raises(MechsteerError, match="nothing is left"):
        plots.attention_map(axes(), torch.ones(1, 1), ["a"], skip_first=True)


def test_a_map_of_a_table_without_the_first_position_says_so() -> None:
    for title, wanted in (("Rollout", "Rollout (first token left out)"), ("", "First token left out")):
        ax = axes(width=4)
        plots.token_map(ax, long_table(4).query("position > 0").assign(skip_first=True), value="rollout", title=title)
        assert ax.get_title() == wanted
