"""The rows of the table: ways to ask, and ways to steer with the settings that they are chosen from."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from mechsteer.decoding import Directer, Strategy
from mechsteer.errors import listed, one_of
from mechsteer.steering import Intervention, attention_bias, pasta, spotlight
from mechsteer.studies.core.choose import at_edge
from mechsteer.tasks import IFEval, IFEvalPrompt
from mechsteer.tasks.own_samples import OwnSample
from mechsteer.tasks.spans import change_tagged

Steering = tuple[Intervention | None, Strategy | None]


@dataclass(frozen=True)
class Method:
    """A way to steer.

    Attributes:
        name: As the papers call it.
        setting: What its strength is called.
        ladder: The settings to choose from, the mildest first.
        make: The intervention and the strategy of a setting.
    """

    name: str
    setting: str
    ladder: tuple[float, ...]
    make: Callable[[float], Steering]

    def at_edge(self, value: float) -> bool:
        """Whether a setting is the strongest one, beyond which nothing was tried."""
        return at_edge(self.ladder, value)


METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method("GUIDE", "Δ", (0.5, 1.0, 1.5, 2.0), lambda value: (attention_bias(delta=value), None)),
        Method("PASTA", "α", (0.5, 0.3, 0.1, 0.01), lambda value: (pasta(alpha=value), None)),
        Method("SpotLight", "ψ", (0.05, 0.1, 0.2, 0.3), lambda value: (spotlight(target=value), None)),
        Method("DIRECTER", "β", (0.5, 0.3, 0.1, 0.05), lambda value: (None, Directer(beta=value))),
    )
}
"""By name. PASTA steers all heads: none are profiled here."""


def named(names: str | Sequence[str] | None) -> tuple[Method, ...]:
    """The methods of these names, one or several, each once; None for all.

    Raises:
        MechsteerError: for an unknown name.
    """
    given = METHODS if names is None else [names] if isinstance(names, str) else listed("methods", names)
    return tuple(METHODS[one_of("method", name, METHODS)] for name in dict.fromkeys(given))


def marked(task: IFEval) -> IFEval:
    """The same prompts with asterisks around their instructions; the checkers still get the texts as they were."""
    return replace(task, name=f"{task.name}*", samples=tuple(map(_marked, task.samples)))


def _marked(sample: IFEvalPrompt) -> IFEvalPrompt:
    own = sample.asked
    assert own is not None
    return replace(sample, asked=_starred(own))


def _starred(own: OwnSample) -> OwnSample:
    asked = own.asked
    if isinstance(asked, str):
        asked = change_tagged(asked, "*{}*".format)
    return replace(own, asked=asked, instruction=f"*{own.instruction}*" if own.instruction else "")
