"""Dataset: one published dataset, read in its own on-disk format, real or miniature, by one reader.

A subclass states where its files lie (`required`), how to read them (`read`), what they are (`spec`) and
how its miniature is rendered (`render`). Everything else - the cache, the manifest, the missing-file
message, the loaders and their seeds - is here.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import shutil
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, TypedDict

import numpy as np
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, Sampler
from torch.utils.data import Dataset as MapDataset

from datamodules.specs import Spec

Variant = Literal["miniature", "real"]
Split = Literal["train", "val", "test"]

DEFAULT_CACHE = Path("~/.cache/paragone")


class Visit(int):
    """The index of a training sample, and the epoch in which it is asked for."""

    epoch: int

    def __new__(cls, index: int, epoch: int) -> Visit:
        visit = super().__new__(cls, index)
        visit.epoch = epoch
        return visit

    def __getnewargs__(self) -> tuple[int, int]:  # type: ignore[override]
        return int(self), self.epoch


class DataError(Exception):
    """A file that is missing, malformed or of the wrong shape; the message names it and what to do."""


class Serving(TypedDict, total=False):
    """How a dataset serves its samples; keywords that every dataset takes."""

    batch_size: int
    test_batch_size: int
    workers: int
    seed: int
    cache: str | Path | None


class Dataset(pl.LightningDataModule, ABC):
    """A dataset with three splits, in one published layout.

    root: folder that holds the published folder, or a folder of the dataset's name that does (needed for
        `variant="real"`).
    variant: "real" reads under `root`; "miniature" renders a small stand-in of the same format under the
        cache and reads that. One never stands in for the other by itself.
    batch_size, test_batch_size: samples a batch in training, and in validation and test.
    workers: loader processes; 0 loads in the process that trains.
    seed: of the order of training samples and of the loaders' augmentation.
    cache: folder of the rendered miniatures; default `~/.cache/paragone`.

    A dataset whose options state different problems (ways and shots of an episode) names them in a class attribute
    `problem`: results with other values than the defaults stand in leaderboards of their own.

    Raises `DataError` where files are missing or malformed.
    """

    name: ClassVar[str]  # type: ignore[misc]  # Lightning declares it for instances
    tasks: ClassVar[tuple[str, ...]]
    """Names of the tasks whose batches this dataset can serve."""
    title: ClassVar[str]
    url: ClassVar[str]
    licence: ClassVar[str]
    required: ClassVar[tuple[str, ...]]
    """Glob patterns under the root; each must match at least one path."""
    version: ClassVar[int] = 1
    """Raised when the miniature's rendering or the reading of files changes what a trial would see."""
    variants: ClassVar[tuple[Variant, ...]] = ("miniature", "real")

    def __init__(
        self,
        root: str | Path | None = None,
        variant: Variant = "miniature",
        *,
        batch_size: int = 32,
        test_batch_size: int = 1,
        workers: int = 0,
        seed: int = 0,
        cache: str | Path | None = None,
    ) -> None:
        super().__init__()
        if variant not in self.variants:
            raise ValueError(f"{self.name}: variant {variant!r} is none of {', '.join(self.variants)}")
        if variant == "real" and root is None:
            raise DataError(f"{self.name}: the real files need a root.\n{self.instructions()}")
        if batch_size < 1 or test_batch_size < 1:
            raise ValueError(f"{self.name}: batch sizes must be positive")
        self.variant: Variant = variant
        self.batch_size = batch_size
        self.test_batch_size = test_batch_size
        self.workers = workers
        self.seed = seed
        self.cache = Path(cache if cache is not None else DEFAULT_CACHE).expanduser()
        self.root = (
            self.miniature_folder if root is None or variant == "miniature" else self._home(Path(root))
        )
        self._splits: dict[str, MapDataset[dict[str, Any]]] = {}
        self._scheduled: list[list[int]] | None = None
        self._passes = itertools.count()

    # What a dataset writes itself.

    @property
    @abstractmethod
    def spec(self) -> Spec:
        """The facts a method is built from. May read files; calls `prepare_data` first if it does."""

    @abstractmethod
    def read(self, split: Split) -> MapDataset[dict[str, Any]]:
        """A map-style dataset of samples (dicts as the task's batch contract says, without batch axis)."""

    @classmethod
    @abstractmethod
    def render(cls, folder: Path) -> None:
        """Write the miniature in the published layout under `folder`, always the same bytes."""

    @property
    def collate(self) -> Callable[[list[dict[str, Any]]], dict[str, Any]]:
        """How samples become a batch; default: `stack_samples`."""
        return stack_samples

    # What all datasets share.

    def _home(self, root: Path) -> Path:
        """`root/<name>` where there is such a folder: some datasets are published without a folder of their own."""
        return root / self.name if (root / self.name).is_dir() else root

    @property
    def miniature_folder(self) -> Path:
        return self.cache / f"{self.name}-v{self.version}"

    @property
    def ready(self) -> bool:
        """Whether the miniature is rendered, or the real files are there."""
        return (self.root / "manifest.json").is_file() if self.variant == "miniature" else not self.missing()

    def instructions(self) -> str:
        """What must lie where, where it comes from and under which licence."""
        layout = "\n".join(f"  <root>/{pattern}" for pattern in self.required)
        return f"{self.title} is expected as\n{layout}\nGet it from {self.url} (licence: {self.licence})."

    def missing(self) -> list[str]:
        """The patterns of `required` that nothing under the root matches."""
        return [pattern for pattern in self.required if next(self.root.glob(pattern), None) is None]

    def prepare_data(self) -> None:
        """Render the miniature if it isn't there, or check that the real files are."""
        if self.variant == "miniature":
            self._render_once()
        elif missing := self.missing():
            raise DataError(
                f"{self.name}: not found under {self.root}: {', '.join(missing)}\n{self.instructions()}"
            )

    def setup(self, stage: str | None = None) -> None:
        """Nothing to do: splits are opened when they are first asked for."""

    def split(self, split: Split) -> MapDataset[dict[str, Any]]:
        """The opened split, read once."""
        if split not in self._splits:
            self._splits[split] = self.read(split)
        return self._splits[split]

    def data_version(self) -> str:
        """Identifies the data a trial sees: the reader's version, and for real files a digest of the
        names and sizes of the files that `required` matches."""
        if self.variant == "miniature":
            return f"miniature-{self.version}"
        digest = hashlib.sha256()
        for path, size in self._files():
            digest.update(f"{path}:{size}\n".encode())
        return f"real-{self.version}-{digest.hexdigest()[:12]}"

    def verify(self) -> list[str]:
        """Problems of the files on disk: missing ones and, for the miniature, ones unlike the manifest."""
        if self.variant == "real":
            return [f"missing: {pattern}" for pattern in self.missing()]
        manifest_file = self.root / "manifest.json"
        if not manifest_file.is_file():
            return [f"missing: {manifest_file}"]
        checksums = json.loads(manifest_file.read_text())["checksums"]
        return [
            f"changed or missing: {self.root / path}"
            for path, checksum in checksums.items()
            if not (self.root / path).is_file() or _checksum(self.root / path) != checksum
        ]

    def schedule(self, batches: Sequence[Sequence[int]] | None) -> None:
        """Set the training batches from the next epoch on: sample indices, batch by batch; None: shuffled as usual.

        For a method that draws its batches by what it knows of the samples (identities, clusters). Call it before
        the epoch begins: in `on_fit_start`, or in `on_train_epoch_end` for the next epoch.
        """
        self._scheduled = None if batches is None else [list(batch) for batch in batches]
        if self.trainer is not None:
            self.trainer.reload_dataloaders_every_n_epochs = 1  # type: ignore[attr-defined]

    def train_dataloader(self) -> DataLoader[dict[str, Any]]:
        """Shuffled by `seed` and epoch alone: the same order for every method, whatever else draws random numbers.
        Samples are asked for by a `Visit`, which knows the epoch.

        A last batch of a single sample is left out: batch statistics of one picture may not exist.
        """
        samples = self.split("train")
        size = len(samples)  # type: ignore[arg-type]
        common: dict[str, Any] = {
            "collate_fn": self.collate,
            "num_workers": self.workers,
            "worker_init_fn": _seed_worker,
            "generator": torch.Generator().manual_seed(self.seed),
            "persistent_workers": self.workers > 0 and self._scheduled is None,
        }
        if self._scheduled is not None:
            batches = _ScheduledBatches(self._scheduled, self._epoch)
            return DataLoader(samples, batch_sampler=batches, **common)
        return DataLoader(
            samples,
            batch_size=self.batch_size,
            sampler=_Shuffled(size, self.seed, self._epoch),
            drop_last=size % self.batch_size == 1,
            **common,
        )

    def val_dataloader(self) -> DataLoader[dict[str, Any]]:
        return self.in_order("val")

    def test_dataloader(self) -> DataLoader[dict[str, Any]]:
        return self.in_order("test")

    def in_order(self, split: Split) -> DataLoader[dict[str, Any]]:
        """One pass over a split in its own order, in batches of `test_batch_size`."""
        return DataLoader(
            self.split(split),
            batch_size=self.test_batch_size,
            collate_fn=self.collate,
            num_workers=self.workers,
        )

    def _epoch(self) -> int:
        """The trainer's epoch; without one, how often the training set has been gone through."""
        return next(self._passes) if self.trainer is None else self.trainer.current_epoch

    def _files(self) -> Iterator[tuple[str, int]]:
        for pattern in self.required:
            for path in sorted(self.root.glob(pattern)):
                inside = sorted(path.rglob("*")) if path.is_dir() else [path]
                for file in inside:
                    if file.is_file():
                        yield file.relative_to(self.root).as_posix(), file.stat().st_size

    def _render_once(self) -> None:
        """Render into a temporary folder beside the target and rename it: whoever comes second finds it whole."""
        if self.ready:
            return
        self.cache.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{self.name}-", dir=self.cache))
        try:
            self.render(scratch)
            files = sorted(path for path in scratch.rglob("*") if path.is_file())
            manifest = {
                "dataset": self.name,
                "version": self.version,
                "checksums": {path.relative_to(scratch).as_posix(): _checksum(path) for path in files},
            }
            (scratch / "manifest.json").write_text(json.dumps(manifest, indent=1))
            scratch.chmod(0o755)
            try:
                os.rename(scratch, self.root)
            except OSError:
                if not self.ready:
                    raise
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


def stack_samples(samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Samples to a batch: tensors of equal shape are stacked, numbers become a tensor, the rest stays a list."""
    batch: dict[str, Any] = {}
    for key, first in samples[0].items():
        values = [sample[key] for sample in samples]
        if isinstance(first, torch.Tensor):
            shapes = {tuple(value.shape) for value in values}
            if len(shapes) > 1:
                raise DataError(
                    f"cannot batch {key!r}: shapes {sorted(shapes)} differ; use a batch size of 1"
                )
            batch[key] = torch.stack(values)
        elif isinstance(first, bool | int | float):
            batch[key] = torch.tensor(values)
        else:
            batch[key] = values
    return batch


def random_generator(*seed: int | str) -> np.random.Generator:
    """A NumPy generator that depends on nothing but `seed` (numbers and names)."""
    digest = hashlib.sha256(":".join(map(str, seed)).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "little"))


def visit_generator(index: int, *seed: int | str) -> np.random.Generator:
    """Chance for one look at a sample: new in each epoch of training, always the same in validation and test."""
    return random_generator(*seed, index.epoch if isinstance(index, Visit) else 0, int(index))


class _Shuffled(Sampler[Visit]):
    """All indices in an order that depends on seed and epoch alone."""

    def __init__(self, size: int, seed: int, epoch: Callable[[], int]) -> None:
        self.size, self.seed, self.epoch = size, seed, epoch

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Iterator[Visit]:
        epoch = self.epoch()
        order = random_generator("order", self.seed, epoch).permutation(self.size)
        return (Visit(index, epoch) for index in order.tolist())


class _ScheduledBatches(Sampler[list[Visit]]):
    """Batches that were set beforehand."""

    def __init__(self, batches: Sequence[Sequence[int]], epoch: Callable[[], int]) -> None:
        self.batches, self.epoch = batches, epoch

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[Visit]]:
        epoch = self.epoch()
        return ([Visit(index, epoch) for index in batch] for batch in self.batches)


def _seed_worker(worker: int) -> None:
    np.random.seed(torch.initial_seed() % 2**32)  # noqa: NPY002


def _checksum(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
