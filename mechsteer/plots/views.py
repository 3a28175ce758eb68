"""Interactive views of attention for notebooks, which need no network: CircuitsVis's, and one for any two lengths.

CircuitsVis draws square patterns only; cross-attention is drawn by a small page of our own, with the weights inside.
"""

import html
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mechsteer.files import atomic_path, digest
from mechsteer.plots.labels import token_text
from mechsteer.plots.maps import checked_pattern

_STAND_IN = "\ue000"  # a private-use character, in place of "<" while CircuitsVis writes its page


@dataclass(frozen=True)
class View:
    """A piece of HTML that notebooks show.

    Attributes:
        html: The piece: self-contained, scripts included.
    """

    html: str = field(repr=False)

    def _repr_html_(self) -> str:
        return self.html

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write it as a page of its own.

        Raises:
            MechsteerError: if it cannot be written.
        """
        with atomic_path(path) as temporary:
            temporary.write_text(
                f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>Attention</title></head>\n'
                f"<body>{self.html}</body></html>\n",
                encoding="utf-8",
            )
        return Path(path)


def attention_view(
    pattern: Any, query_tokens: Sequence[str], key_tokens: Sequence[str] | None = None, *, own: bool = False
) -> View:
    """An interactive view of attention weights.

    Args:
        pattern: Weights ``[queries, keys]`` or ``[heads, queries, keys]``: a tensor or array.
        query_tokens: The tokens of the queries.
        key_tokens: The tokens of the keys; default: those of the queries, which is self-attention.
        own: Also draw self-attention with our own page (some kilobytes, where CircuitsVis's has 1.3 MB).

    Returns:
        The view: CircuitsVis's heads for self-attention; for cross-attention a table with a choice of heads, which
        shows the weight under the pointer.

    Raises:
        MechsteerError: if the pattern does not fit the tokens.
    """
    keys = list(query_tokens if key_tokens is None else key_tokens)
    weights = checked_pattern(pattern, len(query_tokens), len(keys))
    if keys == list(query_tokens) and not own:
        return View(_circuitsvis(weights, keys))
    return View(_page(weights, [token_text(t) for t in query_tokens], [token_text(t) for t in keys]))


def _circuitsvis(weights: Any, tokens: list[str]) -> str:
    """CircuitsVis's page with its script inside; its own ``_repr_html_`` would ask the network first."""
    import numpy as np
    from circuitsvis.attention import attention_heads

    safe = [token_text(token).replace("<", _STAND_IN) for token in tokens]
    causal = bool((np.triu(weights, 1) == 0).all())
    made = attention_heads(weights, safe, mask_upper_tri=causal, min_value=0.0, max_value=1.0)
    # Between quotes of a script: "<" must not end it.
    return made.local_src.replace(json.dumps(_STAND_IN)[1:-1], "\\u003c")


def _page(weights: Any, queries: list[str], keys: list[str]) -> str:
    """Our own view. Tokens reach the page as data and are set as text, never as HTML."""
    data = {"weights": weights.round(4).tolist(), "queries": queries, "keys": keys}
    name = digest(data)
    heads = [f"<option value={head}>head {head}</option>" for head in range(len(weights))]
    if len(weights) > 1:
        heads.insert(0, f'<option value="mean">mean of {len(weights)} heads</option>')
    return _TEMPLATE.format(
        name=html.escape(name), heads="".join(heads), data=json.dumps(data).replace("<", "\\u003c"), script=_SCRIPT
    )


_TEMPLATE = """<div data-attention="{name}" style="font:12px sans-serif;color:#000;background:#fff;padding:6px">
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
    top.append(element("th", "query \\u2193  key \\u2192", "font-weight:normal;color:#555;padding:2px 6px"));
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
        const cell = element("td", "", `${colour};min-width:18px;height:18px;border:1px solid #eee`);
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
