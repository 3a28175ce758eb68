"""Errors name what was given and what would have been valid."""

from inspect import unwrap

import numpy as np
import pandas as pd
import pytest
import torch

from mechsteer.errors import (
    MechsteerError,
    ParityError,
    finite,
    foreign,
    listed,
    nearest,
    not_finite,
    one_of,
    positive_int,
    unknown,
    whole,
    wholes,
)

# Without the type checks of the test run, as in ordinary use.
finite_untyped, positive_int_untyped, listed_untyped = unwrap(finite), unwrap(positive_int), unwrap(listed)


def test_a_close_name_is_suggested() -> None:
    assert nearest("resid_psot", ["resid_post", "resid_pre", "z"]).startswith(" Did you mean 'resid_post'")


def test_few_choices_without_a_close_one_are_all_listed() -> None:
    assert nearest("qqq", ["alpha", "beta"]) == " Valid: alpha, beta."


def test_many_choices_are_shortened_and_counted() -> None:
    hint = nearest("qqq", [f"name{i:02}" for i in range(30)])
    assert "name05" in hint and "name06" not in hint and "30 in all" in hint


def test_no_choices_give_no_hint() -> None:
    assert nearest("x", []) == ""


def test_unknown_quotes_the_name_and_what_it_was_for() -> None:
    assert str(unknown("dtype", "flot32", ["float32"])) == "Unknown dtype 'flot32'. Did you mean 'float32'?"


def test_parity_errors_are_caught_as_mechsteer_errors() -> None:
    assert issubclass(ParityError, MechsteerError) and issubclass(MechsteerError, ValueError)


@pytest.mark.parametrize("value", [3, 2.5, "0.5", -1])
def test_finite_returns_numbers_as_floats(value: object) -> None:
    found = finite_untyped("scale", value)
    assert found == float(value) and isinstance(found, float)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), "many", None, [1]])
def test_finite_refuses_what_is_no_finite_number_and_says_its_name(value: object) -> None:
    with pytest.raises(MechsteerError, match=r"^scale must be"):
        finite_untyped("scale", value)


@pytest.mark.parametrize("value", [0, -3, True, 2.0, "2", None])
def test_positive_int_refuses_everything_else(value: object) -> None:
    with pytest.raises(MechsteerError, match="batch_size must be an integer of at least 1"):
        positive_int_untyped("batch_size", value)


def test_positive_int_returns_the_value() -> None:
    assert positive_int("n", 7) == 7
    found = positive_int_untyped("n", np.int64(7))
    assert found == 7 and type(found) is int


INTEGERS = [3, np.int64(3), np.array(3), torch.tensor(3)]
NO_INTEGERS = [True, np.True_, torch.tensor(True), 3.0, np.float64(3), torch.tensor(3.0), "3", None, [3]]


def test_integers_of_numpy_and_pytorch_are_pythons_and_truth_values_are_none() -> None:
    found = [unwrap(whole)(value) for value in INTEGERS]
    assert found == [3] * 4 and {type(number) for number in found} == {int}
    assert [unwrap(whole)(value) for value in NO_INTEGERS] == [None] * len(NO_INTEGERS)


def test_one_that_is_no_integer_leaves_none_of_a_list() -> None:
    assert wholes(torch.arange(3)) == wholes(np.arange(3)) == wholes(iter((0, 1, 2))) == wholes(range(3)) == [0, 1, 2]
    assert all(wholes([0, other]) == [] for other in NO_INTEGERS)
    assert all(wholes(nothing) == [] for nothing in ([], None, 3, "12", np.array(3), torch.tensor(3)))


def test_one_of_returns_a_valid_choice_and_suggests_for_a_wrong_one() -> None:
    assert one_of("side", "left", ("left", "right")) == "left"
    with pytest.raises(MechsteerError, match=r"Unknown side 'lefft'\. Did you mean 'left'"):
        one_of("side", "lefft", ("left", "right"))


def test_listed_returns_the_items_of_what_is_no_text() -> None:
    assert listed("layers", (1, 2)) == [1, 2] and listed("layers", range(2)) == [0, 1] and listed("layers", []) == []


@pytest.mark.parametrize("value", [3, None, "ab", b"ab", {"a": 1}])
def test_what_is_no_list_is_refused(value: object) -> None:
    with pytest.raises(MechsteerError, match=f"layers must be a list, got {value!r}"):
        listed_untyped("layers", value)


def test_a_table_is_no_list_and_its_column_is_one() -> None:
    table = pd.DataFrame({"prompt": ["a", "b"]})
    assert listed("prompts", table["prompt"]) == ["a", "b"]
    with pytest.raises(MechsteerError, match="prompts must be a list, got a DataFrame"):
        listed("prompts", table)


def test_numbers_that_are_not_finite_are_named_by_site_and_prompt() -> None:
    assert str(not_finite("blocks.1.hook_z", 4)).startswith("NaN or infinite numbers at blocks.1.hook_z for prompt 4:")


def test_an_error_is_one_printable_line() -> None:
    assert str(MechsteerError("a\n  b\x00\ud800")) == "a b\\x00\\ud800"


def test_what_another_package_raises_becomes_one_line() -> None:
    class Panic(BaseException):  # as Rust's
        pass

    for raised in (Panic("at\nonce"), RecursionError("deep"), MemoryError()):
        with (
            pytest.raises(MechsteerError, match=r"^cannot read x: \w+: .+\. Make it again\.$") as caught,
            foreign("cannot read x", "Make it again."),
        ):
            raise raised
        assert caught.value.__cause__ is raised
    with pytest.raises(KeyboardInterrupt), foreign("cannot read x"):
        raise KeyboardInterrupt
    with pytest.raises(MechsteerError, match=r"^own$"), foreign("cannot read x"):
        raise MechsteerError("own")


def test_long_choices_are_shortened() -> None:
    message = str(unknown("column", "classes", ["classe" + "[" * 3000, "x" * 900]))
    assert len(message) < 400
