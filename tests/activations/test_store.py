"""The store: rows come back as they were captured, whatever happened to the process or to the files."""

import json
import os
import resource
import shutil
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors import safe_open

import mechsteer as ms
from mechsteer.activations import ActivationStore, capture, manifest, writing
from mechsteer.activations.store import prompt_id
from mechsteer.directions import random_direction
from tests.activations.killed import KILLED_SHARD_MB, OPTIONS, SHARD_MB, TEXTS, attack
from tests.activations.naive import prompts_of
from tests.faults import campaign
from tests.typecheck import unchecked

BOTH = ["llama-gqa", "t5"]
SITES = {"llama-gqa": ["resid_post", "z"], "t5": ["resid_post", "encoder.resid_post", "encoder.z"]}


@pytest.fixture(scope="module")
def made(tiny: Callable, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A store of several shards; not to be changed."""
    paths: dict[str, Path] = {}

    def get(family: str) -> Path:
        if family not in paths:
            paths[family] = tmp_path_factory.mktemp("store") / family
            ActivationStore.create(paths[family], shard_mb=SHARD_MB)
            sites = SITES[family]
            capture(tiny(family), TEXTS, sites=sites, positions="all", batch_size=2, store=paths[family])
        return paths[family]

    return get


@pytest.fixture
def copy(made: Callable[[str], Path], tmp_path: Path) -> Path:
    """A store to spoil."""
    return shutil.copytree(made("llama-gqa"), tmp_path / "copy")


def shards(path: Path) -> list[Path]:
    return sorted(path.glob("shard-*.safetensors"))


def same(a: ActivationStore, b: ActivationStore) -> None:
    assert a.sites == b.sites
    pd.testing.assert_frame_equal(a.index, b.index)
    for site in a:
        assert torch.equal(a[site][:], b[site][:])


@pytest.mark.parametrize("family", BOTH)
def test_the_store_holds_what_capture_returns(family: str, made: Callable, tiny: Callable) -> None:
    model = tiny(family)
    prompts = [ms.prompt(model, text) for text in TEXTS]
    expected = capture(model, prompts, sites=SITES[family], positions="all", batch_size=2)
    with ActivationStore.open(made(family), verify=True) as store:
        assert len(shards(store.path)) > 3
        assert store.sites == list(expected)
        for site in store:
            assert torch.equal(store.of(site, prompts), expected[site])
            index = store.index_of(site)
            assert index["row"].tolist() == list(range(len(store[site])))
            assert sorted(set(index["prompt_id"])) == sorted(prompt_id(p) for p in prompts)
            row = index[index["prompt_id"] == prompt_id(prompts[3])].iloc[-1]
            assert torch.equal(store[site][int(row["row"])], expected.by_prompt(site)[3][row["position"]])
            assert row["text"] == expected.index(site).query("prompt == 3")["text"].iloc[-1]


def test_rows_are_read_by_number_slice_list_and_mask(made: Callable) -> None:
    store = ActivationStore.open(made("llama-gqa"))
    rows = store["blocks.1.attn.hook_z"]
    whole = rows[:]
    n = len(rows)
    assert whole.shape == rows.shape == (n, 4, 8)
    random = np.random.default_rng(0).integers(-n, n, size=50)
    mask = torch.arange(n) % 3 == 0
    for chosen in (3, -1, slice(5, None, 4), [n - 1, 0, n - 1], random, torch.tensor(random), mask, mask.numpy(), []):
        expected = whole[_torch(chosen)]
        assert torch.equal(rows[chosen], expected)
        assert np.array_equal(rows.numpy(chosen), expected.numpy())
    for wrong, message in (
        ([n], f"Row {n} is not there.*{n} rows"),
        (np.array([0.5]), "Rows are integers"),
        (mask[1:], "a mask"),
    ):
        with pytest.raises(ms.MechsteerError, match=message):
            rows[wrong]


def _torch(chosen: Any) -> Any:
    if isinstance(chosen, slice):
        return chosen
    return torch.as_tensor(chosen) if np.size(chosen) else torch.zeros(0, dtype=torch.long)


def test_only_the_rows_that_are_asked_for_are_read(made: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    store = ActivationStore.open(made("llama-gqa"))
    store["blocks.0.hook_resid_post"][[0, 1]]
    assert list(store._maps) == [0]
    assert all(isinstance(x.base, np.memmap | np.ndarray) and not x.flags.owndata for x in store._maps[0].values())


def test_shards_are_ordinary_safetensors_and_parquet_files(made: Callable) -> None:
    store = ActivationStore.open(made("t5"))
    start = 0
    for path in shards(store.path):
        table = pd.read_parquet(path.with_suffix(".parquet"))
        with safe_open(path, framework="pt") as file:
            assert set(file.keys()) == set(store.sites)
            values = file.get_tensor("encoder.1.attn.hook_z")
        assert len(values) == (table["stack"] == "encoder").sum()
        assert torch.equal(values, store["encoder.1.attn.hook_z"][start : start + len(values)])
        start += len(values)


def test_bfloat16_is_stored_as_it_is(tiny: Callable, tmp_path: Path) -> None:
    model = tiny("gpt2")
    prompts = prompts_of(model)
    store = capture(model, prompts, sites="resid_post", dtype=torch.bfloat16, store=tmp_path / "s")
    site = store.sites[0]
    expected = capture(model, prompts, sites="resid_post", dtype=torch.bfloat16)[site]
    assert store.of(site, prompts).dtype == torch.bfloat16
    assert torch.equal(store.of(site, prompts), expected)
    assert store.to_numpy(site).dtype == np.float32


def test_prompts_that_are_there_are_not_run_again(
    tiny: Callable, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tiny("gpt2")
    options = {"sites": "resid_post", "store": tmp_path / "s"}
    store = capture(model, [*TEXTS[:3], TEXTS[0]], **options)
    assert len(store["blocks.0.hook_resid_post"]) == 3
    assert "Capturing 3 prompts" in capsys.readouterr().out
    ran: list[int] = []
    with model.hooks(fwd_hooks=[("hook_embed", lambda x, hook: ran.append(len(x)))]):
        capture(model, TEXTS[:5], **options)
        capture(model, TEXTS[:5], **options)
    assert ran == [2]
    store.reload()
    assert len(store["blocks.0.hook_resid_post"]) == 5
    with_span = ms.prompt(model, TEXTS[0], instruction="the cat")
    with pytest.raises(ms.MechsteerError, match=r"does not have Prompt\('the cat"):
        store.of("blocks.0.hook_resid_post", with_span)


def test_generated_tokens_are_stored(tiny: Callable, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for family in BOTH:
        model = tiny(family)
        prompts = prompts_of(model)
        options: dict[str, Any] = {"sites": "resid_post", "generate": 4, "batch_size": 2}
        expected = capture(model, prompts, **options)
        store = capture(model, prompts, store=tmp_path / family, **options)
        assert f"up to {4 * len(prompts)} rows" in capsys.readouterr().out
        for site in expected:
            assert torch.equal(store.of(site, prompts), expected[site])
        assert store.index["generated"].sum() == expected.index(store.sites[0])["generated"].sum() > 0


@pytest.fixture(scope="module")
def attacked(tiny: Callable, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of stores whose writers were killed, and one with two writers."""
    folder, model = tmp_path_factory.mktemp("attacked"), tiny("llama-gqa")
    status = os.waitpid(campaign.forked(lambda place: attack(model, place), folder), 0)[1]
    assert status == 0, folder.with_suffix(".err").read_text()
    return folder


@pytest.mark.usefixtures("unchecked")
def test_a_writer_killed_at_any_file_operation_is_resumed(tiny: Callable, attacked: Path, tmp_path: Path) -> None:
    model = tiny("llama-gqa")
    ActivationStore.create(tmp_path / "whole", shard_mb=KILLED_SHARD_MB)
    whole = capture(model, TEXTS, store=tmp_path / "whole", **OPTIONS)
    names = sorted(p.name for p in (tmp_path / "whole").iterdir())
    stores = sorted(attacked.glob("store-*"), key=lambda p: int(p.name.split("-")[1]))
    assert len(stores) > 30
    finished, left = set(), 0
    for path in stores:
        before = ActivationStore.open(path, verify=True)  # a killed writer leaves a store that can be read
        finished.add(len(before._manifest.shards))
        left += len([p for p in path.iterdir() if ".tmp" in p.name])
        kept = {p.name: p.stat().st_mtime_ns for p in path.iterdir() if p.name in names and p.suffix == ".safetensors"}
        done = [f"shard-{shard.number:06d}.safetensors" for shard in before._manifest.shards]
        store = capture(model, TEXTS, store=path, **OPTIONS)
        same(store, whole)
        store.verify()
        assert sorted(p.name for p in path.iterdir()) == names  # nothing of the killed writer is left
        assert all((path / name).stat().st_mtime_ns == kept[name] for name in done)  # and what it finished is kept
    assert finished == set(range(len(whole._manifest.shards) + 1)) and left > 0


def test_two_writers_take_turns(tiny: Callable, attacked: Path) -> None:
    model = tiny("llama-gqa")
    store = ActivationStore.open(attacked / "shared", verify=True)
    prompts = [ms.prompt(model, text) for text in TEXTS]
    expected = capture(model, prompts, **OPTIONS)
    for site in store:
        torch.testing.assert_close(store.of(site, prompts), expected[site], atol=1e-4, rtol=1e-4)
        assert len(store[site]) == len(expected[site])
    with (
        manifest.locked(store.path),
        pytest.raises(ms.MechsteerError, match=rf"is being written to by another process \(pid {os.getpid()}\)"),
    ):
        capture(model, TEXTS, store=store, **OPTIONS)
    capture(model, TEXTS, store=store, **OPTIONS)


def truncate(path: Path) -> str:
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 4)
    return f"{path} is truncated"


def cut_the_header(path: Path) -> str:
    with path.open("r+b") as file:
        file.truncate(20)
    return f"{path} is truncated"


def exchange(path: Path) -> str:
    other = path.with_name("shard-000000.safetensors")
    shutil.copy(other, path)
    with path.open("ab") as file:
        file.write(b"0" * 10**5)
    return f"{path} is foreign"


def lengthen(path: Path) -> str:
    with path.open("ab") as file:
        file.write(b"0")
    return f"{path} was changed"


def remove(path: Path) -> str:
    path.unlink()
    return f"{path} is missing"


@pytest.mark.parametrize("spoil", [truncate, cut_the_header, exchange, lengthen, remove])
def test_a_bad_shard_is_named_when_the_store_is_opened_or_read(
    spoil: Callable[[Path], str], copy: Path, made: Callable, tiny: Callable
) -> None:
    opened = ActivationStore.open(copy)
    message = spoil(shards(copy)[1])
    with pytest.raises(ms.MechsteerError, match=message.replace(".", r"\.") + r".*ActivationStore.repair\(path\)"):
        ActivationStore.open(copy)
    rows = opened["blocks.0.hook_resid_post"]
    rows[0]  # other shards can be read
    with pytest.raises(ms.MechsteerError, match=message.replace(".", r"\.")):
        rows[:]
    repairs(copy, message, made, tiny)


def repairs(path: Path, message: str, made: Callable, tiny: Callable) -> None:
    """Taking out the bad shard and capturing again gives the same rows."""
    assert [wrong[: len(message)] for wrong in ActivationStore.repair(path)] == [message]
    assert ActivationStore.repair(path) == []
    store = capture(tiny("llama-gqa"), TEXTS, store=path, **OPTIONS)
    store.verify()
    whole = ActivationStore.open(made("llama-gqa"))
    prompts = [ms.prompt(tiny("llama-gqa"), text) for text in TEXTS]
    for site in store:
        torch.testing.assert_close(store.of(site, prompts), whole.of(site, prompts), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("suffix", [".safetensors", ".parquet"])
def test_a_changed_byte_is_found_by_checksum(suffix: str, copy: Path, made: Callable, tiny: Callable) -> None:
    path = shards(copy)[2].with_suffix(suffix)
    content = bytearray(path.read_bytes())
    content[-9] ^= 1
    path.write_bytes(content)
    store = ActivationStore.open(copy)
    message = f"{path} was changed"
    for check in (store.verify, lambda: ActivationStore.open(copy, verify=True)):
        with pytest.raises(ms.MechsteerError, match=message):
            check()
    repairs(copy, message, made, tiny)


def test_a_shard_of_another_store_does_not_fit(tiny: Callable, copy: Path, tmp_path: Path) -> None:
    steer = ms.add(random_direction(tiny("llama-gqa"), seed=0, layer=0), 1.0)
    ActivationStore.create(tmp_path / "other", shard_mb=SHARD_MB)
    capture(tiny("llama-gqa"), TEXTS, store=tmp_path / "other", steer=steer, **OPTIONS)
    stranger, own = shards(tmp_path / "other")[0], shards(copy)[0]
    assert stranger.stat().st_size == own.stat().st_size
    shutil.copy(stranger, own)
    with pytest.raises(ms.MechsteerError, match=f"{own} is foreign"):
        ActivationStore.open(copy)


def test_what_is_no_store_is_named(copy: Path, tmp_path: Path) -> None:
    with pytest.raises(ms.MechsteerError, match=r"is not an activation store: it has no manifest\.json"):
        ActivationStore.open(tmp_path / "nothing")
    with pytest.raises(ms.MechsteerError, match=r"There is a store in .*: open it with ActivationStore.open"):
        ActivationStore.create(copy)
    with unchecked(), pytest.raises(ms.MechsteerError, match="shard_mb must be a number, got 'much'"):
        ActivationStore.create(tmp_path / "new", shard_mb="much")  # type: ignore[arg-type]
    with pytest.raises(ms.MechsteerError, match="shard_mb must be above 0"):
        ActivationStore.create(tmp_path / "new", shard_mb=0)
    value = json.loads((copy / "manifest.json").read_text())
    for spoiled, message in (
        ("[", "is not a JSON file"),
        (json.dumps(value | {"format": "x"}), "is not the manifest of an activation store"),
        (json.dumps(value | {"shards": [{}]}), "is damaged"),
        (json.dumps(value | {"extra": 1}), "is damaged"),
    ):
        (copy / "manifest.json").write_text(spoiled)
        with pytest.raises(ms.MechsteerError, match=message):
            ActivationStore.open(copy)


def test_a_capture_of_something_else_is_refused_with_both_values(tiny: Callable, copy: Path) -> None:
    model = tiny("llama-gqa")
    steer = ms.add(random_direction(model, seed=0, layer=0), 1.0)
    fingerprint = ms.model_info(model).fingerprint
    for other, options, message in (
        (tiny("llama"), {}, f"its model fingerprint is '{fingerprint}', and this capture's '(?!{fingerprint})"),
        (model, {"sites": "resid_post"}, r"its sites is \[.*hook_z.*this capture's \['blocks.0.hook_resid_post'"),
        (model, {"positions": "last"}, "its positions is 'all', and this capture's 'last'"),
        (model, {"positions": [0, -1]}, r"its positions is 'all', and this capture's \[0, -1\]"),
        (model, {"steer": steer}, "its intervention is 'none', and this capture's 'add"),
        (model, {"generate": 2}, "its generated tokens is 0, and this capture's 2"),
        (model, {"dtype": torch.float16}, "its dtype is 'float32', and this capture's 'float16'"),
    ):
        with pytest.raises(ms.MechsteerError, match=message):
            capture(other, TEXTS, store=copy, **(OPTIONS | options))
    with pytest.raises(ms.MechsteerError, match="intervention on some rows depends on the places"):
        capture(
            model, TEXTS, store=copy, steer=ms.add(random_direction(model, seed=0, layer=0), 1.0, rows=[0]), **OPTIONS
        )
    with pytest.raises(ms.MechsteerError, match="Sample draws by a prompt's place"):
        capture(model, TEXTS, store=copy, generate=2, strategy=ms.Sample(), **OPTIONS)


def test_equal_interventions_go_on_and_others_do_not(tiny: Callable, tmp_path: Path) -> None:
    model = tiny("llama-gqa")
    make = [lambda seed=seed: ms.add(random_direction(model, seed=seed, layer=0), 2.0) for seed in (0, 1)]
    options: dict[str, Any] = {"sites": "resid_post", "store": tmp_path / "s"}
    capture(model, TEXTS[:2], steer=make[0](), **options)
    store = capture(model, TEXTS[:4], steer=make[0](), **options)
    assert len(store[store.sites[0]]) == 4
    with pytest.raises(ms.MechsteerError, match="its intervention is"):
        capture(model, TEXTS[:4], steer=make[1](), **options)


def test_the_disk_need_is_said_and_refused_when_it_does_not_fit(
    tiny: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tiny("gpt2")
    need = 3 * 12 * 32 * 4
    usage = type("usage", (), {"free": need + writing.MARGIN - 1})
    monkeypatch.setattr(writing.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(ms.MechsteerError, match=r"needs 4.6 kB \(and 67.1 MB to spare\), but .* has 67.1 MB free"):
        capture(model, TEXTS, sites="resid_post", store=tmp_path / "s")
    said = capsys.readouterr().out
    assert (
        "blocks.0.hook_resid_post ... blocks.2.hook_resid_post (3 sites): 12 rows x 32 x 4 bytes = 1.5 kB each" in said
    )
    assert "4.6 kB in all" in said
    usage.free += 1
    store = capture(model, TEXTS, sites="mlp_out", store=tmp_path / "s")  # the refused capture left the store free
    assert sum(store[site][:].nbytes for site in store) == need


def fails_at(nth: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk is full from the nth write on."""
    count, real = [0], manifest.os.fsync

    def fsync(descriptor: int) -> None:
        count[0] += 1
        if count[0] >= nth:
            raise OSError(28, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(manifest.os, "fsync", fsync)


@pytest.mark.parametrize("nth", range(4, 10))
def test_a_full_disk_leaves_a_store_that_can_be_read_and_resumed(
    nth: int, tiny: Callable, tmp_path: Path, made: Callable
) -> None:
    path = tmp_path / "s"
    ActivationStore.create(path, shard_mb=SHARD_MB)
    with pytest.MonkeyPatch.context() as patch:
        fails_at(nth, patch)
        with pytest.raises(
            ms.MechsteerError, match=r"No space left on device\. The store is whole and keeps the (\d+)"
        ):
            capture(tiny("llama-gqa"), TEXTS, store=path, **OPTIONS)
    store = ActivationStore.open(path, verify=True)
    assert len(store._manifest.shards) == (nth - 1) // 3
    assert len(store[store.sites[0]][:]) == sum(shard.rows["blocks"] for shard in store._manifest.shards)
    assert not [p for p in path.iterdir() if ".tmp" in p.name]
    same(capture(tiny("llama-gqa"), TEXTS, store=path, **OPTIONS), ActivationStore.open(made("llama-gqa")))


def test_a_write_that_stops_half_way_is_an_error_too(tiny: Callable, tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(ms.MechsteerError, match=r"File too large.* keeps the 0 prompts"):
            capture(tiny("llama-gqa"), TEXTS, store=tmp_path / "s", **OPTIONS)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert ActivationStore.open(tmp_path / "s").sites == []


def test_what_was_computed_before_nan_is_kept(tiny: Callable, tmp_path: Path) -> None:
    model = tiny("gpt2")
    dog = int(model.tokenizer.convert_tokens_to_ids("dog"))
    kept = model.embed.W_E[dog].clone()
    try:
        with torch.no_grad():
            model.embed.W_E[dog] = torch.nan
        with pytest.raises(ms.MechsteerError, match="NaN or infinite"):
            capture(model, ["the", "a cat", "the dog sat"], sites="resid_post", store=tmp_path / "s", batch_size=1)
    finally:
        with torch.no_grad():
            model.embed.W_E[dog] = kept
    assert len(ActivationStore.open(tmp_path / "s")["blocks.0.hook_resid_post"]) == 2


def test_a_closed_store_is_not_read(made: Callable) -> None:
    with ActivationStore.open(made("t5")) as store:
        rows = store["decoder.0.hook_resid_post"]
    for read in (lambda: rows[0], lambda: store["decoder.0.hook_resid_post"], lambda: store.index, store.reload):
        with pytest.raises(ms.MechsteerError, match="was closed"):
            read()
    with pytest.raises(ms.MechsteerError, match=r"Unknown site in this store 'decoder.9.hook_resid_post'"):
        ActivationStore.open(made("t5"))["decoder.9.hook_resid_post"]


@pytest.mark.parametrize("path", [3, None, []])
@pytest.mark.parametrize("use", [ActivationStore.create, ActivationStore.open, ActivationStore.repair])
def test_what_is_no_path_is_named(use: Callable, path: Any, unchecked: None) -> None:
    with pytest.raises(ms.MechsteerError, match="path of a store must be a path, got"):
        use(path)


def test_rows_of_what_is_no_prompt_are_refused(made: Callable[[str], Path], unchecked: None) -> None:
    store = ActivationStore.open(made("t5"))
    for wanted, message in (
        (3, "prompts must be a list, got 3"),
        ([3], "Give prompts made by mechsteer.prompt, got 3"),
    ):
        with pytest.raises(ms.MechsteerError, match=message):
            store.of(store.sites[0], wanted)


def test_a_capture_removes_no_file_that_it_did_not_write(tiny: Callable, tmp_path: Path) -> None:
    path = tmp_path / "s"
    ActivationStore.create(path, shard_mb=SHARD_MB)
    others = ["shard-notes.txt", "shard-000000.safetensors", "shard-000001.parquet", ".shard-000000.safetensors.tmp"]
    others += [".shard-mine.parquet.abcdefgh.tmp.parquet", ".mine.json.abcdefgh.tmp.json", "shard-9.md"]
    for name in others:
        (path / name).write_text(name)
    for texts in (TEXTS[:6], TEXTS):
        store = capture(tiny("llama-gqa"), texts, store=path, **OPTIONS)
        store.verify()
        assert all((path / name).read_text() == name for name in others)
    assert [shard.number for shard in store._manifest.shards][:2] == [2, 3]
    assert not (path / manifest.WRITING).exists()


def test_a_model_changed_in_memory_does_not_go_on_in_its_store(tiny: Callable, tmp_path: Path) -> None:
    model = deepcopy(tiny("llama-gqa"))
    options: dict[str, Any] = {"sites": "resid_post", "store": tmp_path / "s"}
    capture(model, TEXTS[:2], **options)
    model.blocks[0].mlp.W_out.data[0, 0] += 1
    with pytest.raises(ms.MechsteerError, match="its model fingerprint is"):
        capture(model, TEXTS[:4], **options)


def test_a_row_is_named_by_any_kind_of_integer_and_what_names_none_is_refused(
    tiny: Callable[..., Any], tmp_path: Path
) -> None:
    with unchecked():
        rows = ms.capture(tiny("gpt2"), ["the cat", "a dog"], sites="resid_post", store=tmp_path / "s")
        site = rows[rows.sites[0]]
        for one in (1, np.int64(1), np.array(1), torch.tensor(1)):
            assert torch.equal(site[one], site[:][1])
        assert site[[1]].shape == site[torch.tensor([1])].shape == (1, *site.shape[1:])
        for wrong in ([[0], [1, 2]], slice(0, "a")):
            with pytest.raises(ms.MechsteerError, match="Rows are integers, a slice or a mask of 2"):
                site[wrong]  # type: ignore[index]
