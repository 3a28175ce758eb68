"""Files of our own know whether they are whole: no flipped bit is taken for what was written."""

import random
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

import mechsteer as ms
from mechsteer.activations import ActivationStore, capture
from mechsteer.activations.manifest import Manifest
from mechsteer.activations.shards import map_shard, read_index
from mechsteer.checksums import BLANK, check, sealed
from mechsteer.directions import from_gguf, random_direction, to_gguf
from mechsteer.directions.direction import to_header
from mechsteer.files import read_record, read_table, write_record, write_table
from mechsteer.steering import Intervention
from tests.steering.saes import make_sae, own_site

FLIPS = 1000
TABLE = pd.DataFrame(
    {"text": [f"row {i}" for i in range(40)], "score": [i / 7 for i in range(40)], "right": 20 * [True, False]}
)


def direction(folder: Path, tiny: Callable) -> tuple[Path, Callable[[Path], Any]]:
    return random_direction(tiny("llama-gqa"), seed=0, layer=1).save(folder / "d.safetensors"), ms.Direction.load


def intervention(folder: Path, tiny: Callable) -> tuple[Path, Callable[[Path], Any]]:
    steer = ms.add(random_direction(tiny("llama-gqa"), seed=0, layer=1), 2.0) + ms.pasta(alpha=0.1)
    return steer.save(folder / "i.safetensors"), Intervention.load


def feature_edit(folder: Path, tiny: Callable) -> tuple[Path, Callable[[Path], Any]]:
    sae = make_sae(tiny("llama-gqa"), site=own_site(tiny("llama-gqa")))
    return ms.features(sae, {3: ("add", 2.0), 7: "ablate"}).save(folder / "f.safetensors"), Intervention.load


def cell(folder: Path, tiny: Callable) -> tuple[Path, Callable[[Path], Any]]:
    return write_table(TABLE, folder / "t", csv=False)[0], read_table


def study_record(folder: Path, tiny: Callable) -> tuple[Path, Callable[[Path], Any]]:
    about = {"study": "guide", "n": 7, "lengths": {"needle": [1, 2]}, "tables": ["summary"]}
    return write_record(folder / "study.json", about), lambda path: read_record(path, "record of a study")


def control_vector(folder: Path, tiny: Callable) -> tuple[Path, Callable[[Path], Any]]:
    pytest.importorskip("gguf")
    return to_gguf(random_direction(tiny("llama-gqa"), seed=0, layer=1), folder / "c.gguf"), from_gguf


def store(folder: Path, tiny: Callable) -> Path:
    capture(tiny("llama-gqa"), ["the cat sat", "a dog"], sites="resid_post", positions="all", store=folder / "s")
    return folder / "s"


def manifest(folder: Path, tiny: Callable) -> tuple[Path, Callable[[Path], Any]]:
    path = store(folder, tiny)
    return path / "manifest.json", lambda damaged: Manifest.read(damaged.parent)


def shard(folder: Path, tiny: Callable) -> tuple[Path, Callable[[Path], Any]]:
    path = store(folder, tiny)
    (record,) = Manifest.read(path).shards
    return record.path(path, "safetensors"), lambda damaged: map_shard(damaged.parent, record)


def index(folder: Path, tiny: Callable) -> tuple[Path, Callable[[Path], Any]]:
    path = store(folder, tiny)
    (record,) = Manifest.read(path).shards
    return record.path(path, "parquet"), lambda damaged: read_index(damaged.parent, record)


KINDS = [direction, intervention, feature_edit, cell, study_record, control_vector, manifest, shard, index]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_no_flipped_bit_is_accepted(kind: Callable, tiny: Callable, tmp_path: Path) -> None:
    path, read = kind(tmp_path, tiny)
    read(path)
    content, drawn = path.read_bytes(), random.Random(0)
    accepted = []
    for bit in drawn.sample(range(8 * len(content)), FLIPS):
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        try:
            read(path)
        except ms.MechsteerError:
            continue
        accepted.append(bit)
    assert accepted == []
    path.write_bytes(content)
    read(path)


@pytest.mark.parametrize("kind", KINDS[:6], ids=lambda kind: kind.__name__)
def test_equal_content_gives_equal_files(kind: Callable, tiny: Callable, tmp_path: Path) -> None:
    first, second = (kind(tmp_path / name, tiny)[0].read_bytes() for name in ("one", "two"))
    assert first == second


def test_what_was_loaded_does_not_follow_its_file(tiny: Callable, checkpoint: Callable, tmp_path: Path) -> None:
    one = random_direction(tiny("llama-gqa"), seed=0, layer=1)
    path = one.save(tmp_path / "d.safetensors")
    steer = ms.add(one, 1.0).save(tmp_path / "i.safetensors")
    folder = shutil.copytree(checkpoint("llama-gqa"), tmp_path / "model")
    loaded, edited, model = ms.Direction.load(path), Intervention.load(steer), ms.load(folder)
    before = {name: p.clone() for name, p in model.named_parameters()}
    for file in (path, steer, folder / "model.safetensors"):
        with file.open("r+b") as opened:  # the same file, not a new one of the same name
            opened.seek(-200, 2)
            opened.write(200 * b"\x11")
    assert loaded.vector.equal(one.vector) and edited.edits[0].direction.vector.equal(one.vector)
    assert all(p.equal(before[name]) for name, p in model.named_parameters())


def test_a_table_without_a_checksum_is_refused_and_other_programs_read_ours(tmp_path: Path) -> None:
    path, _ = write_table(TABLE, tmp_path / "t")
    assert pd.read_parquet(path).equals(TABLE) and read_table(path).attrs == {}
    TABLE.to_parquet(tmp_path / "other.parquet")
    with pytest.raises(ms.MechsteerError, match=r"it has no checksum \(truncated, foreign, or written by an earlier"):
        read_table(tmp_path / "other.parquet")


def test_files_of_the_first_versions_are_read_and_said_to_be_unverified(tiny: Callable, tmp_path: Path) -> None:
    path = random_direction(tiny("llama-gqa"), seed=0, layer=1).save(tmp_path / "d.safetensors")
    save_file(load_file(path), tmp_path / "old.safetensors", metadata=to_header(ms.Direction.load(path)))
    with pytest.warns(UserWarning, match=r"old\.safetensors was written before files had checksums"):
        old = ms.Direction.load(tmp_path / "old.safetensors")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert ms.Direction.load(old.save(tmp_path / "new.safetensors")).vector.equal(old.vector)
    (tmp_path / "old.json").write_text('{"study": "guide"}', encoding="utf-8")
    assert read_record(tmp_path / "old.json", "record") == {"study": "guide"}


def test_text_that_looks_like_a_checksum_does_no_harm(tmp_path: Path) -> None:
    table = pd.DataFrame({"text": ["mechsteer-sha256:" + 64 * "a"]})
    assert read_table(write_table(table, tmp_path / "t", csv=False)[0]).equals(table)
    content = sealed(f"{BLANK} mechsteer-sha256:{64 * 'b'}".encode())
    check(content, "x", "file")
    with pytest.raises(ms.MechsteerError, match="x is not a readable file: it is damaged"):
        check(content.replace(b"bb", b"bc", 1), "x", "file")


def test_a_store_finds_a_changed_byte_when_a_shard_is_first_touched(tiny: Callable, tmp_path: Path) -> None:
    path = store(tmp_path, tiny)
    (file,) = path.glob("shard-*.safetensors")
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.write_bytes(content)
    opened = ActivationStore.open(path)
    with pytest.raises(ms.MechsteerError, match="was changed: its checksum is not the one in the manifest"):
        opened["blocks.0.hook_resid_post"][0]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_is_refused(bad: float, tiny: Callable) -> None:
    sae = make_sae(tiny("llama-gqa"))
    with torch.no_grad():
        sae.W_enc[3, 2] = bad
    with pytest.raises(ms.MechsteerError, match="The tensor W_enc of this SAE has NaN or infinite entries"):
        ms.features(sae, {3: ("add", 1.0)})
    with pytest.raises(ms.MechsteerError, match="has NaN or infinite entries"):
        ms.Direction([1.0, bad], "blocks.0.hook_resid_post", "mine")
    with pytest.raises(ms.MechsteerError, match="has NaN or infinite entries"):
        ms.Direction(torch.full((4,), 3e38), "blocks.0.hook_resid_post", "mine")  # its norm is infinite in float32
