"""Rows of a store for other tools: pandas, the trainer of SAELens, and the ``datasets`` library."""

from collections.abc import Iterator
from itertools import count, product
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from mechsteer.activations.reading import SiteRows
from mechsteer.activations.store import ActivationStore
from mechsteer.errors import MechsteerError, natural_int, one_of, positive_int

if TYPE_CHECKING:
    import pandas as pd

CHUNK = 1024
"""Rows read at once when all are wanted in order."""


def to_pandas(store: ActivationStore, site: str) -> "pd.DataFrame":
    """All rows of a site in memory, one column a dimension (``"7"``; of heads ``"2.7"``) after those of the index."""
    import pandas as pd

    rows = store[site]
    names = [".".join(map(str, place)) for place in product(*map(range, rows.shape[1:]))]
    values = pd.DataFrame(rows.numpy().reshape(len(rows), -1), columns=names)
    return pd.concat([store.index_of(site), values], axis=1)


def batches(
    rows: SiteRows,
    batch_size: int,
    *,
    seed: int = 0,
    epochs: int | None = None,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
) -> Iterator[Float[Tensor, "batch d_in"]]:
    """Shuffled batches, e.g. as ``data_provider`` of SAELens' ``SAETrainer``.

    Every epoch is a new permutation of all rows, so that each row comes once in it; the last batch of an epoch may be
    smaller. Rows are read from the disk as they are needed. Heads and their dimensions are one dimension.

    Args:
        rows: ``store[site]``.
        batch_size: Rows in a batch.
        seed: Decides the order.
        epochs: How often to go through the rows; None: without end, as the trainer wants it.
        dtype: Of the batches.
        device: Where to put them.

    Returns:
        An iterator of batches.

    Raises:
        MechsteerError: if there are no rows, or for a dtype, device or seed that is none.
    """
    positive_int("batch_size", batch_size)
    if epochs is not None:
        positive_int("epochs", epochs)
    if not isinstance(dtype, torch.dtype):
        raise MechsteerError(f"dtype must be a dtype, e.g. torch.float32, got {dtype!r}.")
    seed = natural_int("seed", seed)
    try:
        torch.empty(0, device=device)
    except (TypeError, RuntimeError, AssertionError) as error:
        raise MechsteerError(f"There is no device {device!r}: {str(error).splitlines()[0]}") from None
    if not len(rows):
        raise MechsteerError(f"The store has no rows at {rows.site!r} yet.")

    def run() -> Iterator[Tensor]:
        generator = np.random.default_rng(seed)
        for _ in count() if epochs is None else range(epochs):
            order = generator.permutation(len(rows))
            for first in range(0, len(order), batch_size):
                yield rows[order[first : first + batch_size]].flatten(1).to(device, dtype)

    return run()


def to_dataset(store: ActivationStore, site: str) -> Any:
    """A ``datasets.IterableDataset``: the columns of the index, and ``activation``, a list of floats.

    It reads as it is iterated; shuffle it with its own ``.shuffle(seed=..., buffer_size=...)``.

    Raises:
        MechsteerError: if the ``datasets`` library is not installed, or the store does not have the site.
    """
    try:
        import datasets
    except ImportError:
        raise MechsteerError("This needs the datasets library: pip install datasets.") from None
    one_of("site in this store", site, store.sites)
    return datasets.IterableDataset.from_generator(_records, gen_kwargs={"path": str(store.path), "site": site})


def _records(path: str, site: str) -> Iterator[dict[Any, Any]]:
    store = ActivationStore.open(path)
    index, rows = store.index_of(site), store[site]
    for first in range(0, len(rows), CHUNK):
        described = index.iloc[first : first + CHUNK].to_dict("records")
        values = rows.numpy(slice(first, first + CHUNK))
        for record, value in zip(described, values, strict=True):
            yield {**record, "activation": value.reshape(-1)}
