"""Sparse autoencoders of SAELens: getting one safely, whether it fits a model, and what a feature edit needs of it.

An SAE reads x as f = encode(x) and writes decode(f). For the architectures here the decoder is linear, decode(f) =
s(x) * (sum_i f_i w_i + b), where w_i is row i of ``W_dec`` (divided by its norm where a TopK SAE was trained with
``rescale_acts_by_decoder_norm``) and s(x) undoes the normalisation of the input (1 without one). So a change of some
features changes the output by s(x) times their changes times their rows, whatever the other features are.
"""

import contextlib
import hashlib
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mechsteer.errors import MechsteerError, foreign, nearest, shown, unknown
from mechsteer.files import as_path, data_path, home, is_there, read_json
from mechsteer.models import check_sizes, model_info, official_name, shape_of, shapes_in
from mechsteer.steering.sae_conventions import check_processing

ARCHITECTURES = ("standard", "topk", "abstopk", "jumprelu", "gated", "matching_pursuit")
"""Those of which features can be edited: position by position, with a linear decoder."""

ORGANISM = "organism:"
_WEIGHTS, _CONFIG = "sae_weights.safetensors", "cfg.json"
_NO_PICKLE = ("sae_lens", "gemma_2", "gemma_3", "llama_scope", "llama_scope_r1_distill", "sparsify")
_SIZES = ("d_in", "d_sae", "d_out")
_SCALED = ("layer_norm", "constant_norm_rescale")
_UNFOLDED = {
    "expected_average_only_in": "fold_activation_norm_scaling_factor(factor)",
    "covariance_whitening": "fold_activation_whitening(mean, whitening_matrix, unwhitening_matrix)",
}


@dataclass(frozen=True, eq=False)
class FeatureEdit:
    """What is done to which features of an SAE.

    Attributes:
        sae: The SAE, in the form that SAELens uses after training.
        index: The features.
        operations: For each of them ``"add"``, ``"scale"``, ``"set"`` or ``"ablate"``.
        values: For each of them a number, or a tensor that gradients may flow to; 0 for ``"ablate"``.
    """

    sae: Any
    index: tuple[int, ...]
    operations: tuple[str, ...]
    values: tuple[float | Tensor, ...]


def bundled_saes() -> list[str]:
    """The names of the bundled SAEs: those of the organisms that they were trained on."""
    return sorted(path.name for path in data_path("saes").iterdir() if (path / _CONFIG).is_file())


def load_sae(
    name_or_path: str | os.PathLike[str],
    sae_id: str | None = None,
    *,
    device: str | torch.device = "cpu",
    dtype: str | torch.dtype | None = None,
) -> Any:
    """Load an SAE, from formats that hold numbers alone; nothing is ever unpickled.

    Args:
        name_or_path: ``"organism:NAME"`` for the bundled SAE of that organism; a directory that SAELens wrote
            (``cfg.json`` and ``sae_weights.safetensors``); or a release in SAELens' list, or a repository on the
            Hugging Face hub, with ``sae_id``.
        sae_id: Which SAE of the release.
        device: Where to put it.
        dtype: Of its weights, e.g. ``"bfloat16"``; default: of a folder as saved, of a release float32.

    Returns:
        A SAELens ``SAE``, for :func:`mechsteer.features` and for everything that SAELens itself does.

    Raises:
        MechsteerError: for an unknown name, a directory without these files or with damaged ones, pickled weights, a
            release without ``sae_id``, or one that cannot be fetched.

    Example:
        >>> sae = ms.load_sae("organism:instruct-llama")  # or a folder, or a release and id of the hub
    """
    as_path(name_or_path)
    name = os.fspath(name_or_path)
    device = str(device)  # SAELens knows devices, and most of its formats dtypes, by name alone
    dtype = None if dtype is None else str(dtype).removeprefix("torch.")
    local = home(name)
    with foreign(f"Cannot read the SAE {shown(name)}"):  # in a folder that may not be read, say
        if name.startswith(ORGANISM):
            wanted = name.removeprefix(ORGANISM)
            if wanted not in bundled_saes():
                raise unknown("organism with a bundled SAE", wanted, bundled_saes())
            return _from_disk(data_path("saes", wanted), device, dtype)
        if is_there(local) or name.startswith((".", "/", "~")) or name.count("/") > 1:
            if sae_id is not None:
                raise MechsteerError(f"sae_id={sae_id!r} is for releases on the hub; {name!r} is a local path.")
            return _from_disk(local, device, dtype)
        return _from_hub(name, sae_id, device, dtype)


def _from_disk(path: Path, device: str, dtype: str | None) -> Any:
    from sae_lens import SAE

    if not (is_there(path) and path.is_dir()):
        if is_there(path):
            raise MechsteerError(f"{str(path)!r} is a file; give the folder that SAELens wrote.")
        siblings = [p.name for p in path.parent.iterdir()] if is_there(path.parent) and path.parent.is_dir() else []
        raise MechsteerError(f"No such SAE directory: {str(path)!r}.{nearest(path.name, siblings)}")
    absent = [name for name in (_CONFIG, _WEIGHTS) if not (path / name).is_file()]
    if absent:
        found = sorted(p.name for p in path.iterdir())
        there = ", ".join(found[:6]) + (f", ... {len(found)} in all" if len(found) > 6 else "") or "nothing"
        raise MechsteerError(
            f"{str(path)!r} has no {' and no '.join(absent)} (there is: {there}). SAELens' save_model and "
            "save_inference_model write both; pickled weights are never loaded."
        )
    config = read_json(path / _CONFIG)
    if not isinstance(config, dict) or "d_in" not in config:
        raise MechsteerError(f"{path / _CONFIG} is no configuration of an SAE: it has no d_in.")
    function = config.get("activation_fn_str") or config.get("activation_fn")  # as versions before 6 wrote it
    if function not in (None, "relu", "topk"):
        raise MechsteerError(
            f"The SAE in {str(path)!r} was trained with the activation function {shown(function)}, in whose place "
            "SAELens has ReLU by now, so that its features would be others."
        )
    what = f"SAELens cannot load the SAE in {str(path)!r}"
    with foreign(what):
        check_sizes(config, _SIZES, shapes_in(path / _WEIGHTS, what), path / _CONFIG)
        with _without_advice():
            return SAE.load_from_disk(path, device=device, dtype=dtype)


def _from_hub(release: str, sae_id: str | None, device: str, dtype: str | None) -> Any:
    from sae_lens import SAE
    from sae_lens.loading.pretrained_sae_loaders import get_conversion_loader_name
    from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory

    releases = get_pretrained_saes_directory()
    if release not in releases and "/" not in release:
        bundled = [ORGANISM + name for name in bundled_saes()]
        raise unknown("SAE release or directory", release, [*releases, *bundled])
    if sae_id is None:
        known = list(releases[release].saes_map) if release in releases else []
        raise MechsteerError(f"{release!r} has several SAEs; say which: sae_id=.{nearest('', known)}")
    if release in releases and sae_id not in releases[release].saes_map:
        raise unknown(f"SAE of {release}", sae_id, releases[release].saes_map)
    layout = get_conversion_loader_name(release)
    if layout not in _NO_PICKLE:
        raise MechsteerError(
            f"{release!r} comes in the layout {layout!r}, which is pickled or no SAE of one hook point. Layouts that "
            f"are loaded: {', '.join(_NO_PICKLE)}."
        )
    with foreign(f"Cannot get the SAE {sae_id!r} of {release!r}"), _without_advice():
        return SAE.from_pretrained(release, sae_id, device=device, dtype=dtype or "float32")


@contextlib.contextmanager
def _without_advice() -> Iterator[None]:
    """SAELens advises to process the model as in training; that is followed here without it, or refused."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"\s*This SAE has non-empty model_from_pretrained_kwargs")
        yield


def as_sae(sae: Any) -> Any:
    """The SAE in the form that SAELens uses after training, if its features can be edited.

    One in training (``TrainingSAE``) becomes what ``save_inference_model`` would write; a BatchTopK one a JumpReLU one.

    Raises:
        MechsteerError: for what is no SAE, one with NaN or infinite entries, an architecture whose features depend on
            other positions or do not describe the hook point they are read from, or an SAE whose normalisation was
            never folded into its weights.
    """
    from sae_lens import SAE, TrainingSAE

    if not isinstance(sae, SAE):
        raise MechsteerError(
            f"An SAE is one of SAELens, e.g. ms.load_sae('organism:instruct-llama'), got {type(sae).__name__}."
        )
    if sae.cfg.normalize_activations in _UNFOLDED:
        raise MechsteerError(
            f"This SAE normalises by statistics of its training data ({sae.cfg.normalize_activations}) that are not in "
            f"its weights. SAELens' trainer folds them in at its end; or call "
            f"sae.{_UNFOLDED[sae.cfg.normalize_activations]}."
        )
    for name, tensor in sae.state_dict().items():
        if not torch.isfinite(tensor).all():
            raise MechsteerError(
                f"The tensor {name} of this SAE has NaN or infinite entries, and so it has NaN or infinite features."
            )
    made = _after_training(sae) if isinstance(sae, TrainingSAE) else sae
    name = made.cfg.architecture()
    if name not in ARCHITECTURES:
        raise MechsteerError(
            f"Features of a {name!r} SAE cannot be edited: its features depend on other positions, or it writes to "
            f"another hook point than it reads. Architectures that can: {', '.join(ARCHITECTURES)}."
        )
    if (made.dtype, made.device) != (made.W_dec.dtype, made.W_dec.device):
        made.to(dtype=made.W_dec.dtype, device=made.W_dec.device)  # of which .half() and .cuda() did not tell it
    return made


def _after_training(sae: Any) -> Any:
    state = sae.state_dict()
    sae.process_state_dict_for_saving_inference(state)
    return build_sae(sae.cfg.get_inference_sae_cfg_dict(), state)


def build_sae(config: dict[str, Any], state: dict[str, Tensor]) -> Any:
    """An SAE from its configuration and its tensors, as SAELens saves both."""
    from sae_lens import SAE

    with _without_advice():
        made = SAE.from_dict(config)
    made.process_state_dict_for_loading(state)
    made.load_state_dict(state, assign=True)
    return made


def site_of(sae: Any, site: str | None) -> str:
    """The hook point to edit at: the one that is given, else the SAE's own.

    Raises:
        MechsteerError: if neither is known.
    """
    found = sae.cfg.metadata.hook_name if site is None else site
    if not isinstance(found, str) or not found:
        raise MechsteerError("This SAE does not say which hook point it was trained on; give site=.")
    return found


def check_sae(sae: Any, model: Any, site: str, *, transfer: bool) -> None:
    """Raise unless the SAE's width, hook point and model fit, and the way that the model's weights are processed.

    The model is compared by the fingerprint, where the SAE has one (those trained here do), else by its public name.

    Raises:
        MechsteerError: with both values.
    """
    dims = shape_of(model, site)[2:]
    if not dims or not all("=" in dim for dim in dims):
        raise MechsteerError(f"{site!r} has no vector a position ({' '.join(shape_of(model, site))}), so no features.")
    size = 1
    for dim in dims:
        size *= int(dim.split("=")[1])
    if sae.cfg.reshape_activations == "hook_z" and len(dims) != 2:
        raise MechsteerError(f"This SAE reads the outputs of heads (hook_z); {site!r} has no heads.")
    if sae.cfg.d_in != size and sae.cfg.metadata.hook_head_index is None:
        raise MechsteerError(f"The SAE has width {sae.cfg.d_in}, but the activations at {site!r} have {size}.")
    check_processing(sae, model, site, transfer=transfer)
    if not transfer:
        info = model_info(model)
        check_origin(sae, site, name=info.name, fingerprint=info.fingerprint)


def check_origin(sae: Any, site: str, *, name: str, fingerprint: str) -> None:
    """Raise unless the SAE was trained at a site of a model.

    Raises:
        MechsteerError: with both values.
    """
    data = sae.cfg.metadata
    if data.hook_name and data.hook_name != site:
        raise MechsteerError(
            f"This SAE was trained at {data.hook_name!r}, not at {site!r}. Pass transfer=True if another site is meant."
        )
    if data.model_fingerprint:
        same = data.model_fingerprint == fingerprint
    else:
        same = not data.model_name or _same_model(str(data.model_name), name)
    if not same:
        raise MechsteerError(
            f"This SAE was trained on {data.model_name!r} (fingerprint {data.model_fingerprint or 'unknown'}), not on "
            f"{name!r} ({fingerprint}). Pass transfer=True if crossing models is meant."
        )


def _same_model(there: str, here: str) -> bool:
    """Whether two names may mean one model: True where the SAE's is not the name of a public model."""
    public = official_name(there)
    if public is None and there.count("/") != 1:
        return True
    wanted, given = (public or there).casefold(), (official_name(here) or here).casefold()
    return wanted.rpartition("/")[2] == given.rpartition("/")[2] or wanted.replace("/", "--") in given


def sae_digest(sae: Any) -> str:
    """A short hash of an SAE's tensors."""
    sha = hashlib.sha256()
    for name, tensor in sorted(sae.state_dict().items()):
        sha.update(name.encode())
        sha.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()[:16]


def activations_of(sae: Any, x: Float[Tensor, "rows positions *width"]) -> Float[Tensor, "rows positions d_sae"]:
    """The features f of activations; heads and their dimensions are one dimension to the SAE."""
    flattens = sae.cfg.reshape_activations == "hook_z"  # by itself, and it remembers the size of the heads it was given
    acts = sae.encode((x if flattens else x.flatten(2)).to(sae.device))
    for name in ("ln_mu", "ln_std", "x_norm_coeff"):  # encode leaves these on the SAE for a decode that does not come
        sae.__dict__.pop(name, None)
    return acts.to_dense() if acts.is_sparse else acts


def decoder_rows(sae: Any, index: tuple[int, ...]) -> Float[Tensor, "features width"]:
    """The rows w_i that some features write."""
    rows = sae.W_dec[list(index)]
    rescaled = getattr(sae.cfg, "rescale_acts_by_decoder_norm", False)
    return rows / rows.norm(dim=-1, keepdim=True) if rescaled else rows


def output_scale(sae: Any, x: Float[Tensor, "*rows width"]) -> Float[Tensor, "*rows one"] | None:
    """s(x), by which the decoder undoes the normalisation of its input; None for 1."""
    kind = sae.cfg.normalize_activations
    if kind not in _SCALED:
        return None
    x = x.to(sae.device, sae.dtype)
    if kind == "layer_norm":
        return (x - x.mean(-1, keepdim=True)).std(-1, keepdim=True)
    return x.norm(dim=-1, keepdim=True) / sae.cfg.d_in**0.5
