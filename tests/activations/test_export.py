"""What other tools are given: tables, arrays, shuffled batches, a data set."""

from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import mechsteer as ms
from mechsteer.activations import ActivationStore, capture
from tests.activations.killed import SHARD_MB, TEXTS

SITE, HEADS = "decoder.1.hook_resid_post", "encoder.0.attn.hook_z"


@pytest.fixture(scope="module")
def store(tiny: Callable, tmp_path_factory: pytest.TempPathFactory) -> ActivationStore:
    path = tmp_path_factory.mktemp("store") / "s"
    ActivationStore.create(path, shard_mb=SHARD_MB)
    return capture(tiny("t5"), TEXTS, sites=[SITE, HEADS], positions="all", batch_size=2, store=path)


def test_pandas_has_the_index_and_a_column_a_dimension(store: ActivationStore) -> None:
    table = store.to_pandas(HEADS)
    index = store.index_of(HEADS)
    assert table.columns[: len(index.columns)].tolist() == index.columns.tolist()
    assert table["2.7"].tolist() == store[HEADS][:][:, 2, 7].tolist()
    assert table.shape == (len(store[HEADS]), len(index.columns) + 32)
    assert np.array_equal(store.to_numpy(HEADS), store[HEADS][:].numpy())
    assert store.to_pandas(SITE)["31"].tolist() == store[SITE][:][:, 31].tolist()


def ordered(rows: torch.Tensor) -> list[list[float]]:
    return sorted(rows.tolist())


def test_batches_are_a_new_permutation_in_every_epoch(store: ActivationStore) -> None:
    whole = store[HEADS][:].flatten(1)
    n = len(whole)
    batches = list(store.batches(HEADS, 5, seed=1, epochs=2))
    assert [len(b) for b in batches] == 2 * ([5] * (n // 5) + [n % 5] * (n % 5 > 0))
    both = torch.cat(batches)
    first, second = both[:n], both[n:]
    assert ordered(first) == ordered(second) == ordered(whole)
    assert not torch.equal(first, whole) and not torch.equal(first, second)
    again = torch.cat(list(store.batches(HEADS, 5, seed=1, epochs=2)))
    assert torch.equal(again, both)
    assert not torch.equal(torch.cat(list(store.batches(HEADS, 5, seed=2, epochs=2))), both)
    endless = torch.cat(list(islice(store.batches(HEADS, 5, seed=1), len(batches))))
    assert torch.equal(endless, both)
    assert next(store.batches(HEADS, 5, dtype=torch.float16)).dtype == torch.float16


def test_bad_batches_are_refused(store: ActivationStore, tmp_path: Path) -> None:
    for options, message in (
        ({"batch_size": 0}, "batch_size must be an integer of at least 1, got 0"),
        ({"batch_size": 2, "epochs": 0}, "epochs must be an integer of at least 1, got 0"),
    ):
        with pytest.raises(ms.MechsteerError, match=message):
            store.batches(SITE, **options)
    with pytest.raises(ms.MechsteerError, match="Unknown site in this store 'resid_post'"):
        store.batches("resid_post", 2)
    with pytest.raises(ms.MechsteerError, match=f"Unknown site in this store '{SITE}'"):
        ActivationStore.create(tmp_path / "empty").batches(SITE, 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "float16"}, "dtype must be a dtype, e.g. torch.float32, got 'float16'"),
        ({"device": "moon"}, "There is no device 'moon'"),
        ({"seed": "one"}, "seed must be an integer of at least 0, got 'one'"),
        ({"seed": -1}, "seed must be an integer of at least 0, got -1"),
    ],
)
def test_wrong_options_of_batches_are_named(
    options: dict[str, Any], message: str, store: ActivationStore, unchecked: None
) -> None:
    with pytest.raises(ms.MechsteerError, match=message):
        store.batches(SITE, 2, **options)


def test_a_dataset_of_a_site_that_is_not_there_is_refused(store: ActivationStore) -> None:
    pytest.importorskip("datasets")
    with pytest.raises(ms.MechsteerError, match="Unknown site in this store 'resid_post'"):
        store.to_dataset("resid_post")


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_the_trainer_of_saelens_takes_the_batches(store: ActivationStore, tmp_path: Path) -> None:
    from sae_lens import SAE, TopKTrainingSAE, TopKTrainingSAEConfig
    from sae_lens.config import LoggingConfig, SAETrainerConfig
    from sae_lens.training.sae_trainer import SAETrainer

    sae = TopKTrainingSAE(TopKTrainingSAEConfig(d_in=32, d_sae=64, k=4, dtype="float32", device="cpu"))
    before = sae.W_enc.detach().clone()
    settings = SAETrainerConfig(
        n_checkpoints=0,
        checkpoint_path=None,
        save_final_checkpoint=False,
        total_training_samples=160,
        device="cpu",
        autocast=False,
        lr=1e-3,
        lr_end=1e-4,
        lr_scheduler_name="constant",
        lr_warm_up_steps=0,
        adam_beta1=0.9,
        adam_beta2=0.999,
        lr_decay_steps=0,
        n_restart_cycles=1,
        train_batch_size_samples=8,
        dead_feature_window=100,
        feature_sampling_window=100,
        logger=LoggingConfig(log_to_wandb=False),
    )
    trainer = SAETrainer(cfg=settings, sae=sae, data_provider=store.batches(HEADS, 8, seed=0))
    trained = trainer.fit()
    assert trainer.n_training_samples >= 160
    assert (trained.W_enc.detach() - before).abs().max() > 1e-4
    trained.save_inference_model(str(tmp_path))
    loaded = SAE.load_from_disk(str(tmp_path))
    assert torch.isfinite(loaded(store[HEADS][:4].flatten(1))).all()


def test_the_datasets_library_reads_the_rows(store: ActivationStore) -> None:
    data = store.to_dataset(HEADS)
    records = list(data)
    index = store.index_of(HEADS)
    assert len(records) == len(index)
    assert set(records[0]) == {*index.columns, "activation"}
    assert [r["token"] for r in records] == index["token"].tolist()
    assert np.array_equal(np.array([r["activation"] for r in records]), store.to_numpy(HEADS).reshape(len(index), -1))
    shuffled = [r["row"] for r in data.shuffle(seed=0, buffer_size=1000)]
    assert shuffled != sorted(shuffled) and sorted(shuffled) == index["row"].tolist()
