"""Directions on the hub: what is uploaded and comes back, what the card says, and what is refused. No network."""

import json
import re
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import huggingface_hub
import pytest
import torch
import transformers.utils.hub  # binds the real client before a test replaces it  # noqa: F401
import yaml
from huggingface_hub import errors

import mechsteer as ms
from mechsteer.directions import random_direction
from mechsteer.directions.card import model_card

REPO = "someone/a-direction"


class FakeHub:
    """Repositories as folders, with the calls of HfApi that are used."""

    def __init__(self, root: Path) -> None:
        self.root, self.private, self.calls = root, {}, []
        self.fails: dict[str, Exception] = {}

    def api(self, token: str | None = None) -> "FakeHub":
        self.calls.append(("token", token))
        return self

    def _called(self, name: str, *args: Any) -> None:
        self.calls.append((name, *args))
        if name in self.fails:
            raise self.fails[name]

    def create_repo(self, repo_id: str, *, private: bool, exist_ok: bool) -> None:
        self._called("create_repo", repo_id, private)
        assert exist_ok
        (self.root / repo_id).mkdir(parents=True, exist_ok=True)
        self.private.setdefault(repo_id, private)  # as the hub: an existing repository keeps what it is

    def model_info(self, repo_id: str) -> Any:
        self._called("model_info", repo_id)
        names = [SimpleNamespace(rfilename=path.name) for path in (self.root / repo_id).iterdir()]
        return SimpleNamespace(private=self.private.get(repo_id, False), siblings=names)

    def upload_folder(self, *, repo_id: str, folder_path: str, commit_message: str) -> Any:
        self._called("upload_folder", commit_message)
        for path in Path(folder_path).iterdir():
            (self.root / repo_id / path.name).write_bytes(path.read_bytes())
        return SimpleNamespace(commit_url=f"https://huggingface.co/{repo_id}/commit/1")

    def download(self, repo_id: str, filename: str, *, revision: str | None, token: str | None) -> str:
        self._called("download", revision, token)
        return str(self.root / repo_id / filename)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    fake = FakeHub(tmp_path / "hub")
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(huggingface_hub, "HfApi", fake.api)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fake.download)
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    yield fake
    assert not list(scratch.glob("mechsteer-*")), "something was left behind"


def example(**meta: str) -> ms.Direction:
    known = {"model_name": "google/some-model", "model_revision": "abc123", "seed": "3"} | meta
    return ms.Direction(torch.tensor([3.0, 0.0, -4.0]), "blocks.1.hook_resid_post", "gradient", 0.5, 20.0, known)


def status(code: int, kind: type[errors.HfHubHTTPError] = errors.HfHubHTTPError) -> Exception:
    url = f"https://huggingface.co/{REPO}"
    return kind("refused\nand more", response=httpx.Response(code, request=httpx.Request("GET", url)))


def front_matter(text: str) -> tuple[dict[str, Any], str]:
    _, front, body = text.split("---\n", 2)
    return yaml.safe_load(front), body


def test_a_direction_comes_back_as_it_was_pushed(hub: FakeHub) -> None:
    d = example()
    address = d.push_to_hub(REPO, token="secret", message="First")
    assert address == f"https://huggingface.co/{REPO}/commit/1"
    assert hub.calls[0] == ("token", "secret") and ("upload_folder", "First") in hub.calls
    assert sorted(path.name for path in (hub.root / REPO).iterdir()) == ["README.md", "direction.safetensors"]
    back = ms.Direction.from_hub(REPO, revision="main", token="other")
    assert back.vector.equal(d.vector) and (back.site, back.method, back.meta) == (d.site, d.method, d.meta)
    assert (back.mean_projection, back.activation_norm) == (0.5, 20.0)
    assert hub.calls[-1] == ("download", "main", "other")


def test_it_can_be_pushed_again(hub: FakeHub) -> None:
    example().push_to_hub(REPO)
    (hub.root / REPO / ".gitattributes").write_text("")
    example(seed="4").push_to_hub(REPO)
    assert ms.Direction.from_hub(REPO).meta["seed"] == "4"


def test_the_card_says_what_it_is_and_how_it_was_made() -> None:
    front, body = front_matter(model_card(example(), REPO))
    assert front["library_name"] == "mechsteer" and front["base_model"] == "google/some-model"
    assert {"mechsteer", "steering-vector"} <= set(front["tags"])
    assert body.startswith("\n# a-direction\n") and "steering `google/some-model` at `blocks.1.hook_resid_post`" in body
    rows = dict(re.findall(r"^\| (.+?) \| `(.*)` \|$", body, re.MULTILINE))
    assert rows == {
        "method": "gradient",
        "site": "blocks.1.hook_resid_post",
        "width": "3",
        "norm": "5",
        "mean projection on the unit vector": "0.5",
        "mean norm of the activations": "20",
        "model name": "google/some-model",
        "model revision": "abc123",
        "seed": "3",
    }


def test_the_card_leaves_out_what_is_not_known() -> None:
    front, body = front_matter(model_card(ms.Direction(torch.ones(2), "blocks.1.hook_resid_post", "x"), REPO))
    assert "base_model" not in front and "nan" not in body and "steering a language model" in body


def test_text_cannot_break_the_card() -> None:
    _, body = front_matter(model_card(example(note="a`b|c\nd\n---\n# title"), REPO))
    assert "| note | `a'b/c d --- # title` |" in body


@pytest.mark.parametrize("site", ["resid_post", "z", "v", "heads"])
def test_the_cards_code_runs(site: str, hub: FakeHub, capsys: pytest.CaptureFixture) -> None:
    model = ms.load("organism:instruct-llama")
    direction = random_direction(model, seed=0, layer=2, site="z" if site == "heads" else site)
    if site == "heads":
        direction = replace(direction, vector=direction.vector.repeat(model.cfg.n_heads), method="sparse")
    direction.push_to_hub(REPO)
    code = re.search(r"```python\n(.*?)```", (hub.root / REPO / "README.md").read_text(), re.DOTALL)
    assert code is not None and 'ms.load("organism:instruct-llama")' in code[1]
    exec(compile(code[1], "card", "exec"), {})
    assert capsys.readouterr().out.startswith("['")


def test_the_folder_of_a_local_checkpoint_is_not_told(hub: FakeHub, tiny: Callable) -> None:
    d = random_direction(tiny("llama-gqa"), seed=0, layer=1)
    folder = Path(d.meta["model_name"])
    assert folder.is_absolute()
    d.push_to_hub(REPO)
    for path in (hub.root / REPO).iterdir():
        assert str(folder.parent).encode() not in path.read_bytes(), path.name
    back = ms.Direction.from_hub(REPO)
    assert back.meta == d.meta | {"model_name": folder.name}
    assert f'ms.load("path/to/{folder.name}")' in (hub.root / REPO / "README.md").read_text()
    ms.add(back).check(tiny("llama-gqa"))


def test_a_new_repository_is_as_private_as_asked(hub: FakeHub) -> None:
    example().push_to_hub(REPO, private=True)
    example().push_to_hub("someone/open")
    assert hub.private == {REPO: True, "someone/open": False}


def test_a_public_repository_is_refused_where_a_private_one_was_asked_for(hub: FakeHub) -> None:
    example().push_to_hub(REPO)
    (hub.root / REPO / "README.md").unlink()
    with pytest.raises(ms.MechsteerError, match="exists and is public"):
        example().push_to_hub(REPO, private=True)
    assert not (hub.root / REPO / "README.md").exists()


def test_a_repository_with_something_else_is_left_alone(hub: FakeHub) -> None:
    (hub.root / REPO).mkdir(parents=True)
    (hub.root / REPO / "README.md").write_text("a model")
    (hub.root / REPO / "model.safetensors").write_text("")
    with pytest.raises(ms.MechsteerError, match=r"holds no direction \(README.md, model.safetensors\)"):
        example().push_to_hub(REPO)
    assert (hub.root / REPO / "README.md").read_text() == "a model"


FAILURES = [
    (status(401), "no permission. Log in with `hf auth login`"),
    (status(403), "no permission"),
    (status(401, errors.RepositoryNotFoundError), "no permission"),
    (status(404, errors.RepositoryNotFoundError), "there is no such repository, or the token may not see it"),
    (status(404, errors.RevisionNotFoundError), "there is no such revision"),
    (status(404, errors.RemoteEntryNotFoundError), "the repository has no direction.safetensors"),
    (status(500), "HfHubHTTPError: refused$"),
    (httpx.ConnectError("no route"), "ConnectError: no route"),
    (httpx.ReadTimeout(""), "ReadTimeout: "),
    (errors.OfflineModeIsEnabled("off"), "no network, or offline mode"),
    (errors.LocalEntryNotFoundError("gone"), "no network, or offline mode .* nothing in the cache"),
    (errors.HFValidationError("Repo id must be"), "HFValidationError: Repo id must be"),
]


@pytest.mark.parametrize(("failure", "message"), FAILURES)
def test_errors_of_the_hub_become_one_clear_error(failure: Exception, message: str, hub: FakeHub) -> None:
    for call in ("create_repo", "model_info", "upload_folder"):
        hub.fails = {call: failure}
        with pytest.raises(ms.MechsteerError, match=f"Cannot push to '{REPO}' on the Hugging Face hub: {message}"):
            example().push_to_hub(REPO)
    hub.fails = {"download": failure}
    with pytest.raises(ms.MechsteerError, match=f"Cannot get a direction from '{REPO}' on the .*: {message}"):
        ms.Direction.from_hub(REPO)


def test_a_damaged_download_is_refused(hub: FakeHub) -> None:
    example().push_to_hub(REPO)
    (hub.root / REPO / "direction.safetensors").write_bytes(json.dumps({}).encode())
    with pytest.raises(ms.MechsteerError, match="not a readable safetensors file"):
        ms.Direction.from_hub(REPO)


def test_the_real_client_offline_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ms.MechsteerError, match="no network, or offline mode"):
        ms.Direction.from_hub("someone/not-in-the-cache")
    with pytest.raises(ms.MechsteerError, match="no network, or offline mode"):
        example().push_to_hub(REPO, token="hf_none")
    with pytest.raises(ms.MechsteerError, match="HFValidationError"):
        ms.Direction.from_hub("not a name/at all/")


def test_the_client_has_the_calls_that_the_fake_has() -> None:
    import inspect

    for name, used in {
        "create_repo": {"private", "exist_ok"},
        "model_info": set(),
        "upload_folder": {"repo_id", "folder_path", "commit_message"},
    }.items():
        assert used <= set(inspect.signature(getattr(huggingface_hub.HfApi, name)).parameters), name
    assert {"revision", "token"} <= set(inspect.signature(huggingface_hub.hf_hub_download).parameters)
