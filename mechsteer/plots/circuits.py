"""CircuitsVis's view of attention heads, with its script inside, compressed: no network is asked.

CircuitsVis (https://github.com/TransformerLensOrg/CircuitsVis) draws a small map a head and, of the chosen one, a large
map and its tokens. Its own page holds 1.3 MB of script, and the weights with all their digits.
"""

from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import Any

from mechsteer.files import digest
from mechsteer.page_data import packed

SCALE = 1000
"""Weights are kept as whole thousandths."""


def heads_view(weights: Any, tokens: Sequence[str], names: Sequence[str]) -> str:
    """CircuitsVis's heads as a piece of HTML, with a box that leaves the first token out.

    Args:
        weights: ``[heads, pos, pos]`` as an array.
        tokens: What stands for each position.
        names: One name a head.
    """
    import numpy as np

    data = {
        "attention": np.rint(weights * SCALE).astype(int).tolist(),
        "tokens": list(tokens),
        "attentionHeadNames": list(names),
        "maskUpperTri": bool((np.triu(weights, 1) == 0).all()),
    }
    return _TEMPLATE.format(name=digest(data), data=packed(data), library=_library(), scale=SCALE)


@cache
def _library() -> str:
    """CircuitsVis's script."""
    source = files("circuitsvis").joinpath("dist", "cdn", "iife.js").read_text(encoding="utf-8")
    return packed(source.replace("//# sourceMappingURL=iife.js.map", ""))


_TEMPLATE = """<div data-circuits="{name}" style="font:13px system-ui,sans-serif">
<label><input type="checkbox"> leave out the first token, where an attention sink draws all the colour</label>
<div style="margin:12px 0;background:#fff;color:#000;padding:8px" class="circuits"></div>
<noscript>This view needs JavaScript.</noscript></div>
<script type="module">
const unpack = async (text) => {{
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return JSON.parse(await new Response(stream).text());
}};
const library = async () => {{
  const script = document.createElement("script");
  script.textContent = `${{await unpack("{library}")}};window.CircuitsVis = CircuitsVis;`;
  document.head.append(script);
}};
window.circuitsReady ??= window.CircuitsVis ? Promise.resolve() : library();
await window.circuitsReady;
const data = await unpack("{data}");
const without = (skip) => {{
  const rows = (head) => head.slice(skip).map((row) => row.slice(skip).map((weight) => weight / {scale}));
  const attention = data.attention.map(rows);
  return {{ ...data, attention, tokens: data.tokens.slice(skip), minValue: 0, maxValue: 1 }};
}};
document.querySelectorAll('[data-circuits="{name}"]').forEach((root, place) => {{
  if (root.dataset.drawn) return;
  root.dataset.drawn = "yes";
  const box = root.querySelector("input"), frame = root.querySelector(".circuits");
  let count = 0;
  const draw = () => {{
    const inner = document.createElement("div");
    inner.id = `circuits-{name}-${{place}}-${{count}}`;
    count += 1;
    frame.replaceChildren(inner);
    CircuitsVis.render(inner.id, CircuitsVis.AttentionHeads, without(box.checked ? 1 : 0));
  }};
  box.disabled = data.tokens.length < 2;
  box.onchange = draw;
  draw();
}});
</script>"""
