"""The suite's type checker refuses what beartype refuses, also after calls of other kinds have passed."""

import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from jaxtyping import Float, TypeCheckError
from torch import Tensor

from tests import typecheck


@pytest.fixture
def counted() -> Iterator[tuple[Callable[[Any], Any], list[Any]]]:
    """The decorator, and the functions that the checker was asked about so far are counted by their calls."""
    calls: list[Any] = []

    def count(checked: Any) -> Any:
        inner = typecheck.checker(checked)

        def call(*args: Any, **kwargs: Any) -> Any:
            calls.append(checked)
            return inner(*args, **kwargs)

        return call

    yield lambda fn: typecheck.once_a_kind(fn, typechecker=count), calls


def zeros(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.zeros(*shape, dtype=dtype)


def test_calls_of_one_kind_are_checked_once(counted: Any) -> None:
    checked, calls = counted

    def double(x: Float[Tensor, "rows columns"], *, scale: float = 2.0) -> Float[Tensor, "rows columns"]:
        return x * scale

    double = checked(double)
    double(zeros(2, 3))
    first = len(calls)
    assert torch.equal(double(zeros(2, 3) + 1), zeros(2, 3) + 2)
    double(zeros(4, 5))  # other sizes, as different from each other
    assert len(calls) == first
    for other in (zeros(4, 4), zeros(1, 3), zeros(2, 3, dtype=torch.float64)):
        double(other)
        assert len(calls) > first
        first = len(calls)
    double(zeros(2, 3), scale=3)
    assert len(calls) > first


def test_after_many_calls_one_of_a_few_is_looked_at(counted: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    checked, _ = counted
    monkeypatch.setattr(typecheck, "FIRST", 10)

    def double(x: Float[Tensor, "rows columns"]) -> Float[Tensor, "rows columns"]:
        return x * 2

    def refused(times: int) -> int:
        count = 0
        for _ in range(times):
            try:
                double(zeros(3))
            except TypeCheckError:
                count += 1
        return count

    double = checked(double)
    assert refused(10) == 10 and refused(7 * 4) == 4
    typecheck.begin_file()
    assert refused(10) == 10


def test_listed_values_and_long_lists_are_checked_once_each(counted: Any) -> None:
    checked, calls = counted

    def first(kind: Literal["a", "b"], values: list[int], n: int = 0) -> Literal[1, 2]:
        return {"a": 1, "b": 2 + n}[kind]

    def total(values: Sequence[int]) -> int:
        return len(values)

    first, total = checked(first), checked(total)
    for call in (lambda: first("a", [1]), lambda: first("b", [1]), lambda: total([1] * 999), lambda: total((1,) * 999)):
        before = len(calls)
        call()
        assert len(calls) > before
        before = len(calls)
        call()
        assert len(calls) == before
    total([1] * 500)
    assert len(calls) == before
    for wrong in (lambda: first("c", [1]), lambda: first("b", [1], 1), lambda: total(["a"] * 999)):
        with pytest.raises(TypeCheckError):
            wrong()


WRONG_ARGUMENTS: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
    ((zeros(2, 3), zeros(2)), {}),  # each was right in another call
    ((zeros(3, 2), zeros(3)), {}),
    ((zeros(2, 3), zeros(3, 1)), {}),
    ((zeros(2, 3), zeros(3, dtype=torch.float64).long()), {}),
    ((zeros(2, 3), None), {}),
    ((zeros(2, 3), zeros(3), [1]), {}),
    ((zeros(2, 3), zeros(3), []), {"pairs": {"a": "b"}}),
    ((zeros(2, 3), zeros(3), []), {"pairs": {1: 1}}),
    ((zeros(2, 3), zeros(3), []), {"pair": (1, 1)}),
    ((zeros(2, 3), zeros(3), []), {"pair": ("a",)}),
    ((zeros(2, 3), zeros(3), []), {"kind": "c"}),
]


@pytest.mark.parametrize(("args", "kwargs"), WRONG_ARGUMENTS)
def test_wrong_arguments_are_refused_after_right_ones(args: Any, kwargs: Any) -> None:
    def product(
        matrix: Float[Tensor, "rows columns"],
        vector: Float[Tensor, "columns"],
        names: Sequence[str] = (),
        *,
        pairs: dict[str, int] | None = None,
        pair: tuple[str, int] | None = None,
        kind: str = "a",
    ) -> Float[Tensor, "rows"]:
        return matrix @ vector

    def of_kind(*args: Any, kind: Literal["a", "b"] = "a", **kwargs: Any) -> Any:
        return checked(*args, **kwargs)

    checked = typecheck.once_a_kind(product, typechecker=typecheck.checker)
    of_kind = typecheck.once_a_kind(of_kind, typechecker=typecheck.checker)
    for _ in range(2):
        of_kind(zeros(2, 3), zeros(3), ["a", "b"], pairs={"a": 1}, pair=("a", 1), kind="a")
        of_kind(zeros(3, 2), zeros(2), [], pairs={}, kind="b")
        of_kind(zeros(2, 3), zeros(3))
    with pytest.raises(TypeCheckError):
        of_kind(*args, **kwargs)


WRONG_SIZES = [
    (zeros(5, 2), zeros(5, 3), zeros(7)),  # named by number
    (zeros(5, 7), zeros(5, 2), zeros(7)),
    (zeros(5, 2), zeros(4, 2), zeros(7)),  # not that of another argument
    (zeros(5, 2), zeros(5, 2), zeros(0)),  # the result has not that of an argument
]


@pytest.mark.parametrize("wrong", WRONG_SIZES)
def test_wrong_sizes_are_refused_after_other_right_ones(wrong: tuple[Tensor, ...]) -> None:
    def last(
        x: Float[Tensor, "rows 2"], y: Float[Tensor, "rows 2"], z: Float[Tensor, "*rest"]
    ) -> Float[Tensor, "*rest"]:
        return z if len(z) else x

    last = typecheck.once_a_kind(last, typechecker=typecheck.checker)
    for rows, size in ((5, 7), (6, 8), (3, 4)):
        assert last(zeros(rows, 2), zeros(rows, 2), zeros(size)).shape == (size,)
    with pytest.raises(TypeCheckError):
        last(*wrong)


def test_computed_sizes_are_looked_at_each_time() -> None:
    def longer(x: Float[Tensor, "n"], y: Float[Tensor, "n+1"]) -> None: ...

    longer = typecheck.once_a_kind(longer, typechecker=typecheck.checker)
    longer(zeros(2), zeros(3))
    longer(zeros(4), zeros(5))
    for wrong in (4, 9):
        with pytest.raises(TypeCheckError):
            longer(zeros(7), zeros(wrong))


@pytest.mark.parametrize("wrong", [zeros(2), zeros(3, 1), zeros(3).long(), None, [zeros(3)], "text"])
def test_wrong_results_are_refused_after_right_ones(wrong: Any) -> None:
    def answer(x: Float[Tensor, "n"], value: Any) -> Float[Tensor, "n"]:
        return value[0]

    class Box:
        """A value whose kind does not tell what is in it."""

        def __init__(self, value: Any) -> None:
            self.value = value

        def __getitem__(self, index: int) -> Any:
            return self.value

    answer = typecheck.once_a_kind(answer, typechecker=typecheck.checker)
    for n in (2, 3, 3):
        assert answer(zeros(n), Box(zeros(n))).shape == (n,)
    with pytest.raises(TypeCheckError):
        answer(zeros(3), Box(wrong))
    assert answer(zeros(3), Box(zeros(3))).shape == (3,)


def test_items_of_several_kinds_are_looked_at_each_time() -> None:
    def total(values: list[int], more: tuple[int, ...] = ()) -> int:
        return len(values)

    total = typecheck.once_a_kind(total, typechecker=typecheck.checker)
    for wrong in ({"values": [1, "a"]}, {"values": [1], "more": (1, "a")}, {"values": [1] * 99 + ["a"] * 99}):
        refused = 0
        for _ in range(60):  # beartype looks at one item, by chance
            try:
                total(**wrong)
            except TypeCheckError:
                refused += 1
        assert refused > 5


def test_fields_are_checked_and_names_are_found_where_the_function_is() -> None:
    @dataclass
    class Pair:
        left: Float[Tensor, "n"]
        right: Float[Tensor, "n"]

        def swapped(self) -> "Mark":
            return self  # type: ignore[return-value]

        def left_or(self, other: "Mark | None" = None) -> Any:
            return self.left

    pair = typecheck.once_a_kind(Pair, typechecker=typecheck.checker)
    made = pair(zeros(2), zeros(2))
    pair(zeros(3), zeros(3))
    with pytest.raises(TypeCheckError):
        pair(zeros(2), zeros(3))
    left_or = typecheck.once_a_kind(Pair.left_or, typechecker=typecheck.checker)
    assert left_or(made) is left_or(made, Mark()) is made.left
    with pytest.raises(TypeCheckError):
        left_or(made, made)
    with pytest.raises(TypeCheckError):
        typecheck.once_a_kind(Pair.swapped, typechecker=typecheck.checker)(made)


class Mark:
    """Named in annotations above, where it is not yet defined."""


def test_the_package_is_checked_unless_told_otherwise() -> None:
    from mechsteer.models.heads import linear

    with pytest.raises(TypeCheckError):
        linear("x", zeros(2, 2), zeros(2))
    with typecheck.unchecked(), pytest.raises((TypeError, AttributeError)) as caught:
        linear("x", zeros(2, 2), zeros(2))
    assert not isinstance(caught.value, TypeCheckError)


def test_workers_of_a_sweep_import_the_tests_without_torch() -> None:
    code = 'import sys, tests.studies.sweep_runs; assert "torch" not in sys.modules'
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[1])
