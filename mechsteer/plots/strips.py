"""Interactive views of tokens: a quantity on the text itself, and what the lens reads by layer and position."""

import json
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mechsteer.errors import MechsteerError
from mechsteer.files import digest
from mechsteer.plots.base import figure, points, style
from mechsteer.plots.labels import need, numeric, one_each, pitch, quantity, token_label, token_text
from mechsteer.plots.maps import SEQUENTIAL, colour_bar, token_map, tokens_below
from mechsteer.plots.views import View
from mechsteer.prompts.vocabulary import readable

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

WIDE = 24
"""Positions up to which the image of the lens has its tokens written in."""


def token_view(table: "pd.DataFrame", value: str = "influence", *, title: str = "") -> View:
    """A text whose tokens are coloured by a quantity, with a choice of layers where there are several.

    Args:
        table: One row a position, or a layer and position, with the columns ``token`` and the quantity: of
            :func:`mechsteer.influence` or :func:`mechsteer.rollout`, of one prompt, span and stack; or made of a
            generation, ``pd.DataFrame({"token": out.pieces[0], "log-probability": out.logprobs[0][:count]})``.
        value: Column of the quantity. Negative values are orange, others blue, the darker the farther from 0; a token
            without a value (NaN) has no colour.
        title: Title.

    Raises:
        MechsteerError: for a missing column, an empty table, or several rows for one token.
    """
    need(table, "token", value)
    table = numeric(table, value)
    whole = table.assign(position=range(len(table))) if "position" not in table else table
    whole = whole.assign(layer=0) if "layer" not in whole else whole
    one_each(whole, ["layer", "position"], "token")
    ordered = whole.sort_values(["layer", "position"])
    tokens = [readable(str(token)) for token in ordered.drop_duplicates("position")["token"]]
    layers = [int(layer) for layer in dict.fromkeys(ordered["layer"])]
    parts = (part[value].to_numpy(dtype=float, na_value=math.nan) for _, part in ordered.groupby("layer"))
    values = [[float(f"{one:.4g}") for one in part] for part in parts]
    if any(len(row) != len(tokens) for row in values):
        raise MechsteerError(f"Every layer must have a value for each of the {len(tokens)} positions.")
    data = {
        "tokens": tokens,
        "layers": layers,
        "values": [[None if math.isnan(one) else one for one in row] for row in values],
        "most": [max(1e-12, *(abs(one) for one in row if math.isfinite(one)), 0.0) for row in values],
        "what": quantity(value),
        "title": title,
    }

    def draw() -> "Figure":
        with style():
            made, (axes,) = figure(width=7.0, height=2.0 + 0.16 * min(len(layers), 30))
            if len(layers) > 1:
                token_map(axes, whole, value=value, title=title)
            else:
                axes.bar(range(len(tokens)), values[0], color="#0072B2")
                tokens_below(axes, tokens, range(len(tokens)), [])
                axes.set(ylabel=quantity(value), title=title)
        return made

    return View(_piece(data, _STRIP), draw, title or quantity(value))


def lens_view(table: "pd.DataFrame", tokens: Sequence[str] = (), *, title: str = "What the logit lens reads") -> View:
    """The most likely token by exit and position, the last exit on top; the surer, the darker.

    Args:
        table: Of :func:`mechsteer.logit_lens` with ``positions="all"``, for one prompt: columns exit, position, top1,
            entropy and jsd.
        tokens: The tokens that are read, one a position: ``prompt.str_tokens``; of an encoder-decoder those of the
            decoder, its start token and what it was given to go on with.
        title: Title.

    Raises:
        MechsteerError: for a missing column, an empty table, a table of several prompts, a cell without a row, or too
            few tokens.
    """
    need(table, "exit", "position", "top1", "entropy", "jsd")
    if "prompt" in table and table["prompt"].nunique() > 1:
        raise MechsteerError(f"lens_view shows one prompt, got a table of {table['prompt'].nunique()}: choose one.")
    cells = table.drop_duplicates(["exit", "position"])
    positions = sorted({int(place) for place in cells["position"]})
    exits = sorted({int(exit) for exit in cells["exit"]}, reverse=True)
    read = [token_text(tokens[place]) if place < len(tokens) else str(place) for place in positions]
    if tokens and len(tokens) <= positions[-1]:
        raise MechsteerError(f"The table has position {positions[-1]}, but there are {len(tokens)} tokens.")
    if len(cells) != len(exits) * len(positions):
        raise MechsteerError(f"Every exit must have a row for each of the {len(positions)} positions.")
    grid = cells.pivot(index="exit", columns="position").reindex(index=exits)
    most = max(float(cells["entropy"].max()), 1e-9)
    data = {
        "read": read,
        "exits": exits,
        "top": [[token_text(str(one)) for one in row] for row in grid["top1"].to_numpy()],
        "entropy": grid["entropy"].round(3).to_numpy().tolist(),
        "jsd": grid["jsd"].round(3).to_numpy().tolist(),
        "most": most,
        "title": title,
    }

    def draw() -> "Figure":
        with style():
            made, (axes,) = figure(width=min(12.0, 1.5 + 0.55 * len(positions)), height=1.2 + 0.24 * len(exits))
            entropy = grid["entropy"].to_numpy(dtype=float)
            image = axes.imshow(entropy, aspect="auto", cmap=SEQUENTIAL, vmin=0, vmax=most)
            colour_bar(axes, image, "Entropy (nats)")
            if len(positions) <= WIDE:
                _write(axes, data["top"], entropy / most)
            step, size = pitch(150.0, len(exits))
            axes.set_yticks(range(0, len(exits), step), [str(exit) for exit in exits[::step]], fontsize=size)
            tokens_below(axes, read, positions, [])
            axes.set(ylabel="Exit (blocks passed)", title=title)
        return made

    return View(_piece(data, _GRID), draw, title)


def _write(axes: Any, top: list[list[str]], light: Any) -> None:
    for row, line in enumerate(top):
        for column, said in enumerate(line):
            colour = "black" if light[row, column] > 0.6 else "white"
            label = token_label(said, 9)
            axes.text(column, row, label, ha="center", va="center", color=colour, fontsize=points(6), parse_math=False)


def _piece(data: dict[str, Any], script: str) -> str:
    """A place and the script that draws into it. Tokens reach it as data and are set as text, never as HTML."""
    name, inside = digest(data), json.dumps(data, ensure_ascii=False).replace("<", "\\u003c")
    return (
        f'<div data-tokens="{name}" style="font:13px/1.6 system-ui,sans-serif"><noscript>This view needs JavaScript.'
        f"</noscript></div>\n<script>{{const data = {inside};\n{_SHARED}{script}\n"
        f"document.querySelectorAll('[data-tokens=\"{name}\"]').forEach((root) => {{\n"
        f'  if (!root.dataset.drawn) {{ root.dataset.drawn = "yes"; draw(root); }}\n}});}}</script>'
    )


_SHARED = """
const element = (tag, text, style) => {
  const made = document.createElement(tag);
  made.textContent = text;
  made.style.cssText = style;
  return made;
};
"""

_STRIP = """
const draw = (root) => {
  const several = data.layers.length > 1, last = data.layers.length - 1;
  const choice = element("input", "", "vertical-align:middle;width:16em"), says = element("span", "", "opacity:.75");
  Object.assign(choice, { type: "range", min: 0, max: last, value: last });
  choice.setAttribute("aria-label", "Layer");
  const shown = element("output", "", "margin-left:1em"), text = element("div", "", "");
  text.style.cssText = "font:13px/1.9 ui-monospace,monospace;white-space:pre-wrap;overflow-wrap:anywhere";
  const fill = () => {
    const at = Number(choice.value), values = data.values[at], most = data.most[at];
    says.textContent = several ? `${data.what}, layer ${data.layers[at]}` : data.what;
    text.replaceChildren(...data.tokens.map((token, place) => {
      const value = values[place], share = (0.75 * Math.min(1, Math.abs(value) / most)).toFixed(3);
      const colour = value < 0 ? "230,159,0" : "0,114,178";
      const cell = element("span", token.replaceAll("\\n", "↵\\n"), `background:rgba(${colour},${share})`);
      cell.title = `${place}: ${value ?? "no value"}`;
      cell.onmouseenter = () => { shown.textContent = `${place} “${token.trim()}”: ${value ?? "no value"}`; };
      return cell;
    }));
  };
  if (data.title) root.append(element("div", data.title, "font-weight:600"));
  const head = element("div", "", "");
  head.append(...(several ? [choice, " "] : []), says, shown);
  root.append(head, text);
  choice.oninput = fill;
  fill();
};
"""

_GRID = """
const draw = (root) => {
  const shown = element("output", "Point at a cell.", "display:block;opacity:.75");
  const table = element("table", "", "border-collapse:collapse;font:12px ui-monospace,monospace");
  const edge = "font-weight:normal;opacity:.75;padding:1px 6px;white-space:pre";
  data.exits.forEach((exit, row) => {
    const line = element("tr", "", "");
    line.append(element("th", `exit ${exit}`, `${edge};text-align:right`));
    data.read.forEach((read, column) => {
      const sure = 1 - data.entropy[row][column] / data.most;
      const cell = element("td", data.top[row][column], `background:rgba(0,114,178,${(0.7 * sure).toFixed(3)});` +
        "padding:1px 5px;border:1px solid rgba(128,128,128,.25);white-space:pre;max-width:7em;overflow:hidden");
      cell.title = `after “${read}”, exit ${exit}: “${data.top[row][column]}”; entropy ${data.entropy[row][column]} ` +
        `nats, ${data.jsd[row][column]} nats (JSD) from the last exit`;
      cell.onmouseenter = () => { shown.textContent = cell.title; };
      line.append(cell);
    });
    table.append(line);
  });
  const foot = element("tr", "", "");
  foot.append(element("th", "read:", edge));
  data.read.forEach((read) => foot.append(element("th", read, edge)));
  table.append(foot);
  const frame = element("div", "", "overflow:auto;max-height:75vh");
  frame.append(table);
  root.append(element("div", data.title, "font-weight:600"), shown, frame);
};
"""
