"""What a study is to the command line, to ``ms.studies`` and to whoever draws its figures again.

Describing one imports nothing of it: its modules are loaded when they are first used.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from types import MappingProxyType, ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Study:
    """A study.

    Attributes:
        name: On the command line, and in ``study.json``.
        title: What it is about, in a line.
        folder: Its folder in ``mechsteer/studies``.
        models: The bundled models that it runs on by default; with several, ``run`` takes a list. None: it needs a
            model and data of the user's.
        options: Options of the command line that it takes, and the arguments of ``run`` that they are.
        on_data: The study that runs in its place when the command line is given data; none where empty.
        data: What its option ``data`` is, and the function of :mod:`mechsteer.tasks` that reads it; None for prompts of
            its own.
    """

    name: str
    title: str
    folder: str
    models: tuple[str, ...]
    options: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    data: tuple[str, str] | None = None
    on_data: str = ""

    def module(self, job: str) -> ModuleType:
        """A module of its folder: ``study``, ``figures`` or ``report``."""
        return import_module(f"mechsteer.studies.{self.folder}.{job}")

    @property
    def run(self) -> Callable[..., Any]:
        """Its ``run``."""
        return self.module("study").run

    def draw(self, tables: "Mapping[str, pd.DataFrame]") -> "dict[str, Figure]":
        """Its figures, by name, from its tables."""
        return self.module("figures").draw(tables)

    def report(self, result: Any) -> str:
        """What the command line prints of a result."""
        return self.module("report").report(result)
