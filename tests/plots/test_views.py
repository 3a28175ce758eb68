"""Interactive views hold their weights and need no network; nothing in a token can break out of the page."""

import base64
import gzip
import json
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from mechsteer import plots
from mechsteer.errors import MechsteerError
from tests.html_report.browser import visit

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


def inside(html: str, what: str) -> Any:
    """What a view of CircuitsVis's holds compressed: its data, or the library."""
    found = re.search(rf'{what}\("([A-Za-z0-9+/=]+)"\)', html)
    assert found
    return json.loads(gzip.decompress(base64.b64decode(found[1])))


def test_self_attention_is_drawn_by_circuitsvis_with_its_script_inside() -> None:
    html = plots.attention_view(SQUARE, ["▁a", "▁b"]).html
    assert "unpkg.com" not in html and "CircuitsVis.AttentionHeads" in html and len(html) < 700_000
    assert "AttentionHeads" in inside(html, r"\$\{await unpack")
    data = inside(html, "data = await unpack")
    assert data["attention"] == (1000 * SQUARE).int().tolist() and data["tokens"] == ["a", "b"]
    assert data["attentionHeadNames"] == ["head 0"] and data["maskUpperTri"] is True
    assert (
        inside(plots.attention_view(SQUARE.flip(2), ["▁a", "▁b"]).html, "data = await unpack")["maskUpperTri"] is False
    )
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
    assert EVIL[0] not in html and ("\\u003c/script" in html) == (keys is not None)


def test_a_view_is_saved_as_a_page_that_loads_nothing(tmp_path: Path) -> None:
    path = plots.attention_view(CROSS, ["a", "b"], ["c", "d", "é"]).save(tmp_path / "sub" / "view.html")
    text = path.read_text(encoding="utf-8")
    assert text.startswith("<!doctype html>") and 'charset="utf-8"' in text and text.count("<div") == 2
    assert not re.search(r"https?://|src=|import ", text)
    (tmp_path / "file").write_text("")
    with pytest.raises(MechsteerError, match="Cannot write"):
        plots.attention_view(CROSS, ["a", "b"], ["c", "d", "e"]).save(tmp_path / "file" / "view.html")
    with pytest.raises(MechsteerError, match=r"saved as a page, .* got .*view"):
        plots.attention_view(CROSS, ["a", "b"], ["c", "d", "e"]).save(tmp_path / "view.png")
    assert not (tmp_path / "view.png").exists()


def test_a_pattern_that_does_not_fit_is_refused() -> None:
    with pytest.raises(MechsteerError, match="2 query and 2 key tokens"):
        plots.attention_view(CROSS, ["a", "b"])


def test_many_heads_stay_small_and_are_named() -> None:
    layers, heads, count = 30, 9, 60
    scores = torch.randn(layers, heads, count, count, generator=torch.Generator().manual_seed(0)) * 3
    pattern = scores.masked_fill(torch.ones(count, count).triu(1).bool(), float("-inf")).softmax(-1)
    view = plots.attention_view(pattern, [f"Ġt{n}" for n in range(count)])
    assert len(view.html) < 1_600_000, "15 MB with all digits and CircuitsVis's script as it is"
    data = inside(view.html, "data = await unpack")
    assert data["attentionHeadNames"][10] == "layer 1, head 1" and len(data["attentionHeadNames"]) == 270
    assert abs(data["attention"][10][59][3] / 1000 - float(pattern[1, 1, 59, 3])) <= 0.0005 + 1e-6
    named = plots.attention_view(CROSS, ["a", "b"], ["c", "d", "e"], names=["L6 H0", "L6 <H1>"]).html
    assert "L6 &lt;H1&gt;" in named
    with pytest.raises(MechsteerError, match="one name for each of the 2 heads, got 1"):
        plots.attention_view(CROSS, ["a", "b"], ["c", "d", "e"], names=["L6 H0"])


def test_accented_tokens_are_letters_in_every_view() -> None:
    tokens = ["Ġl", "'", "Ã©t", "Ã©"]  # as GPT-2's bytes are named
    square = torch.eye(4)
    assert inside(plots.attention_view(square, tokens).html, "data = await unpack")["tokens"] == ["l", "'", "ét", "é"]
    table = pd.DataFrame({"layer": 0, "position": range(4), "token": tokens, "influence": [0.0, 0.5, 1.0, 0.25]})
    assert '"tokens": [" l", "\'", "ét", "é"]' in plots.token_view(table).html


def test_every_view_has_an_image_for_where_no_script_runs(tmp_path: Path) -> None:
    table = pd.DataFrame({"token": ["a", EVIL[0]], "log-probability": [-0.5, -2.0]})
    views = [plots.attention_view(SQUARE, ["a", "b"]), plots.token_view(table, "log-probability"), lens_view()]
    for place, view in enumerate(views):
        shown = view._repr_mimebundle_()
        assert shown["image/png"].startswith(b"\x89PNG") and shown["text/html"].endswith(view.html)
        assert shown["text/html"].startswith("<img data-still=") and "remove()" in shown["text/html"]
        view.save(tmp_path / f"{place}.html")
        assert (tmp_path / f"{place}.png").read_bytes().startswith(b"\x89PNG")
        assert EVIL[0] not in shown["text/html"]


def lens() -> pd.DataFrame:
    rows = [(0, at, exit, f"Ġw{at}{exit}", 2.0 - exit, 0.1 * exit) for at in range(3) for exit in range(2)]
    return pd.DataFrame(rows, columns=["prompt", "position", "exit", "top1", "entropy", "jsd"])


def lens_view() -> plots.View:
    return plots.lens_view(lens(), ["▁x", EVIL[0], "z"])


def test_the_lens_by_layer_and_position() -> None:
    view = lens_view()
    data = json.loads(re.search(r"data = (\{.*?\});\n", view.html)[1])  # type: ignore[index]
    assert data["exits"] == [1, 0] and data["top"] == [["w01", "w11", "w21"], ["w00", "w10", "w20"]]
    assert data["entropy"] == [[1.0] * 3, [2.0] * 3] and data["read"][0] == "x"
    with pytest.raises(MechsteerError, match="position 2, but there are 1 tokens"):
        plots.lens_view(lens(), ["x"])
    with pytest.raises(MechsteerError, match="one prompt, got a table of 2"):
        plots.lens_view(pd.concat([lens(), lens().assign(prompt=1)]))
    with pytest.raises(MechsteerError, match="a row for each of the 3 positions"):
        plots.lens_view(lens().iloc[1:])  # 'nan' is no token


def test_the_image_of_the_lens_is_darker_where_it_is_surer_and_says_so() -> None:
    view = lens_view()
    assert view.draw is not None
    panel, bar = view.draw().axes
    (image,) = panel.get_images()
    colours = image.to_rgba(image.get_array())[..., :3].sum(-1)  # the rows' entropies are 1 and 2 nats
    assert (colours[0] < colours[1]).all() and bar.get_ylabel() == "Entropy (nats)"
    assert {text.get_text(): text.get_color() for text in panel.texts} == {
        f"w{position}{exit}": "white" if exit else "black" for position in range(3) for exit in range(2)
    }


def test_a_strip_needs_one_value_a_token() -> None:
    table = pd.DataFrame(
        {"token": ["a", "b", "c"], "layer": [0, 0, 1], "position": [0, 1, 0], "influence": [1.0, 0, 0]}
    )
    with pytest.raises(MechsteerError, match="each of the 2 positions"):
        plots.token_view(table)
    with pytest.raises(MechsteerError, match="several rows for one token"):
        plots.token_view(pd.concat([table, table]))


def test_a_token_without_a_value_leaves_the_others_their_colours() -> None:
    tokens = ["<s>", "a", "b", "c"]  # of a text's first token nothing is predicted
    table = pd.DataFrame({"token": tokens, "log-probability": [float("nan"), -0.5, -2.0, float("-inf")]})
    for one in (table, table.assign(**{"log-probability": table["log-probability"].astype("Float64")})):
        data = data_of(plots.token_view(one, "log-probability").html)
        assert data["values"] == [[None, -0.5, -2.0, float("-inf")]] and data["most"] == [2.0]
    empty = data_of(plots.token_view(table.assign(**{"log-probability": float("nan")}), "log-probability").html)
    assert empty["values"] == [[None] * 4] and empty["most"] == [1e-12]


def test_views_in_a_browser(tmp_path: Path) -> None:
    table = pd.DataFrame({"layer": [0, 0, 1, 1], "position": [0, 1] * 2, "token": ["a", EVIL[0]] * 2,
                          "influence": [1.0, 0.0, 0.75, 0.25]})  # fmt: skip
    cross = plots.attention_view(CROSS, ["q", "r"], ["k", "l", "m"])
    views = [plots.attention_view(SQUARE.expand(2, 2, 2), ["a", "b"]), cross, plots.token_view(table), lens_view()]
    parts = "".join(view._repr_mimebundle_()["text/html"] for view in views)
    page = tmp_path / "views.html"
    page.write_text(f'<!doctype html><html><head><meta charset="utf-8"></head><body>{parts}</body></html>', "utf-8")
    script = """
      await until(() => all(".circuits canvas, .circuits img, .circuits svg").length > 0);
      found.stills = all("[data-still]").length; found.heads = document.querySelector(".circuits").textContent;
      found.drawn = all(".circuits canvas, .circuits img, .circuits svg").length;
      document.querySelector("[data-circuits] input").click();
      await until(() => document.querySelector(".circuits > div").id.endsWith("-1"));
      found.again = document.querySelector(".circuits > div").id.endsWith("-1");
      const strip = all("[data-tokens]")[0], slider = strip.querySelector("input");
      found.last = strip.textContent; slider.value = 0; slider.dispatchEvent(new Event("input"));
      found.first = strip.textContent;
      found.cells = texts("td", all("[data-tokens]")[1]);
    """
    found, wrong = visit(page, script)
    assert wrong == [] and found["stills"] == 0 and found["drawn"] > 0 and found["again"]
    assert "Influence, layer 1" in found["last"] and "Influence, layer 0" in found["first"]
    assert EVIL[0] in found["first"] and found["cells"] == ["w01", "w11", "w21", "w00", "w10", "w20"]


@pytest.mark.parametrize("number", ["02", "03", "05", "08"])
def test_notebooks_have_a_view_of_attention_with_its_image(number: str) -> None:
    (path,) = (Path(__file__).parents[2] / "notebooks").glob(f"{number}_*.ipynb")
    cells = json.loads(path.read_text("utf-8"))["cells"]
    data = [out.get("data", {}) for cell in cells for out in cell.get("outputs", [])]
    shown = [one for one in data if "data-circuits" in "".join(one.get("text/html", []))]
    assert shown and all("image/png" in one and "data-still" in "".join(one["text/html"]) for one in shown)
