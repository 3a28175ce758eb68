"""What a diagnosis knows, as numbers with their tests: all that the verdict and the sentences stand on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from mechsteer.diagnosis.evidence import ABOVE, BELOW, LEVEL, NONE, Compared
from mechsteer.stats import Interval

SLIGHT = 0.25
"""The part of what other text gets, below which attention to the instruction counts as none."""

TINY = 0.1
"""Nats of a margin that do not count."""


@dataclass(frozen=True)
class Better:
    """An arm against the prompts as they are.

    Attributes:
        arm: Its name.
        group: Its group.
        followed: The share that it follows.
        passed: The share that passes the check, collapsed answers too.
        collapsed: The share of collapsed answers.
        repaired: Prompts that only it follows.
        broken: Prompts that only the prompts as they are follow.
        p: Exact McNemar test, adjusted over its group (Holm).
    """

    arm: str
    group: str
    followed: Interval
    passed: Interval
    collapsed: float
    repaired: int
    broken: int
    p: float

    @property
    def helps(self) -> bool:
        """Whether it follows more prompts than are followed as they are."""
        return self.p < LEVEL and self.repaired > self.broken


@dataclass(frozen=True)
class Decodable:
    """The layer whose state tells best whether there was an instruction.

    Attributes:
        layer: The layer.
        accuracy: Held-out accuracy there.
        low: The lower end of its 95 % interval.
        high: The upper end.
        shuffled: Mean accuracy with shuffled labels there.
        shuffled_most: The best layer of the best shuffle.
        cut: Accuracy with attention to the instruction cut.
        p: The part of the shuffles whose best layer is as good.
        n: States.
    """

    layer: int
    accuracy: float
    low: float
    high: float
    shuffled: float
    shuffled_most: float
    cut: float
    p: float
    n: int

    @property
    def says(self) -> str:
        """``above`` chance, or ``no evidence``."""
        return ABOVE if self.p < LEVEL else NONE


@dataclass(frozen=True)
class Facts:
    """All of it.

    Attributes:
        n: Prompts.
        missing: Prompts whose instruction the model cannot read, by reason.
        followed: How many of the others are followed.
        collapsed: The share of their answers that collapsed, which count as not followed.
        repeats: What is to be said of prompts that are there several times.
        without: The prompts without their instruction, whose answers may pass the check too; None where not tried.
        others: The other arms.
        mass: Attention mass of the instruction beside controls, of ignored prompts, mean over layers.
        mass_layers: The same by layer, adjusted over layers.
        slight: Mass and state beside a part (:data:`SLIGHT`) of the controls'.
        state: How far cutting all attention to it moves the state, beside controls.
        answer: How far that moves the log-probability of the answer's first tokens, beside controls.
        pull: By group of layers, the margin that attention to it adds, beside none; of ignored prompts.
        supplied: The pull in all layers beside a part (:data:`SLIGHT`) of what following needs beyond the rest.
        nearer_mass: By form, the attention mass there beside that in place, mean over layers.
        nearer_pull: By form, the pull of attention to it there beside that in place.
        decodable: None where that was not tried.
    """

    n: int
    missing: Mapping[str, int]
    followed: Interval | None = None
    collapsed: float = 0.0
    repeats: str = ""
    without: Better | None = None
    others: Sequence[Better] = ()
    mass: Compared | None = None
    mass_layers: Mapping[int, Compared] = field(default_factory=dict)
    state: Compared | None = None
    slight: Sequence[Compared] = ()
    answer: Mapping[str, Compared] = field(default_factory=dict)
    pull: Mapping[str, Compared] = field(default_factory=dict)
    supplied: Compared | None = None
    nearer_mass: Mapping[str, Compared] = field(default_factory=dict)
    nearer_pull: Mapping[str, Compared] = field(default_factory=dict)
    decodable: Decodable | None = None

    @property
    def unattended(self) -> bool:
        """Whether attention to the instruction and its effect are slight beside other text, and it supplies little."""
        slight = bool(self.slight) and all(one.says == BELOW for one in self.slight)
        return slight and not (self.supplied is not None and self.supplied.says == ABOVE)
