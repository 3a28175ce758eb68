"""What is read from others runs nothing, leaves its folder nowhere, and is shown as text."""

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

import mechsteer as ms
from mechsteer.html_report import Report, Samples, page
from mechsteer.studies.core import cells
from mechsteer.studies.core.result import Result, finish

EVIL = "<script>alert('x')</script>"


class Bomb:
    """A pickle that would make a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def readers(folder: Path) -> dict[str, Callable[[Path], object]]:
    """By the name that a file has to have: what reads it."""
    from mechsteer.files import read_table
    from mechsteer.studies.sweep.grids import read_grid

    return {
        "d.safetensors": ms.Direction.load,
        "i.safetensors": ms.Intervention.load,
        "c.gguf": lambda path: ms.Direction.from_gguf(path),
        "m.gguf": ms.load,
        "t.parquet": read_table,
        "r.json": ms.tasks.rules,
        "t.jsonl": ms.task,
        "t.csv": ms.tasks.memotrap,
        "s.toml": read_grid,
        "manifest.json": lambda path: ms.ActivationStore.open(path.parent),
        "study.json": lambda path: Result.load(path.parent),
    }


def test_a_pickle_is_loaded_under_no_name(tmp_path: Path, checkpoint: Callable, unchecked: None) -> None:
    hit = tmp_path / "hit"
    bombs = [pickle.dumps(Bomb(hit)), pickle.dumps(Bomb(hit), protocol=0)]
    torch.save({"x": Bomb(hit)}, tmp_path / "torch.pt")
    bombs.append((tmp_path / "torch.pt").read_bytes())
    for number, content in enumerate(bombs):
        folder = tmp_path / str(number)
        folder.mkdir()
        for name, read in readers(folder).items():
            (folder / name).write_bytes(content)
            with pytest.raises(ms.MechsteerError):
                read(folder / name)
        for name in ("model.safetensors", "tokenizer.json", "config.json"):
            model = shutil.copytree(checkpoint("llama"), folder / f"model of {name}")
            (model / name).write_bytes(content)
            with pytest.raises(ms.MechsteerError):
                ms.load(model)
    assert not hit.exists()


def test_a_record_names_tables_of_its_folder_alone(tmp_path: Path) -> None:
    table = pd.DataFrame({"x": [1]})
    finish(tmp_path / "study", {"study": "guide"}, {"summary": table})
    finish(tmp_path / "other", {"study": "guide"}, {"secret": table})
    for name in ("../other/secret", str(tmp_path / "other" / "secret"), "a/b", "..", "", "a\\b", "a\0b", 3):
        (tmp_path / "study" / "study.json").write_text(json.dumps({"study": "guide", "tables": [name]}))
        with pytest.raises(ms.MechsteerError, match=r"name of a table is that of a file|names no tables"):
            Result.load(tmp_path / "study")
        finish(tmp_path / "study", {"study": "guide"}, {"summary": table})  # nor removes any elsewhere
    assert (tmp_path / "other" / "secret.parquet").exists()


@pytest.mark.parametrize("name", ["../x", "/x", "a/b", ".."])
def test_a_cell_lies_in_its_folder(name: str, tmp_path: Path) -> None:
    with pytest.raises(ms.MechsteerError, match="name of a cell is that of a file"):
        cells.write(tmp_path / "study", name, pd.DataFrame({"x": [1]}))
    assert not list(tmp_path.iterdir())


def test_a_linked_shard_of_another_store_does_not_fit(tmp_path: Path, tiny: Callable) -> None:
    stores = [tmp_path / name for name in ("one", "two")]
    for store, text in zip(stores, ("the cat", "a dog"), strict=True):
        ms.capture(tiny("llama"), [text], sites="resid_post", store=store)
    shard = stores[0] / "shard-000000.safetensors"
    shard.unlink()
    shard.symlink_to(stores[1] / shard.name)
    with pytest.raises(ms.MechsteerError, match="is foreign"):
        ms.ActivationStore.open(stores[0])


def test_a_way_out_in_a_manifest_is_refused(tmp_path: Path, tiny: Callable) -> None:
    ms.capture(tiny("llama"), ["the cat"], sites="resid_post", store=tmp_path / "store")
    path = tmp_path / "store" / "manifest.json"
    value = json.loads(path.read_text())
    for number in ("../../x", -1, None, 1.5):
        value["shards"][0]["number"] = number
        path.write_text(json.dumps({k: v for k, v in value.items() if k != "checksum"}))  # as the first versions wrote
        with pytest.raises(ms.MechsteerError, match="is damaged"):
            ms.ActivationStore.open(tmp_path / "store")


def test_texts_are_escaped_in_every_view(tiny: Callable, tmp_path: Path) -> None:
    model = tiny("llama")
    direction = ms.Direction(torch.ones(32), f"blocks.0.hook_resid_post{EVIL}", EVIL, meta={"model_name": EVIL})
    made = ms.prompt(model, f"the cat {EVIL}")
    out = ms.generate(model, made, max_new_tokens=2)
    out.texts[0] = EVIL
    result = Result(tmp_path / EVIL, {"summary": pd.DataFrame({EVIL: [EVIL]})})
    steer = ms.add(ms.Direction(torch.ones(32), "blocks.0.hook_resid_post", EVIL), 1.0)
    kept = ms.capture(model, {EVIL: [made], "b": ["the cat"]}, sites="resid_post")
    shown = [direction, made, out, result, steer, ms.add(direction, 1.0), kept]
    pages = [one._repr_html_() for one in shown if hasattr(one, "_repr_html_")]
    assert len(pages) >= 5
    table, figures = pd.DataFrame({EVIL: [EVIL]}), {EVIL: b"png"}
    samples = Samples((EVIL, EVIL + "2"), (EVIL,), (((EVIL, EVIL, True), ("b" + EVIL, EVIL, None)),), (0, 0))
    pages.append(page(Report(EVIL, [EVIL], {EVIL: [EVIL]}, figures, (), {EVIL: table}, samples, {EVIL: EVIL}, EVIL)))
    for own in (False, True):
        pages.append(ms.plots.attention_view(torch.eye(2)[None], [EVIL, "b"], names=[EVIL], own=own)._repr_html_())
    assert not any(EVIL in page or "<script>alert" in page for page in pages)


class NoRouteError(Exception):
    """What a network library raises that the hub's client uses today or tomorrow: none of its or Python's errors."""


def test_every_call_to_the_hub_says_in_one_line_that_there_is_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub
    import sae_lens

    def fail(*arguments: Any, **options: Any) -> Any:
        raise NoRouteError("no route\nto the host")

    for name in ("snapshot_download", "hf_hub_download", "HfApi"):
        monkeypatch.setattr(huggingface_hub, name, fail)
    monkeypatch.setattr(sae_lens.SAE, "from_pretrained", fail)
    direction = ms.Direction(torch.ones(4), "blocks.0.hook_resid_post", "x")
    calls: list[Callable[[], object]] = [
        lambda: ms.load("someone/model"),
        lambda: ms.load_sae("gpt2-small-res-jb", "blocks.8.hook_resid_pre"),
        lambda: ms.Direction.from_hub("someone/direction"),
        lambda: direction.push_to_hub("someone/direction"),
        lambda: ms.tasks.ifeval(),
    ]
    for call in calls:
        with pytest.raises(ms.MechsteerError, match=r"no route|NoRouteError") as caught:
            call()
        assert "\n" not in str(caught.value)
