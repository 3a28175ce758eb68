"""A direction survives being saved, refuses to be nothing, and random ones are the same everywhere."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

import mechsteer as ms
from mechsteer.directions import random_direction
from mechsteer.files import versions

SITE = "blocks.0.hook_resid_post"


def example() -> ms.Direction:
    return ms.Direction(
        torch.tensor([3.0, 0.0, -4.0]),
        SITE,
        "gradient",
        mean_projection=1 / 3,
        activation_norm=2e-9,
        meta={"seed": "ä"},
    )


def test_norm_unit_and_width_are_the_vectors() -> None:
    d = example()
    assert d.norm == 5.0 and d.width == 3 and d.unit.tolist() == pytest.approx([0.6, 0.0, -0.8])
    assert repr(d) == f"Direction(gradient at {SITE}, width 3, norm 5)"


def test_a_direction_comes_back_as_saved(tmp_path: Path) -> None:
    d = example()
    path = d.save(tmp_path / "deep" / "d.safetensors")
    back = ms.Direction.load(path)
    assert back.vector.equal(d.vector) and back.vector.dtype == torch.float32
    assert (back.site, back.method, back.meta) == (d.site, d.method, d.meta)
    assert (back.mean_projection, back.activation_norm) == (d.mean_projection, d.activation_norm)
    assert [p.name for p in path.parent.iterdir()] == ["d.safetensors"]


def test_a_view_of_a_larger_tensor_saves_its_own_entries(tmp_path: Path) -> None:
    d = ms.Direction(torch.arange(1.0, 13.0).reshape(3, 4)[:, 1], SITE, "x")
    assert ms.Direction.load(d.save(tmp_path / "d.safetensors")).vector.tolist() == [2.0, 6.0, 10.0]


@pytest.mark.parametrize("keep", [0, 5, 60, -4])
def test_a_truncated_file_is_refused(keep: int, tmp_path: Path) -> None:
    path = example().save(tmp_path / "d.safetensors")
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ms.MechsteerError, match="not a readable safetensors file"):
        ms.Direction.load(path)


def test_a_foreign_safetensors_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_file({"vector": torch.ones(3)}, path, metadata={"format": "pt"})
    with pytest.raises(ms.MechsteerError, match=r"not a mechsteer direction \(format 'pt'\)"):
        ms.Direction.load(path)
    save_file({"weight": torch.ones(3)}, path)
    with pytest.raises(ms.MechsteerError, match="not a mechsteer direction"):
        ms.Direction.load(path)
    save_file({"weight": torch.ones(3)}, path, metadata={"format": "mechsteer.direction/1"})
    with pytest.raises(ms.MechsteerError, match="not a mechsteer direction"):
        ms.Direction.load(path)


@pytest.mark.parametrize("damage", [{"method": None}, {"mean_projection": "much"}, {"meta": "{"}])
def test_a_damaged_header_is_refused(damage: dict[str, str | None], tmp_path: Path) -> None:
    path = example().save(tmp_path / "d.safetensors")
    with safe_open(path, framework="pt") as file:
        header = {k: v for k, v in (file.metadata() | damage).items() if v is not None}
    save_file({"vector": torch.ones(3)}, path, metadata=header)
    with pytest.raises(ms.MechsteerError, match="damaged direction header"):
        ms.Direction.load(path)


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ms.MechsteerError, match="No such file"):
        ms.Direction.load(tmp_path / "d.safetensors")
    with pytest.raises(ms.MechsteerError, match="a folder is not a readable safetensors file"):
        ms.Direction.load(tmp_path)


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ms.MechsteerError, match="Cannot write"):
        example().save(tmp_path / "file" / "d.safetensors")


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_vector_that_is_not_finite_is_refused(bad: float) -> None:
    with pytest.raises(ms.MechsteerError, match=f"The x direction at {SITE} has NaN or infinite entries"):
        ms.Direction(torch.tensor([1.0, bad]), SITE, "x")


def test_a_projection_or_norm_is_finite_or_unknown() -> None:
    with pytest.raises(ms.MechsteerError, match="mean_projection must be finite"):
        ms.Direction(torch.ones(2), SITE, "x", mean_projection=float("inf"))
    unknown = ms.Direction(torch.ones(2), SITE, "x")
    with pytest.raises(ms.MechsteerError, match="scale must be finite, got nan"):
        ms.add(unknown, 0.5 * unknown.activation_norm)
    with pytest.raises(ms.MechsteerError, match="has no mean projection to project on; give target="):
        ms.project(unknown)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("kind", [np.float64, np.float32, torch.tensor, int])
def test_measured_numbers_of_any_kind_come_back_from_files(kind: Callable, tmp_path: Path) -> None:
    d = ms.Direction(torch.ones(2), SITE, "x", mean_projection=kind(3.0), activation_norm=kind(4.0))
    assert type(d.mean_projection) is float and type(d.activation_norm) is float
    back = ms.Direction.load(d.save(tmp_path / "d.safetensors"))
    steer = ms.Intervention.load(ms.add(d, 2.0).save(tmp_path / "steer.safetensors"))
    assert steer.edits[0].direction is not None
    for one in (back, steer.edits[0].direction):
        assert (one.mean_projection, one.activation_norm) == (3.0, 4.0)
    if kind is not int:
        assert np.isnan(ms.Direction(torch.ones(2), SITE, "x", mean_projection=kind(np.nan)).mean_projection)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"meta": {"layer": 3}}, r"meta holds texts by name, e\.g\. \{'layer': '3'\}, got 'layer': 3"),
        ({"meta": {1: "one"}}, "meta holds texts by name.* got 1: 'one'"),
        ({"meta": None}, "meta is a dictionary of texts, got None"),
        ({"site": 3}, "The site and the method of a direction are texts, got 3 and 'x'"),
        ({"method": None}, "texts, got 'blocks.0.hook_resid_post' and None"),
        ({"activation_norm": "wide"}, "activation_norm must be a number, got 'wide'"),
    ],
)
def test_what_no_file_gives_back_is_refused_when_it_is_given(wrong: dict, message: str) -> None:
    given = {"vector": torch.ones(2), "site": SITE, "method": "x", **wrong}
    with pytest.raises(ms.MechsteerError, match=message):
        ms.Direction(**given)


def test_provenance_that_is_filled_on_changes_no_earlier_direction() -> None:
    meta = {"layer": "1"}
    first = ms.Direction(torch.ones(2), SITE, "x", meta=meta)
    meta["layer"] = "2"
    assert first.meta == {"layer": "1"}


def test_a_zero_vector_is_refused() -> None:
    with pytest.raises(ms.MechsteerError, match=f"The x direction at {SITE} is zero"):
        ms.Direction(torch.zeros(4), SITE, "x")


def test_random_directions_are_decided_by_the_seed(tiny: Callable) -> None:
    model = tiny("llama-gqa")
    one, two = (random_direction(model, seed=7, layer=1) for _ in range(2))
    assert one.vector.equal(two.vector) and one.norm == pytest.approx(1.0, abs=1e-6)
    assert (one.unit @ random_direction(model, seed=8, layer=1).unit).abs() < 0.9
    expected = torch.randn(32, generator=torch.Generator().manual_seed(7))
    torch.testing.assert_close(one.vector, expected / expected.norm())
    assert (one.site, one.method, one.meta["seed"]) == ("blocks.1.hook_resid_post", "random", "7")


def test_seeds_may_be_numpys_and_are_integers(tiny: Callable, unchecked: None) -> None:
    model = tiny("llama-gqa")
    one = random_direction(model, seed=np.int64(7), layer=1)  # pyright: ignore[reportArgumentType]
    assert one.vector.equal(random_direction(model, seed=7, layer=1).vector) and one.meta["seed"] == "7"
    for wrong in (None, 1.5, "7"):
        with pytest.raises(ms.MechsteerError, match="seed must be an integer, got"):
            random_direction(model, seed=wrong, layer=1)  # pyright: ignore[reportArgumentType]


def test_random_directions_have_the_width_of_their_site(tiny: Callable) -> None:
    model = tiny("llama-gqa")
    assert random_direction(model, seed=0, layer=1, site="mlp_post").width == 48
    assert random_direction(model, seed=0, site="blocks.0.hook_attn_out").width == 32
    with pytest.raises(ms.MechsteerError, match="Layer 9 is out of range"):
        random_direction(model, seed=0, layer=9)


def test_directions_carry_the_model_and_the_versions_they_were_made_with(tiny: Callable) -> None:
    d = random_direction(tiny("t5"), seed=0, layer=0)
    assert d.fingerprint == ms.model_info(tiny("t5")).fingerprint and d.meta["model_family"] == "t5"
    assert d.meta["version_torch"] == versions()["torch"]
    assert example().fingerprint == "unknown"


@pytest.mark.parametrize("shape", [(2, 3), (0,), ()])
def test_a_direction_is_one_vector(shape: tuple[int, ...]) -> None:
    # What users meet; under the tests' type checks the constructor itself would refuse first.
    with pytest.raises(ms.MechsteerError, match=r"A direction is one vector \[width\], got the shape"):
        ms.Direction.__post_init__(SimpleNamespace(vector=torch.ones(shape)))


@pytest.mark.parametrize(
    "make", [np.array, list, lambda v: np.array(v, dtype=np.float16), torch.tensor, torch.DoubleTensor]
)
def test_arrays_and_lists_become_float32_tensors_of_their_own(make: Callable) -> None:
    given = make([3.0, 0.0, -4.0])
    d = ms.Direction(given, SITE, "mine")
    if isinstance(given, np.ndarray):
        given[0] = 100
    assert d.vector.dtype == torch.float32 and d.vector.tolist() == [3.0, 0.0, -4.0] and d.norm == 5.0


@pytest.mark.usefixtures("unchecked")
def test_what_is_no_vector_is_named_in_one_line() -> None:
    for wrong, message in (
        ("text", "must be a tensor, an array or a list of numbers, got str"),
        ([[1.0], [2.0, 3.0]], "must be a tensor, an array or a list of numbers, got list"),
        (np.ones((2, 3)), r"is one vector \[width\], got the shape \[2, 3\]"),
        (None, "got NoneType"),
    ):
        with pytest.raises(ms.MechsteerError, match=message) as raised:
            ms.Direction(wrong, SITE, "mine")
        assert "\n" not in str(raised.value)


def test_a_direction_does_not_follow_what_it_was_made_of() -> None:
    vector = torch.ones(4, requires_grad=True)
    direction = ms.Direction(vector, SITE, "mine")
    with torch.no_grad():
        vector[0] = torch.nan
    assert direction.vector.tolist() == [1.0] * 4 and not direction.vector.requires_grad


def test_complex_numbers_are_refused(unchecked: None) -> None:
    with pytest.raises(ms.MechsteerError, match="complex numbers"):
        ms.Direction(np.array([1.0, 1j]), SITE, "mine")  # pyright: ignore
