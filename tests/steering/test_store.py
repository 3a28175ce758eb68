"""Interventions as files: what comes back is what was saved, and nothing else is read."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import mechsteer as ms
from mechsteer.steering import Edit, Intervention, Scope
from tests.steering.naive import prompts_of
from tests.steering.steers import MAKERS, cases, direction


def logprobs(model: Any, steer: Intervention) -> torch.Tensor:
    return ms.generate(model, prompts_of(model), steer=steer, max_new_tokens=3).logprobs


@pytest.mark.parametrize(("family", "name"), cases(MAKERS))
def test_every_family_comes_back_from_its_file(family: str, name: str, tiny: Callable, tmp_path: Path) -> None:
    model = tiny(family)
    steer = MAKERS[name](model, 0.7)
    again = Intervention.load(steer.save(tmp_path / "steer.safetensors"))
    assert logprobs(model, again).equal(logprobs(model, steer)) and repr(again) == repr(steer)
    assert not logprobs(model, again).equal(logprobs(model, Intervention()))


def composition(model: Any) -> Intervention:
    return (
        ms.add(direction(model), 5.0, scope=[0, -1], rows=[0, 2])
        + ms.project(direction(model), scope="generated")
        + ms.attention_bias(["instruction", "task"], 1.5, layers=[1], scope="prompt")
        + ms.heads(direction(model, "z"), -1.0)
        + ms.pasta(alpha=0.3, heads=[(0, 1), (1, 3)], compat="released")
        + ms.spotlight(target=0.4, compat="released", rows=[1])
        + ms.scale_keys(alpha=2.0, layers=[0])
    )


@pytest.mark.parametrize("family", ["llama-gqa", "t5"])
def test_a_composition_comes_back_in_order_with_its_provenance(family: str, tiny: Callable, tmp_path: Path) -> None:
    model, path = tiny(family), tmp_path / "steer.safetensors"
    steer = composition(model)
    again = ms.steering.Intervention.load(steer.save(path))
    assert logprobs(model, again).equal(logprobs(model, steer))
    assert [e.method for e in again.edits] == [e.method for e in steer.edits]
    for one, other in zip(steer.edits, again.edits, strict=True):
        fields = ("site", "scope", "strength", "spans", "apply")
        assert [getattr(one, f) for f in fields] == [getattr(other, f) for f in fields]
        assert dict(one.options) == dict(other.options)
        if one.direction is not None and other.direction is not None:
            assert one.direction.vector.equal(other.direction.vector)
            assert one.direction.meta == other.direction.meta
            assert one.direction.mean_projection == pytest.approx(other.direction.mean_projection, nan_ok=True)
    assert sum(e.direction is not None for e in again.edits) == 3
    backwards = Intervention(tuple(reversed(again.edits)))
    assert not logprobs(model, backwards).equal(logprobs(model, steer))


def header_of(path: Path) -> dict[str, str]:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        return dict(file.metadata() or {})


def test_a_file_made_of_a_loaded_one_is_the_same(tiny: Callable, tmp_path: Path) -> None:
    first = composition(tiny("llama-gqa")).save(tmp_path / "one.safetensors")
    second = Intervention.load(first).save(tmp_path / "two.safetensors")
    assert header_of(first) == header_of(second)
    one, two = load_file(first), load_file(second)
    assert one.keys() == two.keys() and all(one[name].equal(two[name]) for name in one)


def test_one_direction_in_two_edits_comes_back_in_both(tiny: Callable, tmp_path: Path) -> None:
    model = tiny("llama-gqa")
    shared = direction(model)
    steer = ms.add(shared, 5.0, scope="prompt") + ms.project(shared, scope="generated")
    again = Intervention.load(steer.save(tmp_path / "steer.safetensors"))
    assert logprobs(model, again).equal(logprobs(model, steer)) and repr(again) == repr(steer)


def test_an_empty_intervention_comes_back_empty(tmp_path: Path) -> None:
    assert Intervention.load(Intervention().save(tmp_path / "none.safetensors")).edits == ()


def test_a_transfer_is_remembered(tiny: Callable, tmp_path: Path) -> None:
    steer = ms.add(direction(tiny("qwen3")), 1.0, transfer=True)
    path = steer.save(tmp_path / "steer.safetensors")
    assert logprobs(tiny("llama-gqa"), Intervention.load(path)).equal(logprobs(tiny("llama-gqa"), steer))
    refused = ms.add(direction(tiny("qwen3")), 1.0).save(path)
    with pytest.raises(ms.MechsteerError, match="transfer=True"):
        logprobs(tiny("llama-gqa"), Intervention.load(refused))


@pytest.mark.parametrize("name", ["double", "add"])
def test_a_function_of_ones_own_is_not_saved(name: str, tiny: Callable, tmp_path: Path) -> None:
    own = Intervention((Edit(name, "blocks.0.hook_resid_post", Scope(), 1.0, lambda edit, x, where: 2 * x),))
    with pytest.raises(ms.MechsteerError, match=f"'{name}' is a function of your own; only add, project"):
        (ms.add(direction(tiny("llama-gqa")), 1.0) + own).save(tmp_path / "steer.safetensors")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def saved(tiny: Callable, tmp_path: Path) -> Path:
    return (ms.add(direction(tiny("llama-gqa")), 2.0) + ms.pasta(alpha=0.1)).save(tmp_path / "steer.safetensors")


def rewritten(path: Path, change: Callable[[dict[str, str]], None]) -> Path:
    header, tensors = header_of(path), load_file(path)
    change(header)
    save_file(tensors, path, metadata=header)
    return path


def edited(path: Path, change: Callable[[list[dict[str, Any]]], None]) -> Path:
    def in_header(header: dict[str, str]) -> None:
        described = json.loads(header["edits"])
        change(described)
        header["edits"] = json.dumps(described)

    return rewritten(path, in_header)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ms.MechsteerError, match=r"No such file: .*none\.safetensors"):
        Intervention.load(tmp_path / "none.safetensors")


@pytest.mark.parametrize("kept", [0, 5, 100, -1])
def test_a_truncated_file_is_refused(kept: int, saved: Path) -> None:
    saved.write_bytes(saved.read_bytes()[:kept])
    with pytest.raises(ms.MechsteerError, match="not a readable safetensors file"):
        Intervention.load(saved)


def test_a_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ms.MechsteerError, match="a folder is not a readable safetensors file"):
        Intervention.load(tmp_path)


@pytest.mark.parametrize("header", [None, {"format": "pt"}, {"format": "mechsteer.intervention/2"}])
def test_foreign_safetensors_are_refused(header: dict[str, str] | None, tmp_path: Path) -> None:
    save_file({"weight": torch.ones(3)}, tmp_path / "x.safetensors", metadata=header)
    with pytest.raises(ms.MechsteerError, match="is not a mechsteer intervention"):
        Intervention.load(tmp_path / "x.safetensors")


def test_a_direction_is_no_intervention_and_an_intervention_no_direction(
    saved: Path, tiny: Callable, tmp_path: Path
) -> None:
    alone = direction(tiny("llama-gqa")).save(tmp_path / "direction.safetensors")
    with pytest.raises(ms.MechsteerError, match=r"not a mechsteer intervention .*mechsteer\.direction/1"):
        Intervention.load(alone)
    with pytest.raises(ms.MechsteerError, match=r"not a mechsteer direction .*mechsteer\.intervention/1"):
        ms.Direction.load(saved)


def test_an_unknown_method_is_named_with_the_nearest(saved: Path) -> None:
    edited(saved, lambda d: d[1].update(method="pastaa"))
    with pytest.raises(ms.MechsteerError, match=r"Unknown steering method 'pastaa'.*'pasta'"):
        Intervention.load(saved)


DAMAGE: dict[str, Callable[[list[Any]], None]] = {
    "no method": lambda d: d[0].pop("method"),
    "no strength": lambda d: d[0].pop("strength"),
    "no site": lambda d: d[0].pop("site"),
    "an odd site": lambda d: d[1].update(site={"kinds": [["a"]], "layers": None}),
    "a site of a number": lambda d: d[1].update(site=3),
    "no spans": lambda d: d[1].update(spans=None),
    "no options": lambda d: d[1].pop("options"),
    "a strength in words": lambda d: d[0].update(strength="strong"),
    "an infinite strength": lambda d: d[0].update(strength=float("inf")),
    "a direction without a vector": lambda d: d[1].update(direction=d[0]["direction"]),
    "a direction without a site": lambda d: d[0]["direction"].pop("site"),
    "a vector without a direction": lambda d: d[0].pop("direction"),
    "an edit of text": lambda d: d.insert(0, "add"),
    "an unknown scope": lambda d: d[0].update(scope="everywhere"),
    "an odd row": lambda d: d[0].update(rows=["one"]),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_description_is_refused(damage: str, saved: Path) -> None:
    edited(saved, DAMAGE[damage])
    with pytest.raises(ms.MechsteerError):
        Intervention.load(saved)


@pytest.mark.parametrize("text", ["", "{", "3", "null", '"add"', "{}"])
def test_a_damaged_header_is_refused(text: str, saved: Path) -> None:
    rewritten(saved, lambda header: header.update(edits=text))
    with pytest.raises(ms.MechsteerError, match="damaged header"):
        Intervention.load(saved)


def test_a_header_without_edits_is_refused(saved: Path) -> None:
    rewritten(saved, lambda header: header.pop("edits") and None)
    with pytest.raises(ms.MechsteerError, match="damaged header"):
        Intervention.load(saved)


def test_a_file_says_which_versions_wrote_it(saved: Path) -> None:
    from mechsteer.files import versions

    found = json.loads(header_of(saved)["versions"])
    assert found == versions() and found["torch"] == torch.__version__
