"""What all datasets share: the order of training samples, their chance, and batches that a method sets."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import Dataset as MapDataset

from datamodules.base import Dataset, Split, Visit, random_generator, visit_generator
from datamodules.specs import Spec

SIZE = 10


class Asked(MapDataset[dict[str, Any]]):
    """Samples that say which index was asked for, in which epoch, and a number drawn for this visit."""

    def __len__(self) -> int:
        return SIZE

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {
            "index": int(index),
            "epoch": index.epoch if isinstance(index, Visit) else -1,
            "drawn": float(visit_generator(index, "asked", 5).random()),
            "id": str(index),
        }


class Numbers(Dataset):
    tasks = ()
    title = url = licence = "none"
    required = ()

    @property
    def spec(self) -> Spec:
        return Spec(dataset="numbers")

    def read(self, split: Split) -> Asked:
        return Asked()

    @classmethod
    def render(cls, folder: Path) -> None:
        return


Numbers.name = "numbers"


def epoch(data: Numbers) -> dict[str, list[float]]:
    batches = list(data.train_dataloader())
    return {key: torch.cat([batch[key] for batch in batches]).tolist() for key in ("index", "epoch", "drawn")}


def test_training_order_depends_on_seed_and_epoch_alone(cache: Path) -> None:
    first, second = Numbers(cache=cache, seed=3), Numbers(cache=cache, seed=3)
    a, b = epoch(first), epoch(first)
    torch.rand(7)
    assert (epoch(second), epoch(second)) == (a, b)
    assert sorted(a["index"]) == sorted(b["index"]) == list(range(SIZE))
    assert a["index"] != b["index"] != epoch(Numbers(cache=cache, seed=4))["index"]
    assert set(a["epoch"]) == {0}
    assert set(b["epoch"]) == {1}


def test_chance_is_new_in_each_epoch_and_fixed_in_a_test(cache: Path) -> None:
    data = Numbers(cache=cache)
    a, b = epoch(data), epoch(data)
    assert not set(a["drawn"]) & set(b["drawn"])
    tests = [[float(batch["drawn"]) for batch in data.test_dataloader()] for _ in range(2)]
    assert tests[0] == tests[1]
    assert len(set(tests[0])) == SIZE
    assert tests[0][4] == pytest.approx(random_generator("asked", 5, 0, 4).random(), abs=1e-6)


def test_loader_processes_know_the_epoch(cache: Path) -> None:
    alone, helped = Numbers(cache=cache), Numbers(cache=cache, workers=1)
    loader = helped.train_dataloader()
    for number in range(2):
        seen = [int(value) for batch in loader for value in batch["epoch"]]
        assert seen == [number] * SIZE
    assert epoch(alone)["drawn"] == pytest.approx(epoch(Numbers(cache=cache, workers=1))["drawn"], abs=0)
    visit = pickle.loads(pickle.dumps(Visit(4, 7)))
    assert (visit, visit.epoch) == (4, 7)


def test_last_batch_of_one_is_left_out(cache: Path) -> None:
    assert [len(batch["id"]) for batch in Numbers(cache=cache, batch_size=3).train_dataloader()] == [3, 3, 3]
    assert [len(batch["id"]) for batch in Numbers(cache=cache, batch_size=4).train_dataloader()] == [4, 4, 2]


class Scheduler(pl.LightningModule):
    """Sets another number of batches for each epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.seen: list[list[list[int]]] = []

    def plan(self) -> None:
        number = len(self.seen)
        self.trainer.datamodule.schedule([[number, 2, 2]] * (number + 1))  # type: ignore[attr-defined]

    def on_fit_start(self) -> None:
        self.plan()

    def on_train_epoch_start(self) -> None:
        self.seen.append([])

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> torch.Tensor:
        assert batch["epoch"].unique().tolist() == [self.current_epoch]
        self.seen[-1].append(batch["index"].tolist())
        return self.layer(batch["drawn"].float()[:, None]).sum()

    def on_train_epoch_end(self) -> None:
        self.plan()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_a_method_sets_the_batches_of_each_epoch(cache: Path) -> None:
    module = Scheduler()
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    trainer = pl.Trainer(accelerator="cpu", max_epochs=3, logger=False, limit_val_batches=0, **quiet)
    data = Numbers(cache=cache)
    trainer.fit(module, datamodule=data)
    assert module.seen == [[[0, 2, 2]], [[1, 2, 2]] * 2, [[2, 2, 2]] * 3]
    data.schedule(None)
    assert sum(len(batch["id"]) for batch in data.train_dataloader()) == SIZE
