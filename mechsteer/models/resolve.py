"""From a name to a local directory with a checkpoint that is safe to read."""

from pathlib import Path
from typing import Any

from mechsteer.errors import MechsteerError, nearest, unknown
from mechsteer.files import data_path, digest, read_json
from mechsteer.models.digest import file_digest

ORGANISM = "organism:"
_NOT_THE_MODEL = {"_name_or_path", "transformers_version", "dtype", "torch_dtype", "use_cache"}
_HUB_FILES = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"]


def resolve(name_or_path: str, *, revision: str | None = None) -> tuple[Path, str]:
    """Find the checkpoint directory for a name.

    Args:
        name_or_path: ``"organism:NAME"`` for a bundled model, a local directory, or a model id on the Hugging Face hub.
        revision: A branch, tag or commit; hub models only.

    Returns:
        The directory and the hub's commit (empty for local checkpoints). The network is used for hub ids alone.

    Raises:
        MechsteerError: for an unknown organism, a directory that holds no readable checkpoint, or a hub id that cannot
            be fetched.
    """
    if name_or_path.startswith(ORGANISM):
        directory, commit = _organism(name_or_path.removeprefix(ORGANISM)), ""
    elif _looks_local(name_or_path):
        directory, commit = _local(Path(name_or_path).expanduser()), ""
    else:
        directory, commit = _hub(name_or_path, revision)
    if not commit and revision is not None:
        raise MechsteerError(f"revision={revision!r} is for hub models; {name_or_path!r} is local.")
    _check_files(directory)
    return directory, commit


def organism_names() -> list[str]:
    """The names of the bundled models."""
    return sorted(path.name for path in data_path("organisms").iterdir() if (path / "config.json").is_file())


def _organism(name: str) -> Path:
    names = organism_names()
    if name not in names:
        raise unknown("organism", name, names)
    return data_path("organisms", name)


def _looks_local(name: str) -> bool:
    path = Path(name).expanduser()
    return path.exists() or name.startswith((".", "/", "~", "\\")) or name.count("/") > 1 or not name


def _local(path: Path) -> Path:
    if not path.exists():
        siblings = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        raise MechsteerError(f"No such model directory: {str(path)!r}.{nearest(path.name, siblings)}")
    if not path.is_dir():
        raise MechsteerError(f"{str(path)!r} is a file; expected a directory with config.json and *.safetensors.")
    return path


def _hub(name: str, revision: str | None) -> tuple[Path, str]:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        path = snapshot_download(
            name,
            revision=revision,
            allow_patterns=_HUB_FILES,
            ignore_patterns=["*/*", "consolidated*"],  # other formats of the same weights
        )
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise MechsteerError(
            f"Cannot get {name!r} from the Hugging Face hub ({reason}). It is no local directory either; "
            f"bundled models are {', '.join(ORGANISM + n for n in organism_names())}."
        ) from error
    return Path(path), Path(path).name


def _check_files(directory: Path) -> None:
    if not (directory / "config.json").is_file():
        raise MechsteerError(f"{str(directory)!r} has no config.json: not a Hugging Face checkpoint directory.")
    if not weight_files(directory):
        pickled = sorted(p.name for p in directory.iterdir() if p.suffix in {".bin", ".pt", ".pth", ".ckpt"})
        if pickled:
            raise MechsteerError(
                f"{str(directory)!r} has only pickled weights ({', '.join(pickled)}), which are never loaded: "
                "unpickling runs code. Convert them once with save_pretrained(..., safe_serialization=True)."
            )
        raise MechsteerError(f"{str(directory)!r} has no *.safetensors weights.")
    index = directory / "model.safetensors.index.json"
    if index.is_file():
        shards = set(read_json(index).get("weight_map", {}).values())
        absent = sorted(s for s in shards if not (directory / s).is_file())
        if absent:
            raise MechsteerError(
                f"{str(directory)!r} lacks the weight shards {', '.join(absent)} named in {index.name}."
            )


def weight_files(directory: Path) -> list[Path]:
    """The checkpoint's safetensors files, sorted by name."""
    return sorted(p for p in directory.glob("*.safetensors") if not p.name.startswith("."))


def read_config(directory: Path) -> Any:
    """The checkpoint's Hugging Face configuration.

    Raises:
        MechsteerError: if config.json is not JSON or names no known model type.
    """
    from transformers import AutoConfig

    raw = read_json(directory / "config.json")
    if not isinstance(raw, dict) or "model_type" not in raw:
        raise MechsteerError(f"{directory / 'config.json'} names no model_type: not a Hugging Face configuration.")
    try:
        return AutoConfig.from_pretrained(directory, local_files_only=True)
    except (ValueError, KeyError, OSError) as error:
        raise MechsteerError(f"transformers cannot read {directory / 'config.json'}: {error}") from error


def fingerprint(directory: Path) -> str:
    """A hash over the configuration and all bytes of the weight files."""
    config = {k: v for k, v in read_json(directory / "config.json").items() if k not in _NOT_THE_MODEL}
    return digest([config, [file_digest(path) for path in weight_files(directory)]])


def checkpoint_digest(name: str) -> str:
    """A hash over all files of a checkpoint that loading reads: weights, configurations, tokenizer, template.

    Raises:
        MechsteerError: as :func:`resolve` does.
    """
    directory = resolve(name)[0]
    files = {path.name: path for pattern in _HUB_FILES for path in directory.glob(pattern)}
    return digest({name: file_digest(path) for name, path in files.items()})
