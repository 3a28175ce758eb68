"""``mechsteer generate``: one answer, steered by what the options name. Imports nothing heavy until it runs."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from mechsteer.command.options import Device, Model, Positional, shown_as, threads
from mechsteer.errors import MechsteerError, shown

DEFAULTS: Mapping[str, float] = {"guide": 1.0, "pasta": 0.01, "spotlight": 0.1, "scale_keys": 100.0, "directer": 0.5}
"""The number of each method where none follows its option: what the Python function takes by itself."""


@dataclasses.dataclass(frozen=True)
class Generate:
    """Generate an answer, unsteered or steered: by a method, a saved direction or a saved intervention.

    What is given together acts together: --intervention first, then the methods in this order, then --direction.
    """

    prompt: Positional[Annotated[str, shown_as("PROMPT")]]
    """The prompt; GUIDE's tags mark its instruction: <!!-> Answer in capitals. <-!!>"""
    model: Model = "organism:trap-t5"
    instruction: Annotated[str | None, shown_as("TEXT")] = None
    """The instruction, without tags: marked where the prompt has it, put before the prompt where it does not."""
    guide: Annotated[float | None, shown_as("[DELTA]")] = None
    """GUIDE: add DELTA to the attention scores of the instruction. Without a number: 1."""
    pasta: Annotated[float | None, shown_as("[ALPHA]")] = None
    """PASTA, in all heads: attention to all but the instruction times ALPHA. Without a number: 0.01."""
    spotlight: Annotated[float | None, shown_as("[TARGET]")] = None
    """SpotLight: at least this share of attention for the instruction. Without a number: 0.1."""
    scale_keys: Annotated[float | None, shown_as("[ALPHA]")] = None
    """Keys of the instruction times ALPHA, without a gate. Without a number: 100."""
    directer: Annotated[float | None, shown_as("[BETA]")] = None
    """DIRECTER: scaled keys under its gate; a steered token is at least BETA times as likely as the best unsteered one.
    Without a number: 0.5."""
    direction: Annotated[Path | None, shown_as("FILE")] = None
    """A direction saved as safetensors; it is added at its own site."""
    scale: float = 1.0
    """How many times the unit direction."""
    relative: bool = False
    """Take --scale in units of the mean activation norm at the direction's site."""
    transfer: bool = False
    """Allow a direction that was made on another model."""
    intervention: Annotated[Path | None, shown_as("FILE")] = None
    """An intervention saved as safetensors."""
    strategy: Literal["greedy", "sample", "dola", "directer"] = "greedy"
    """How tokens are chosen, with the papers' settings; directer needs a marked instruction."""
    max_new_tokens: int = 40
    """The most new tokens."""
    temperature: float = 0.0
    """0 is greedy; above 0 samples."""
    seed: int = 0
    """Seed of the sampler."""
    device: Device = None


def with_numbers(arguments: Sequence[str]) -> list[str]:
    """The arguments, with its default number behind each method's option that no number follows."""
    made = []
    for place, argument in enumerate(arguments):
        made.append(argument)
        default = DEFAULTS.get(argument.removeprefix("--").replace("-", "_")) if argument.startswith("--") else None
        if default is not None and not _is_number(*arguments[place + 1 : place + 2]):
            made.append(str(default))
    return made


def _is_number(text: str = "") -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def run(c: Generate) -> None:
    """Print the answer.

    Raises:
        MechsteerError: for options that contradict each other, and as :func:`mechsteer.generate`.
    """
    from mechsteer.decoding import generate
    from mechsteer.models import load

    strategy, steer = _strategy(c), _steer(c)
    threads(c.model)
    model = load(c.model, device=c.device)
    made = _prompt(c, model)
    print(generate(model, made, steer=steer, strategy=strategy, max_new_tokens=c.max_new_tokens).texts[0])


def _prompt(c: Generate, model: Any) -> Any:
    """The prompt, with the instruction marked in place where it is there and is not all of it.

    Raises:
        MechsteerError: for an instruction without a text, or one that the prompt has more than once.
    """
    from mechsteer.prompts import prompt
    from mechsteer.tasks.spans import tagged_texts

    text = (c.instruction or "").strip()
    if c.instruction is not None and not text:
        raise MechsteerError(f"--instruction needs a text, got {c.instruction!r}.")
    if text and text in tagged_texts(c.prompt):
        return prompt(model, c.prompt)
    count = c.prompt.count(text) if text and text != c.prompt.strip() else 0
    if count > 1:
        raise MechsteerError(
            f"The instruction {shown(text)} is in the prompt {count} times: mark the one that is meant with tags, "
            f"<!-> {text} <-!>, and leave out --instruction."
        )
    if count:
        return prompt(model, c.prompt.replace(text, f"<!-> {text} <-!>"))
    return prompt(model, c.prompt, instruction=text or None)


def _strategy(c: Generate) -> Any:
    from mechsteer.decoding import Directer, DoLa, Greedy, Sample

    name = c.strategy if c.directer is None else "directer"
    if name != c.strategy != "greedy":
        raise MechsteerError(f"--directer is a strategy, and --strategy {c.strategy} another; give one of them.")
    if name in ("dola", "directer"):
        if c.temperature != 0:
            raise MechsteerError(f"--strategy {name} is greedy, so --temperature must be 0, got {c.temperature}.")
        return DoLa() if name == "dola" else Directer() if c.directer is None else Directer(beta=c.directer)
    if name == "sample" or c.temperature != 0:
        return Sample(temperature=c.temperature or 1.0, seed=c.seed)
    return Greedy()


def _steer(c: Generate) -> Any:
    """The sum of all that is to act; None for nothing."""
    from mechsteer.comparison.methods import methods_of
    from mechsteer.steering import Intervention

    parts = [] if c.intervention is None else [Intervention.load(c.intervention)]
    for name in DEFAULTS:
        value = getattr(c, name)
        if value is not None and name != "directer":
            parts.append(methods_of([f"{name}:{value}"])[f"{name}:{value}"])
    parts += [] if (added := _added(c)) is None else [added]
    return sum(parts) if parts else None


def _added(c: Generate) -> Any:
    """The direction at its strength."""
    from mechsteer.directions import Direction
    from mechsteer.errors import finite
    from mechsteer.steering import add

    scale = finite("--scale", c.scale)
    if c.direction is None:
        if scale != Generate.scale or c.relative or c.transfer:
            raise MechsteerError("--scale, --relative and --transfer say how to steer; --direction FILE is missing.")
        return None
    direction = Direction.load(c.direction)
    if c.relative:
        if not direction.activation_norm > 0:
            raise MechsteerError(
                f"{c.direction} records no mean activation norm, so --relative has no unit; give --scale alone."
            )
        scale *= direction.activation_norm
    return add(direction, scale, transfer=c.transfer)
