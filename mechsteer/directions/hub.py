"""Directions on the Hugging Face hub: one file, with a model card made from its provenance."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from mechsteer.directions.card import is_hub_model, model_card
from mechsteer.directions.direction import Direction
from mechsteer.errors import MechsteerError

FILE = "direction.safetensors"


def push(
    direction: Direction,
    repo_id: str,
    *,
    private: bool = False,
    token: str | None = None,
    message: str = "Add a direction",
) -> str:
    """Upload a direction and a generated model card, in one commit; the repository is made where there is none.

    The folder of a local checkpoint is not told: in what is uploaded, its name stands for its path.

    Args:
        direction: The direction.
        repo_id: ``"user/name"``.
        private: Make the repository private. One that exists keeps what it is, and is refused if it is public.
        token: A token with write access; default: the one that ``hf auth login`` stored.
        message: The message of the commit.

    Returns:
        The address of the commit.

    Raises:
        MechsteerError: if the hub cannot be reached or refuses, or the repository holds something that is not a
            direction (its card would be overwritten).
    """
    from huggingface_hub import HfApi

    shared = without_paths(direction)
    with hub_errors("push to", repo_id), tempfile.TemporaryDirectory(prefix="mechsteer-") as folder:
        shared.save(Path(folder) / FILE)
        (Path(folder) / "README.md").write_text(model_card(shared, repo_id), encoding="utf-8")
        api = HfApi(token=token)
        api.create_repo(repo_id, private=private, exist_ok=True)
        _check_place(api.model_info(repo_id), repo_id, private=private)
        return str(api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message=message).commit_url)


def pull(repo_id: str, *, revision: str | None = None, token: str | None = None) -> Direction:
    """Download a direction that :func:`push` uploaded.

    Args:
        repo_id: ``"user/name"``.
        revision: Branch, tag or commit.
        token: A token, for private repositories; default: the one that ``hf auth login`` stored.

    Raises:
        MechsteerError: if the hub cannot be reached or refuses, or the repository holds no direction.
    """
    from huggingface_hub import hf_hub_download

    with hub_errors("get a direction from", repo_id):
        path = hf_hub_download(repo_id, FILE, revision=revision, token=token)
    return Direction.load(path)


def without_paths(direction: Direction) -> Direction:
    """The direction with the name of a local checkpoint in place of its path."""
    name = direction.meta.get("model_name", "")
    if is_hub_model(direction) or name.startswith("organism:"):
        return direction
    return replace(direction, meta=direction.meta | ({"model_name": Path(name).name} if name else {}))


def _check_place(info: object, repo_id: str, *, private: bool) -> None:
    """Raise if the repository is public where it should not be, or is there for something else."""
    if private and not getattr(info, "private", False):
        raise MechsteerError(
            f"{repo_id} exists and is public; private=True does not change that. Nothing was uploaded."
        )
    names = {one.rfilename for one in getattr(info, "siblings", None) or []}
    if names - {".gitattributes"} and FILE not in names:
        listed = ", ".join(sorted(names)[:4])
        raise MechsteerError(f"{repo_id} exists and holds no direction ({listed}). Nothing was uploaded.")


@contextmanager
def hub_errors(doing: str, repo_id: str) -> Iterator[None]:
    """Turn what the hub's client raises into one clear error."""
    try:
        yield
    except MechsteerError:
        raise
    except Exception as error:  # of whichever library it reaches the network with
        raise MechsteerError(f"Cannot {doing} {repo_id!r} on the Hugging Face hub: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    from huggingface_hub import errors

    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, (errors.OfflineModeIsEnabled, errors.LocalEntryNotFoundError)):
        return "no network, or offline mode (HF_HUB_OFFLINE), and nothing in the cache."
    if isinstance(error, errors.RevisionNotFoundError):
        return "there is no such revision."
    if isinstance(error, errors.EntryNotFoundError):
        return f"the repository has no {FILE}."
    if status in {401, 403}:
        return "no permission. Log in with `hf auth login`, or give a token= that may do this."
    if isinstance(error, errors.RepositoryNotFoundError):
        return "there is no such repository, or the token may not see it."
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"
