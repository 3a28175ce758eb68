"""Control vector files: what is in them, what comes back, and what is refused."""

import builtins
import json
import random
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gguf
import numpy as np
import pytest
import torch

import mechsteer as ms
from mechsteer.directions import foreign, from_gguf, random_direction, to_gguf
from mechsteer.directions.control_vectors import _listed
from tests.directions.peers import installed
from tests.tiny import hf_model

VECTOR = [3.0, 0.0, -4.0]
TOKENS = torch.tensor([[3, 10, 11, 12, 40, 41, 7, 30]])


def at(layer: int, site: str = "resid_post", vector: list[float] = VECTOR, **meta: str) -> ms.Direction:
    known = {"model_family": "llama", "model_fingerprint": "abc"} | meta
    return ms.Direction(torch.tensor(vector), f"blocks.{layer}.hook_{site}", "gradient", 0.1, 2.5, known)


def write(
    path: Path,
    tensors: dict[str, Any],
    *,
    architecture: str = "controlvector",
    hint: str | None = "llama",
    ours: str | None = None,
) -> Path:
    """A file as other programs write it."""
    writer = gguf.GGUFWriter(path, architecture)
    if hint is not None:
        writer.add_string("controlvector.model_hint", hint)
    if ours is not None:
        writer.add_string("mechsteer.directions", ours)
    for name, tensor in tensors.items():
        writer.add_tensor(name, np.asarray(tensor))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def one(values: Any = VECTOR) -> Any:
    return np.asarray(values, dtype=np.float32)


def test_the_file_holds_what_llama_cpp_and_repeng_look_for(tmp_path: Path) -> None:
    path = to_gguf([at(5), at(2, vector=[0.0, 2.0, 0.0])], tmp_path / "deep" / "cv.gguf", scale=-10.0)
    reader = gguf.GGUFReader(path)
    assert reader.fields["general.architecture"].contents() == "controlvector"
    assert reader.fields["controlvector.model_hint"].contents() == "llama"
    assert reader.fields["controlvector.layer_count"].contents() == 2
    assert [(t.name, t.tensor_type.name, list(t.shape)) for t in reader.tensors] == [
        ("direction.2", "F32", [3]),
        ("direction.5", "F32", [3]),
    ]
    assert reader.tensors[0].data.tolist() == [0.0, -10.0, 0.0]
    assert reader.tensors[1].data.tolist() == pytest.approx([-6.0, 0.0, 8.0])
    assert [p.name for p in path.parent.iterdir()] == ["cv.gguf"]


@pytest.mark.parametrize("scale", [1.0, -0.25, 1e3])
def test_directions_come_back_as_they_were(scale: float, tmp_path: Path) -> None:
    made = {3: at(3), 4: at(4, vector=[1e-3, 2e-3, 0.0], seed="ä")}
    back = from_gguf(to_gguf(made, tmp_path / "cv.gguf", scale=scale))
    assert list(back) == [3, 4]
    for layer, d in made.items():
        torch.testing.assert_close(back[layer].vector, d.vector)
        for name in ("site", "method", "mean_projection", "activation_norm", "meta"):
            assert getattr(back[layer], name) == getattr(d, name), name


def test_the_input_of_a_block_is_the_output_of_the_block_before(tmp_path: Path) -> None:
    path = at(4, "resid_pre").to_gguf(tmp_path / "cv.gguf")
    assert gguf.GGUFReader(path).tensors[0].name == "direction.3"
    back = ms.Direction.from_gguf(path)
    assert {layer: d.site for layer, d in back.items()} == {3: "blocks.4.hook_resid_pre"}


def test_a_file_of_another_program_is_at_resid_post_with_its_own_length(tmp_path: Path) -> None:
    path = write(tmp_path / "x.gguf", {"direction.7": one([0, 0, 1]), "direction.0": one()})
    back = from_gguf(path)
    assert [(layer, d.site, d.norm) for layer, d in back.items()] == [
        (0, "blocks.0.hook_resid_post", 5.0),
        (7, "blocks.7.hook_resid_post", 1.0),
    ]
    assert back[0].fingerprint == "unknown" and back[0].meta == {"model_family": "llama", "source": "GGUF file x.gguf"}


def test_with_a_model_the_directions_are_its_own(tiny: Callable, tmp_path: Path) -> None:
    model = tiny("llama-gqa")
    path = write(tmp_path / "x.gguf", {"direction.2": one(range(32))})
    d = from_gguf(path, model)[2]
    assert d.fingerprint == ms.model_info(model).fingerprint and d.meta["source"] == "GGUF file x.gguf"
    ms.add(d).check(model)
    with pytest.raises(ms.MechsteerError, match="made on 'an unknown model'"):
        ms.add(from_gguf(path)[2]).check(model)
    ours = from_gguf(at(2, vector=[1.0] * 32).to_gguf(tmp_path / "ours.gguf"), model)
    assert ours[2].fingerprint == "abc"  # a file that knows its model keeps it
    with pytest.raises(ms.MechsteerError, match="has width 32 there"):
        from_gguf(at(2).to_gguf(tmp_path / "narrow.gguf"), model)


@pytest.mark.parametrize(
    ("family", "name", "size", "message"),
    [
        ("llama-gqa", "direction.3", 32, "Unknown site 'blocks.3.hook_resid_post'"),
        ("llama-gqa", "direction.1", 31, "has width 32 there"),
        ("t5", "direction.1", 32, "are for decoder-only models"),
    ],
)
def test_a_model_that_does_not_fit_is_refused(
    family: str, name: str, size: int, message: str, tiny: Callable, tmp_path: Path
) -> None:
    path = write(tmp_path / "x.gguf", {name: np.ones(size, dtype=np.float32)}, hint=None)
    with pytest.raises(ms.MechsteerError, match=message):
        from_gguf(path, tiny(family))


def test_another_architecture_is_a_warning(tiny: Callable, tmp_path: Path) -> None:
    path = write(tmp_path / "x.gguf", {"direction.1": one(range(32))})
    with pytest.warns(UserWarning, match="made for the architecture 'llama', the model is 'gpt2'"):
        from_gguf(path, tiny("gpt2"))
    from_gguf(path, tiny("mistral"))  # llama.cpp calls Mistral a llama


@pytest.mark.parametrize(
    ("family", "hint"),
    [("gpt_neox", "gptneox"), ("gemma3_text", "gemma3"), ("phi", "phi2"), ("mixtral", "llama")],
)
def test_an_architecture_by_its_name_in_llama_cpp_is_no_other(
    family: str, hint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(foreign, "model_info", lambda model: SimpleNamespace(family=family))
    foreign.check_family(None, hint, "x.gguf")  # a warning would be an error here
    with pytest.warns(UserWarning, match=f"the architecture 'gpt2', the model is '{family}'"):
        foreign.check_family(None, "gpt2", "x.gguf")


@pytest.mark.parametrize(
    ("site", "message"),
    [
        ("blocks.0.hook_resid_post", "acts on the output of block 0; llama.cpp's control vectors begin after block 1"),
        ("blocks.1.hook_resid_pre", "acts on the output of block 0"),
        ("blocks.0.hook_resid_pre", "acts on the embedding"),
        ("blocks.2.hook_mlp_out", "cannot be a control vector"),
        ("decoder.2.hook_resid_post", "residual stream of decoder-only models"),
        ("encoder.2.hook_resid_pre", "residual stream of decoder-only models"),
        ("hook_embed", "cannot be a control vector"),
    ],
)
def test_sites_that_a_file_cannot_express_are_refused(site: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ms.MechsteerError, match=message):
        ms.Direction(torch.ones(3), site, "x").to_gguf(tmp_path / "cv.gguf")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "No directions were given"),
        ({}, "No directions were given"),
        ([at(1), at(1, vector=[1.0, 0.0, 0.0])], "are both added after block 1"),
        ([at(1), at(2, "resid_pre")], "are both added after block 1"),
        ([at(1), at(2, vector=[1.0, 2.0])], r"the widths differ: \[2, 3\]"),
        ([at(1), at(2, model_fingerprint="def")], r"the fingerprints differ: \['abc', 'def'\]"),
    ],
)
def test_directions_that_do_not_go_together_are_refused(given: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ms.MechsteerError, match=message):
        to_gguf(given, tmp_path / "cv.gguf")


@pytest.mark.parametrize(
    ("given", "message"),
    [([at(1), 3], "Expected directions, got 3"), (3, "Expected a direction"), ("cv.gguf", "Expected directions")],
)
def test_what_is_no_direction_is_refused(given: Any, message: str) -> None:
    with pytest.raises(ms.MechsteerError, match=message):
        _listed(given)  # what users meet; the tests' type checks would refuse it at to_gguf already


@pytest.mark.parametrize(("scale", "message"), [(0.0, "scale is 0"), (float("nan"), "scale must be finite")])
def test_a_scale_that_makes_no_vector_is_refused(scale: float, message: str, tmp_path: Path) -> None:
    with pytest.raises(ms.MechsteerError, match=message):
        at(1).to_gguf(tmp_path / "cv.gguf", scale=scale)


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ms.MechsteerError, match="Cannot write"):
        at(1).to_gguf(tmp_path / "file" / "cv.gguf")


def test_without_the_package_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    real = builtins.__import__

    def absent(name: str, *rest: Any) -> Any:
        if name == "gguf":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", absent)
    for call in (lambda: at(1).to_gguf(tmp_path / "cv.gguf"), lambda: from_gguf(tmp_path / "cv.gguf")):
        with pytest.raises(ms.MechsteerError, match=r"pip install 'mechsteer\[gguf\]'"):
            call()


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    whole = write(tmp_path / "x.gguf", {"direction.1": one(), "direction.2": one()}).read_bytes()
    path, payload = tmp_path / "cut.gguf", len(whole.rstrip(b"\0"))
    for keep in range(payload):
        path.write_bytes(whole[:keep])
        with pytest.raises(ms.MechsteerError, match="not a readable GGUF file"):
            from_gguf(path)


def test_damaged_bytes_are_refused_or_harmless(tmp_path: Path) -> None:
    whole = at(1).to_gguf(tmp_path / "x.gguf").read_bytes()
    dice, path, refused = random.Random(0), tmp_path / "damaged.gguf", 0
    for _ in range(300):
        damaged = bytearray(whole)
        damaged[dice.randrange(len(whole))] ^= 1 << dice.randrange(8)
        path.write_bytes(damaged)
        try:
            from_gguf(path)
        except ms.MechsteerError:
            refused += 1
    assert refused > 100


@pytest.mark.parametrize(
    ("tensors", "architecture", "message"),
    [
        ({"direction.1": one()}, "llama", "holds 'llama', not a control vector"),
        ({}, "controlvector", "has no direction tensors"),
        ({"direction.one": one()}, "controlvector", "got 'direction.one'"),
        ({"blk.1.weight": one()}, "controlvector", "got 'blk.1.weight'"),
        ({"direction.1": np.ones(3, dtype=np.float16)}, "controlvector", r"got 'direction.1' \(F16"),
        ({"direction.1": one([VECTOR])}, "controlvector", r"shape \[1, 3\]"),
        ({"direction.1": one([1.0, float("nan")])}, "controlvector", "direction.1 is zero or has NaN"),
        ({"direction.1": one([1.0, float("inf")])}, "controlvector", "direction.1 is zero or has NaN"),
        ({"direction.1": one([0.0, 0.0])}, "controlvector", "direction.1 is zero or has NaN"),
    ],
)
def test_foreign_files_are_refused(tensors: dict, architecture: str, message: str, tmp_path: Path) -> None:
    path = write(tmp_path / "x.gguf", tensors, architecture=architecture)
    with pytest.raises(ms.MechsteerError, match=message):
        from_gguf(path)


def test_what_is_no_gguf_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ms.MechsteerError, match="No such file"):
        from_gguf(tmp_path / "none.gguf")
    with pytest.raises(ms.MechsteerError, match="not a readable GGUF file"):
        from_gguf(tmp_path)
    with pytest.raises(ms.MechsteerError, match="not a readable GGUF file"):
        from_gguf(at(1).save(tmp_path / "d.safetensors"))


@pytest.mark.parametrize(
    "damage",
    [
        "{",
        "[]",
        '{"scale": 0, "directions": {}}',
        '{"scale": 1}',
        '{"scale": 1, "directions": {"1": {"norm": 1}}}',
        "SITE",
    ],
)
def test_a_damaged_record_is_refused(damage: str, tmp_path: Path) -> None:
    if damage == "SITE":  # whole, but of another tensor
        whole = gguf.GGUFReader(at(2).to_gguf(tmp_path / "two.gguf")).fields["mechsteer.directions"].contents()
        record = json.loads(whole)
        damage = json.dumps(record | {"directions": {"1": record["directions"]["2"]}})
    path = write(tmp_path / "x.gguf", {"direction.1": one()}, ours=damage)
    with pytest.raises(ms.MechsteerError, match="has a damaged"):
        from_gguf(path)


@pytest.mark.parametrize("family", ["gpt2", "llama-gqa", "gemma2"])
def test_the_tensors_added_to_hugging_faces_blocks_are_the_steering(
    family: str, tiny: Callable, tmp_path: Path
) -> None:
    """repeng's and llama.cpp's equation on the file, written out: block N's output + 8 * direction.N."""
    model = tiny(family)
    made = [random_direction(model, seed=layer, layer=layer) for layer in (1, 2)]
    tensors = gguf.GGUFReader(to_gguf(made, tmp_path / "cv.gguf")).tensors
    other = hf_model(family)
    blocks = other.transformer.h if family == "gpt2" else other.model.layers
    for tensor in tensors:
        vector = torch.tensor(tensor.data)

        def added(module: Any, inputs: Any, output: Any, vector: torch.Tensor = vector) -> Any:
            if isinstance(output, tuple):
                return (output[0] + 8 * vector, *output[1:])
            return output + 8 * vector

        blocks[int(tensor.name.split(".")[1])].register_forward_hook(added)
    with torch.no_grad():
        expected = other(TOKENS).logits.log_softmax(-1)
        steer = ms.add(made[0], 8) + ms.add(made[1], 8)
        found = model.run_with_hooks(TOKENS, fwd_hooks=steer.hooks()).log_softmax(-1)
    torch.testing.assert_close(found, expected, atol=2e-4, rtol=1e-3)
    assert (found - model(TOKENS).log_softmax(-1)).abs().max() > 0.05


def test_repeng_reads_the_file_and_steers_alike(tiny: Callable, tmp_path: Path) -> None:
    repeng = installed("repeng")
    model = tiny("llama-gqa")
    made = {layer: random_direction(model, seed=layer, layer=layer) for layer in (1, 2)}
    theirs = repeng.ControlVector.import_gguf(to_gguf(made, tmp_path / "cv.gguf"))
    assert theirs.model_type == "llama" and set(theirs.directions) == {1, 2}
    other = repeng.ControlModel(hf_model("llama-gqa"), [1, 2])
    other.set_control(theirs, 8.0)
    with torch.no_grad():
        expected = other(input_ids=TOKENS).logits.log_softmax(-1)
        steer = ms.add(made[1], 8) + ms.add(made[2], 8)
        found = model.run_with_hooks(TOKENS, fwd_hooks=steer.hooks()).log_softmax(-1)
    torch.testing.assert_close(found, expected, atol=2e-4, rtol=1e-3)


def test_a_file_of_repeng_is_read(tiny: Callable, tmp_path: Path) -> None:
    repeng = installed("repeng")
    vectors = {layer: np.random.default_rng(layer).normal(size=32).astype(np.float32) for layer in (0, 2)}
    repeng.ControlVector("llama", vectors).export_gguf(tmp_path / "theirs.gguf")
    back = from_gguf(tmp_path / "theirs.gguf", tiny("llama-gqa"))
    assert {layer: d.vector.tolist() for layer, d in back.items()} == {k: v.tolist() for k, v in vectors.items()}
