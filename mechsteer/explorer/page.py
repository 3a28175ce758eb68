"""The explorer in Panel: widgets that make a setting, and panes that show what the desk computes. Nothing else."""

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import panel as pn

from mechsteer.explorer.desk import Desk, Update
from mechsteer.explorer.methods import CONTROLS, Control
from mechsteer.explorer.setting import Setting, layers_of
from mechsteer.explorer.views import CSS, code_view

PANES = ("unsteered", "steered", "tokens", "influence", "grid", "code", "note")
_PAUSE = 0.1  # seconds in which a slider that is being moved may move on
_COPY = "navigator.clipboard ? navigator.clipboard.writeText(code.value) : window.prompt('Copy', code.value)"


class Page:
    """One visitor's page.

    Args:
        desk: What computes; shared by all pages.
        first: Where the controls stand at first.
        lock: Held while the model is in use.
    """

    def __init__(self, desk: Desk, first: Setting, lock: threading.Lock) -> None:
        self.desk, self.first, self.lock = desk, first, lock
        self._turn = 0
        self._controls(layers_of(desk.model))
        self.panes = {
            name: pn.pane.HTML("", stylesheets=[CSS], sizing_mode="stretch_width", margin=0) for name in PANES
        }
        self.code = pn.widgets.TextAreaInput(value="", visible=False, max_length=100_000)
        self.copy = pn.widgets.Button(label="Copy as Python", width=160, margin=(10, 0, 0, 0))
        self.copy.js_on_click(args={"code": self.code}, code=_COPY)

    def _controls(self, layers: int) -> None:
        first, wide = self.first, {"sizing_mode": "stretch_width"}
        has_template = bool(getattr(self.desk.model.tokenizer, "chat_template", None))
        self.text = pn.widgets.TextAreaInput(
            label="Prompt, its instruction between <!-> and <-!>", value=first.text, rows=6, max_length=100_000, **wide
        )
        self.chat = pn.widgets.Checkbox(
            label="Chat template", value=has_template and first.chat is not False, visible=has_template
        )
        offered = {one.label: name for name, one in CONTROLS.items() if name != "vector" or first.direction}
        self.method = pn.widgets.Select(label="Method", options=offered, value=first.method, **wide)
        self.strengths = {name: _slider(CONTROLS[name], wide) for name in offered.values()}
        self.says = pn.pane.HTML("", stylesheets=[CSS], **wide)
        self.range = pn.widgets.IntRangeSlider(label="Layers", start=0, end=layers - 1, value=(0, layers - 1), **wide)
        self.layer = pn.widgets.IntSlider(label="Layer", start=0, end=layers - 1, value=layers // 2, **wide)
        self.attention = pn.widgets.RadioButtonGroup(
            options={"Attention free": False, "frozen to the unsteered": True}, value=False, **wide
        )
        self.tokens = pn.widgets.IntSlider(
            label="New tokens", start=5, end=200, step=5, value=first.max_new_tokens, **wide
        )
        self.grid = pn.widgets.Button(label="Compare strengths", **wide)
        moving = [self.text, self.chat, self.range, self.layer, self.attention, self.tokens, *self.strengths.values()]
        for widget in moving:
            widget.param.watch(self._changed, "value")
        self.method.param.watch(self._fit, "value")
        self.method.param.watch(self._changed, "value")
        self.grid.on_click(self._compare)
        self._fit()

    def template(self) -> Any:
        """The page, for Panel to serve."""
        made = pn.Template(Path(__file__).with_name("page.html").read_text(encoding="utf-8"))
        wide = {"sizing_mode": "stretch_width"}
        controls = [self.text, self.chat, self.method, *self.strengths.values(), self.says, self.range, self.layer]
        controls += [self.attention, self.tokens, self.grid, self.panes["note"]]
        made.add_panel("controls", pn.Column(*controls, **wide))
        for name in ("unsteered", "steered", "tokens", "influence", "grid"):
            made.add_panel(name, self.panes[name])
        made.add_panel("code", pn.Column(self.panes["code"], self.code, self.copy, **wide))
        pn.state.onload(self._changed)
        return made

    def setting(self) -> Setting:
        """Where the controls stand."""
        method = self.method.value
        whole = self.range.value == (self.range.start, self.range.end)
        several = None if whole else tuple(range(self.range.value[0], self.range.value[1] + 1))
        layers = {"several": several, "one": (self.layer.value,), "none": None}[CONTROLS[method].layers]
        return Setting(
            self.text.value,
            method,
            self.strengths[method].value,
            layers,
            self.attention.value,
            self.tokens.value,
            None if self.chat.value == self.chat.visible else False,
            self.first.direction,
        )

    def _fit(self, *events: Any) -> None:
        """Show what the method takes."""
        chosen = CONTROLS[self.method.value]
        for name, slider in self.strengths.items():
            slider.visible = name == self.method.value
        self.says.object = f'<div class="faint says">{chosen.says}</div>'
        self.range.visible, self.layer.visible = chosen.layers == "several", chosen.layers == "one"

    async def _changed(self, *events: Any) -> None:
        self._turn += 1
        turn = self._turn
        await asyncio.sleep(_PAUSE)
        if turn == self._turn:
            self.panes["grid"].object = '<p class="faint">“Compare strengths” shows the answers at several of them.</p>'
            await self._play(self.desk.answers(self.setting()), turn)

    async def _compare(self, *events: Any) -> None:
        self._turn += 1
        await self._play(self.desk.grid(self.setting()), self._turn)

    async def _play(self, updates: Iterator[Update], turn: int) -> None:
        """Show one update after another, until there is no more or something was changed."""
        while turn == self._turn and (update := await asyncio.to_thread(self._next, updates)) is not None:
            part, content = update
            if part == "code":
                self.code.value, content = content, code_view(content)
            self.panes[part].object = content

    def _next(self, updates: Iterator[Update]) -> Update | None:
        with self.lock:
            return next(updates, None)


def _slider(control: Control, wide: dict[str, Any]) -> Any:
    return pn.widgets.DiscreteSlider(
        label=control.strength, options=list(control.strengths), value=control.start, formatter="%g", **wide
    )
