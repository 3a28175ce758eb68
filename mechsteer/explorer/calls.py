"""Calls that can be made and can be written down: what the explorer runs is what its Python says."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Name:
    """A variable of the code."""

    name: str


@dataclass(frozen=True)
class Call:
    """A call of a public function or class.

    Attributes:
        function: What is called.
        given: Arguments by place; a :class:`Name` stands for a variable, also inside lists and tuples.
        named: Arguments by name.
        home: What stands before the function's name.
    """

    function: Callable[..., Any]
    given: tuple[Any, ...] = ()
    named: Mapping[str, Any] = field(default_factory=dict)
    home: str = "ms."

    def made(self, variables: Mapping[str, Any]) -> Any:
        """What the call returns."""
        named = {name: _value(one, variables) for name, one in self.named.items()}
        return self.function(*(_value(one, variables) for one in self.given), **named)

    def code(self) -> str:
        """The call as Python."""
        parts = [*map(_code, self.given), *(f"{name}={_code(one)}" for name, one in self.named.items())]
        return f"{self.home}{self.function.__qualname__}({', '.join(parts)})"


def _value(argument: Any, variables: Mapping[str, Any]) -> Any:
    if isinstance(argument, Name):
        return variables[argument.name]
    if isinstance(argument, list | tuple):
        return type(argument)(_value(one, variables) for one in argument)
    return argument


def _code(argument: Any) -> str:
    if isinstance(argument, Name):
        return argument.name
    if isinstance(argument, list | tuple):
        inside = ", ".join(map(_code, argument))
        return f"[{inside}]" if isinstance(argument, list) else f"({inside}{',' * (len(argument) == 1)})"
    return repr(argument)


@dataclass(frozen=True)
class Line:
    """An assignment: ``name = call``; several names take a call's several results."""

    names: Sequence[str]
    call: Call

    def run(self, variables: dict[str, Any]) -> None:
        """Make the call and keep its results under their names."""
        made = self.call.made(variables)
        variables.update(zip(self.names, [made] if len(self.names) == 1 else made, strict=True))

    def code(self) -> str:
        """The line as Python."""
        return f"{', '.join(self.names)} = {self.call.code()}"
