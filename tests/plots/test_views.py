"""Interactive views hold their weights and need no network; nothing in a token can break out of the page."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from mechsteer import plots
from mechsteer.errors import MechsteerError

CROSS = torch.tensor([[[0.75, 0.25, 0.0], [0.0, 0.5, 0.5]], [[0.25, 0.75, 0.0], [1.0, 0.0, 0.0]]])
SQUARE = torch.tensor([[[1.0, 0.0], [0.25, 0.75]]])
EVIL = ["</script><img src=x onerror=alert(1)>", '"};alert(1)//']


def data_of(html: str) -> dict[str, Any]:
    found = re.search(r"data = (\{.*?\});\n", html)
    assert found
    return json.loads(found[1])


def test_cross_attention_is_drawn_by_a_page_of_our_own() -> None:
    view = plots.attention_view(CROSS, ["<pad>", "▁wolf"], ["▁Write", "词", "</s>"])
    assert data_of(view.html) == {
        "weights": CROSS.tolist(), "queries": ["<pad>", "wolf"], "keys": ["Write", "词", "</s>"]
    }  # fmt: skip
    assert re.findall(r"<option[^>]*>([^<]*)", view.html) == ["mean of 2 heads", "head 0", "head 1"]
    assert view._repr_html_() == view.html
    assert len(view.html) < 6000
    assert plots.attention_view(CROSS, ["<pad>", "▁wolf"], ["▁Write", "词", "</s>"]).html == view.html


def test_self_attention_is_drawn_by_circuitsvis_with_its_script_inside() -> None:
    html = plots.attention_view(SQUARE, ["▁a", "▁b"]).html
    assert "unpkg.com" not in html and "CircuitsVis.AttentionHeads" in html
    assert json.dumps(SQUARE.tolist()) in html and '"tokens": ["a", "b"]' in html
    assert '"maskUpperTri": true' in html
    assert '"maskUpperTri": false' in plots.attention_view(SQUARE.flip(2), ["▁a", "▁b"]).html
    own = plots.attention_view(SQUARE[0], ["▁a", "▁b"], own=True).html
    assert "CircuitsVis" not in own and data_of(own)["weights"] == SQUARE.tolist()


def test_square_cross_attention_is_still_cross_attention() -> None:
    assert "CircuitsVis" not in plots.attention_view(SQUARE, ["a", "b"], ["c", "d"]).html


@pytest.mark.parametrize("keys", [None, [*EVIL, "c"]])
def test_no_token_breaks_out_of_the_page(keys: list[str] | None) -> None:
    pattern = SQUARE if keys is None else CROSS
    html = plots.attention_view(pattern, EVIL, keys).html
    assert html.count("</script>") == 1 and html.rstrip().endswith("</script>")
    assert "<img" not in html.replace("<img>", "") or "<img src=x" not in html
    assert "\\u003c/script" in html


def test_a_view_is_saved_as_a_page_that_loads_nothing(tmp_path: Path) -> None:
    path = plots.attention_view(CROSS, ["a", "b"], ["c", "d", "é"]).save(tmp_path / "sub" / "view.html")
    text = path.read_text(encoding="utf-8")
    assert text.startswith("<!doctype html>") and 'charset="utf-8"' in text and text.count("<div") == 2
    assert not re.search(r"https?://|src=|import ", text)
    (tmp_path / "file").write_text("")
    with pytest.raises(MechsteerError, match="Cannot write"):
        plots.attention_view(CROSS, ["a", "b"], ["c", "d", "e"]).save(tmp_path / "file" / "view.html")


def test_a_pattern_that_does_not_fit_is_refused() -> None:
    with pytest.raises(MechsteerError, match="2 query and 2 key tokens"):
        plots.attention_view(CROSS, ["a", "b"])
