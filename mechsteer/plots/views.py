"""Interactive views of attention for notebooks, which need no network: CircuitsVis's, and one for any two lengths.

A view is a piece of HTML and a figure that says the same: where no script runs, as on web viewers of notebooks, the
figure is shown. CircuitsVis draws square patterns only; cross-attention is drawn by a small page of our own.
"""

import base64
import html
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mechsteer.errors import MechsteerError, listed
from mechsteer.files import atomic_path, digest
from mechsteer.plots.base import figure, png, style
from mechsteer.plots.circuits import heads_view
from mechsteer.plots.labels import token_text
from mechsteer.plots.maps import as_weights, attention_map, checked_pattern

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class View:
    """A piece of HTML that notebooks show, and the same as an image.

    Attributes:
        html: The piece: self-contained, scripts included.
        draw: Makes the figure that is shown where no script runs; None for no figure.
        title: What a page of its own is called.
    """

    html: str = field(repr=False)
    draw: "Callable[[], Figure] | None" = field(default=None, repr=False, compare=False)
    title: str = "Attention"

    def _repr_html_(self) -> str:
        return self.html

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        """For a notebook: the piece, with the image in it until its script runs; and the image alone."""
        if self.draw is None:
            return {"text/html": self.html, "text/plain": repr(self)}
        image = png(self.draw(), dpi=100)
        name, data = digest(self.html), base64.b64encode(image).decode()
        still = f'<img data-still="{name}" alt="{html.escape(self.title)}" src="data:image/png;base64,{data}">'
        gone = f"<script>document.querySelectorAll('[data-still=\"{name}\"]').forEach((one) => one.remove());</script>"
        return {"text/html": f"{still}{gone}{self.html}", "image/png": image, "text/plain": repr(self)}

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write it as a page of its own, and its image beside it: ``view.html`` and ``view.png``.

        Raises:
            MechsteerError: if it cannot be written, or the path is the image's.
        """
        if Path(path).suffix.lower() == ".png":
            raise MechsteerError(
                f"A view is saved as a page, e.g. view.html, and its image beside it; got {str(path)!r}."
            )
        with atomic_path(path) as temporary:
            temporary.write_text(
                f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(self.title)}</title>'
                f"</head>\n<body>{self.html}</body></html>\n",
                encoding="utf-8",
            )
        if self.draw is not None:
            with atomic_path(Path(path).with_suffix(".png")) as temporary:
                temporary.write_bytes(png(self.draw()))
        return Path(path)


def attention_view(
    pattern: Any,
    query_tokens: Sequence[str],
    key_tokens: Sequence[str] | None = None,
    *,
    names: Sequence[str] | None = None,
    own: bool = False,
) -> View:
    """An interactive view of attention weights.

    Args:
        pattern: Weights ``[queries, keys]``, ``[heads, queries, keys]`` or ``[layers, heads, queries, keys]``: a tensor
            or array.
        query_tokens: The tokens of the queries.
        key_tokens: The tokens of the keys; default: those of the queries, which is self-attention.
        names: A name for each head. Default: ``head 3``; with layers, ``layer 2, head 3``.
        own: Also draw self-attention with our own page (some kilobytes, where CircuitsVis's has half a megabyte).

    Returns:
        The view: CircuitsVis's heads for self-attention, with a box that leaves the first token out; for
        cross-attention a table with a choice of heads, which shows the weight under the pointer.

    Raises:
        MechsteerError: if the pattern does not fit the tokens, or the names the heads.
    """
    pattern = as_weights(pattern)
    keys = listed("query_tokens", query_tokens) if key_tokens is None else listed("key_tokens", key_tokens)
    weights, called = _named_heads(pattern, names, len(query_tokens), len(keys))

    def draw() -> "Figure":
        with style():
            made, (axes,) = figure(width=5.2, height=4.6)
            attention_map(axes, weights, query_tokens, key_tokens, title=called[0] if len(called) == 1 else "")
        return made

    if keys == list(query_tokens) and not own:
        return View(heads_view(weights, [token_text(key) for key in keys], called), draw)
    return View(_page(weights, [token_text(t) for t in query_tokens], [token_text(t) for t in keys], called), draw)


def _named_heads(pattern: Any, names: Sequence[str] | None, queries: int, keys: int) -> tuple[Any, list[str]]:
    """The weights ``[heads, queries, keys]`` and the name of each head."""
    called: list[str] | None = None
    if getattr(pattern, "ndim", 0) == 4:
        layers, heads = pattern.shape[:2]
        pattern = pattern.reshape(layers * heads, *pattern.shape[2:])
        called = [f"layer {layer}, head {head}" for layer in range(layers) for head in range(heads)]
    weights = checked_pattern(pattern, queries, keys)
    called = [f"head {head}" for head in range(len(weights))] if called is None else called
    if names is not None and len(names) != len(weights):
        raise MechsteerError(f"names must have one name for each of the {len(weights)} heads, got {len(names)}.")
    return weights, called if names is None else list(map(str, names))


def _page(weights: Any, queries: list[str], keys: list[str], names: list[str]) -> str:
    """Our own view. Tokens reach the page as data and are set as text, never as HTML."""
    data = {"weights": weights.round(4).tolist(), "queries": queries, "keys": keys}
    heads = [f"<option value={head}>{html.escape(name)}</option>" for head, name in enumerate(names)]
    if len(weights) > 1:
        heads.insert(0, f'<option value="mean">mean of {len(weights)} heads</option>')
    return _TEMPLATE.format(
        name=html.escape(digest([data, names])),
        heads="".join(heads),
        data=json.dumps(data).replace("<", "\\u003c"),
        script=_SCRIPT,
    )


_TEMPLATE = """<div data-attention="{name}" style="font:12px sans-serif;padding:6px">
<label>Attention: <select>{heads}</select></label>
<output style="margin-left:1em"></output>
<div style="overflow:auto;max-height:70vh;margin-top:6px"></div>
<noscript>This view needs JavaScript.</noscript></div>
<script>{{const name = "{name}", data = {data};
{script}}}</script>"""

_SCRIPT = """
const draw = (root) => {
  root.dataset.drawn = "yes";
  const select = root.querySelector("select"), shown = root.querySelector("output");
  const frame = root.querySelector("div");
  const element = (tag, text, style) => {
    const made = document.createElement(tag);
    made.textContent = text;
    made.style.cssText = style;
    return made;
  };
  const weight = (head, query, key) => head === "mean"
    ? data.weights.reduce((sum, one) => sum + one[query][key], 0) / data.weights.length
    : data.weights[Number(head)][query][key];
  const fill = () => {
    const head = select.value, table = element("table", "", "border-collapse:collapse");
    const top = element("tr", "", "");
    top.append(element("th", "query \\u2193  key \\u2192", "font-weight:normal;opacity:.7;padding:2px 6px"));
    const upright = "writing-mode:vertical-rl;transform:rotate(180deg);font-weight:normal;padding:2px;text-align:left";
    data.keys.forEach((key) => top.append(element("th", key, upright)));
    table.append(top);
    const row_most = (_, q) => Math.max(...data.keys.map((_, k) => weight(head, q, k)));
    const most = Math.max(1e-9, ...data.queries.map(row_most));
    data.queries.forEach((query, q) => {
      const row = element("tr", "", "");
      row.append(element("th", query, "font-weight:normal;text-align:right;padding:2px 6px;white-space:pre"));
      data.keys.forEach((key, k) => {
        const value = weight(head, q, k), share = value / most;
        const colour = `background:rgba(0,114,178,${share.toFixed(3)})`;
        const cell = element("td", "", `${colour};min-width:18px;height:18px;border:1px solid rgba(128,128,128,.25)`);
        cell.title = `${query} \\u2192 ${key}: ${value.toFixed(4)}`;
        cell.onmouseenter = () => { shown.textContent = cell.title; };
        row.append(cell);
      });
      table.append(row);
    });
    frame.replaceChildren(table);
    shown.textContent = `Point at a cell to see its weight; the darkest is ${most.toFixed(4)}.`;
  };
  select.onchange = fill;
  fill();
};
document.querySelectorAll(`[data-attention="${name}"]`).forEach((root) => { if (!root.dataset.drawn) draw(root); });
"""
