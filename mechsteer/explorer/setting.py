"""What is set in the explorer, and the lines of Python that it comes to."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mechsteer.decoding import Generation, generate
from mechsteer.errors import MechsteerError, shown
from mechsteer.explorer.calls import Call, Line, Name
from mechsteer.explorer.frozen import attention_frozen
from mechsteer.explorer.methods import Chosen, control
from mechsteer.models import load, loaded_info, predicting_stack
from mechsteer.models import site as site_of
from mechsteer.prompts import Prompt, prompt
from mechsteer.sources import last_states

_TAGGED = re.compile(r"<(!{1,3})->.*?<-\1>", re.DOTALL)


@dataclass(frozen=True)
class Setting:
    """Where all controls stand.

    Attributes:
        text: The prompt, its instruction between GUIDE's tags: ``<!-> Answer in capitals. <-!>``.
        method: A name of :data:`mechsteer.explorer.methods.CONTROLS`.
        strength: As the method defines it.
        layers: The layers to act in, from 0; None for all.
        frozen: Whether attention is that of the unsteered model.
        max_new_tokens: The most new tokens.
        chat: Whether the chat template is used; None where there is one.
        direction: The file of a saved direction.
    """

    text: str
    method: str = "guide"
    strength: float = 1.0
    layers: tuple[int, ...] | None = None
    frozen: bool = False
    max_new_tokens: int = 40
    chat: bool | None = None
    direction: str | None = None


@dataclass(frozen=True)
class Plan:
    """A setting with what its lines made.

    Attributes:
        setting: The setting.
        lines: The lines, without the first, which loads the model.
        model_line: The line that loads the model.
        variables: What the lines made, by name.
    """

    setting: Setting
    lines: Sequence[Line]
    model_line: Line
    variables: dict[str, Any]

    @property
    def prompts(self) -> list[Prompt]:
        """What is generated from; of several the last answer is meant."""
        return [self.variables["prompt"]] * (2 if self.setting.frozen else 1)

    @property
    def steering(self) -> dict[str, Any]:
        """``steer`` and ``strategy``, those that there are."""
        return {name: self.variables[name] for name in ("steer", "strategy") if name in self.variables}

    def code(self) -> str:
        """Python that makes the same answer and prints it."""
        prompts: Any = [Name("prompt"), Name("prompt")] if self.setting.frozen else Name("prompt")
        named = {name: Name(name) for name in self.steering} | {"max_new_tokens": self.setting.max_new_tokens}
        written = Call(generate, (Name("model"), prompts), named).code()
        imports = ["import mechsteer as ms"]
        if self.setting.frozen:
            imports.append("from mechsteer.explorer import attention_frozen")
        lines = [line.code() for line in (self.model_line, *self.lines)]
        return "\n".join([*imports, "", *lines, f"print({written}.texts[-1])", ""])


def plan(model: Any, setting: Setting) -> Plan:
    """Make the prompt and what is to steer it.

    Raises:
        MechsteerError: for an unknown method, and as the functions that the lines call: for tags that do not close, a
            strength that a method does not have, a layer that is not there.
    """
    chosen = control(setting.method, setting.direction)
    variables: dict[str, Any] = {"model": model}
    lines = [_prompt_line("prompt", setting.text, setting.chat)]
    if chosen.without:
        lines.append(_prompt_line("without", without_instruction(setting.text), setting.chat))
    for line in lines:
        line.run(variables)
    norm = lambda name: float(last_states(model, [variables["prompt"]], [name])[name].norm())  # noqa: E731
    given = Chosen(
        setting.strength,
        setting.layers,
        model.cfg.n_heads,
        norm,
        lambda layer: site_of(model, "resid_post", layer),
        setting.direction,
    )
    steering = list(chosen.lines(given))
    if setting.frozen:
        if setting.method == "directer":
            raise MechsteerError(
                "DIRECTER acts through attention; with attention frozen there is nothing for it to do."
            )
        steering.append(Line(["steer", "strategy"], Call(attention_frozen, (Name("steer"),), home="")))
    for line in steering:
        line.run(variables)
    return Plan(setting, [*lines, *steering], Line(["model"], _loading(model)), variables)


def _prompt_line(name: str, text: str, chat: bool | None) -> Line:
    return Line([name], Call(prompt, (Name("model"), text), {} if chat is None else {"chat": chat}))


def _loading(model: Any) -> Call:
    """What loads the same weights again: of the hub those of the commit that was loaded."""
    info = loaded_info(model)
    given = {"dtype": info.dtype, "revision": info.revision, "fold": info.fingerprint.endswith("-folded")}
    usual = {"dtype": "float32", "revision": "", "fold": False}
    return Call(load, (info.name,), {name: value for name, value in given.items() if value != usual[name]})


def without_instruction(text: str) -> str:
    """A text without what is tagged, and without the white space behind it where there is some before it.

    The text's other ends stay: in one that a template has written, they are the template's.

    Raises:
        MechsteerError: if nothing is, or nothing is left.
    """
    first, *others = _pieces(text)
    if not others:
        raise MechsteerError("No instruction is marked: put it between <!-> and <-!>.")
    left = first
    for piece in others:
        ended = not left or left[-1] in ">]"  # a template's header, behind which a text begins
        left += piece.lstrip() if ended or left[-1].isspace() else piece
    if not others[-1].strip():
        left = left.rstrip()
    if not left.strip():
        raise MechsteerError("All of the prompt is marked as its instruction, so that nothing is left without it.")
    return left


def _pieces(text: str) -> list[str]:
    """What stands before, between and behind the tagged stretches."""
    ends = [0, *(place for found in _TAGGED.finditer(text) for place in found.span()), len(text)]
    return [text[start:end] for start, end in zip(ends[::2], ends[1::2], strict=True)]


def tagged(made: Prompt) -> str:
    """The text of a prompt with its instruction between tags, so that it can be made again with ``chat=False``."""
    ranges = [(made.offsets[a][0], made.offsets[b - 1][1]) for a, b in made.spans.get("instruction", [])]
    text = made.text
    for start, end in sorted(ranges, reverse=True):
        text = f"{text[:start]}<!-> {text[start:end]} <-!>{text[end:]}"
    return text


def first_setting(model: Any, given: str | Prompt, direction: str | None = None) -> Setting:
    """Where the controls stand at first.

    Args:
        model: A loaded model.
        given: A text with tags, or a prompt.
        direction: The file of a saved direction.

    Raises:
        MechsteerError: for what is neither, or a prompt that cannot be made again from its text.
    """
    if isinstance(given, str):
        return Setting(given, direction=direction)
    if not isinstance(given, Prompt):
        raise MechsteerError(f"The explorer begins with a text or what mechsteer.prompt makes, got {shown(given)}.")
    text = tagged(given)
    again = prompt(model, text, chat=False)
    where = (given.tokens.tolist(), given.spans.get("instruction"))
    if (again.tokens.tolist(), again.spans.get("instruction")) != where:
        raise MechsteerError("This prompt cannot be made again from its text alone: give the text, with <!-> and <-!>.")
    return Setting(text, chat=False, direction=direction)


def layers_of(model: Any) -> int:
    """How many layers there are to choose from."""
    return predicting_stack(model)[1]


def answer(made: Generation) -> str:
    """The answer that is meant of what was generated."""
    return made.texts[-1]
