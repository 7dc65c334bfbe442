"""Bags of MNIST digits for multiple instance learning: four problems cut from the files of MNIST (see `mnist.py`).

    mnist-bags-single    1 if at least one 9 occurs                       10 digits on average, deviation 2
    mnist-bags-multiple  1 if both a 3 and a 6 occur, in any order         12, 2
    mnist-bags-counting  the number of 9s                                  15, 2
    mnist-bags-outlier   1 if a digit differs from all others              6, 1

A bag holds max(1, int(N(mean_size, std_size))) digits (more where its label asks for more), no digit twice, in random
order. Half of the bags are positive. Bags of training, validation and test are of different digits: the training files
less a held-out sixth, that sixth, and the test files.

- single, multiple: classes are drawn uniformly among all bags of their kind. Negatives of `multiple` are, in equal
  parts, bags without 3 and 6, with 3s only, and with 6s only.
- counting: the number of 9s is uniform over 0..`largest_count` (or the bag's size).
- outlier: every bag of one class stands beside its copy in which `n_outlier` digits are of one other class, always
  fewer than half.

Following Wang, Oramas and Tuytelaars: In defense of LSTMs for addressing multiple instance learning problems. ACCV
2020, which follows Ilse, Tomczak and Welling (ICML 2018). 1,000 training bags are the paper's for `multiple`, 10,000
and 2,000 for test for `outlier`; the numbers of the other problems, all of validation, the deviation of `multiple` and
`counting`, and the shares above are chosen here. The miniature has 700, 100 and 200 bags, and for `outlier` 1,000,
100 and 200.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Unpack

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset as MapDataset

from datamodules.base import DataError, Serving, Split, Variant, random_generator
from datamodules.miniature.stroke_digits import SIDE
from datamodules.recognition.bags import concatenate_bags, visiting_order
from datamodules.recognition.mnist import DIGITS, MEAN, STD, Digits, MNISTFiles
from datamodules.specs import BagsSpec

Classes = NDArray[np.int64]
NINE, THREE, SIX = 9, 3, 6


@dataclass(frozen=True)
class Bag:
    """digits: int64 [m], positions among the split's digits. label: of the bag."""

    digits: NDArray[np.int64]
    label: int


def with_class(size: int, classes: Classes, wanted: tuple[int, ...], random: np.random.Generator) -> Classes:
    """Classes of a bag, uniform among all those that are made of `classes` and hold each one of `wanted`, [size]."""
    while True:
        drawn = random.choice(classes, size)
        if set(wanted) <= set(drawn.tolist()):
            return drawn


class MnistBags(MNISTFiles):
    """What the four problems share.

    mean_size, std_size: of the number of digits a bag. bags, val_bags, test_bags: bags a split; None: the paper's for
    real files, few for the miniature. shuffle: draw the order of a training bag's digits anew at each visit.
    bag_seed: of the choice of digits; None: the run's seed, so that each repetition has bags of its own.
    val_share: share of the training digits of which the validation bags are made.
    """

    tasks = ("multiple-instance",)
    problem: ClassVar[tuple[str, ...]] = ("mean_size", "std_size")
    rule: ClassVar[Literal["presence", "count", "mixture"]]
    witnesses: ClassVar[tuple[int, ...]]
    real_bags: ClassVar[dict[Split, int]] = {"train": 1000, "val": 200, "test": 1000}
    miniature_bags: ClassVar[dict[Split, int]] = {"train": 700, "val": 100, "test": 200}

    def __init__(
        self,
        root: str | Path | None,
        variant: Variant,
        *,
        mean_size: float,
        std_size: float,
        bags: int | None,
        val_bags: int | None,
        test_bags: int | None,
        shuffle: bool,
        bag_seed: int | None,
        val_share: float,
        **serving: Unpack[Serving],
    ) -> None:
        super().__init__(root, variant, val_share=val_share, **{"test_batch_size": 20, **serving})
        if mean_size < 1 or std_size < 0:
            raise ValueError(
                f"{self.name}: mean_size {mean_size} must be at least 1, std_size {std_size} not negative"
            )
        defaults = self.miniature_bags if self.variant == "miniature" else self.real_bags
        asked: dict[Split, int | None] = {"train": bags, "val": val_bags, "test": test_bags}
        self.bags = {split: defaults[split] if number is None else number for split, number in asked.items()}
        if min(self.bags.values()) < 1 or not 0 < val_share < 1:
            raise ValueError(
                f"{self.name}: there must be bags in each split ({self.bags}, val_share {val_share})"
            )
        self.mean_size, self.std_size = mean_size, std_size
        self.shuffle = shuffle
        self.bag_seed = self.seed if bag_seed is None else bag_seed

    @property
    def spec(self) -> BagsSpec:
        return BagsSpec(
            dataset=self.name,
            channels=1,
            instance_classes=DIGITS,
            rule=self.rule,
            witnesses=self.witnesses,
            image_size=(SIDE, SIDE),
            mean=MEAN,
            std=STD,
        )

    @property
    def collate(self) -> Callable[[list[dict[str, Any]]], dict[str, Any]]:
        return concatenate_bags

    def size(self, random: np.random.Generator, least: int = 1) -> int:
        """The number of digits of a bag."""
        return max(1, least, int(random.normal(self.mean_size, self.std_size)))

    @abstractmethod
    def compose(self, number: int, random: np.random.Generator) -> tuple[Classes, int]:
        """The classes of a bag's digits [m], in random order, and the bag's label."""

    def pools(self, split: Split, digits: Digits) -> list[NDArray[np.int64]]:
        """Positions of the digits of each class."""
        pools = [np.flatnonzero(digits.labels == digit) for digit in range(10)]
        if missing := [str(digit) for digit, pool in enumerate(pools) if not len(pool)]:
            raise DataError(f"{self.root}: no digit {', '.join(missing)} among those for {split}")
        return pools

    def cut(self, split: Split, digits: Digits) -> list[Bag]:
        """The bags of a split."""
        pools = self.pools(split, digits)
        bags = []
        for number in range(self.bags[split]):
            random = random_generator(self.name, "bag", split, self.bag_seed, number)
            classes, label = self.compose(number, random)
            bags.append(Bag(fill(classes, pools, random), label))
        return bags

    def read(self, split: Split) -> MapDataset[dict[str, Any]]:
        digits = self.digits(split)
        shuffle = self.shuffle and split == "train"
        return DigitBags(digits, self.cut(split, digits), self.name, split, shuffle=shuffle, seed=self.seed)


def fill(classes: Classes, pools: list[NDArray[np.int64]], random: np.random.Generator) -> NDArray[np.int64]:
    """A digit for each class [m], no digit twice unless there are too few of a class."""
    chosen = np.empty(len(classes), np.int64)
    for label in np.unique(classes):
        where = np.flatnonzero(classes == label)
        chosen[where] = random.choice(pools[label], len(where), replace=len(where) > len(pools[label]))
    return chosen


class DigitBags(MapDataset[dict[str, Any]]):
    """Samples of `multiple-instance`."""

    def __init__(
        self, digits: Digits, bags: list[Bag], name: str, split: Split, *, shuffle: bool, seed: int
    ) -> None:
        self.digits, self.bags = digits, bags
        self.name, self.split = name, split
        self.shuffle, self.seed = shuffle, seed

    def __len__(self) -> int:
        return len(self.bags)

    def __getitem__(self, index: int) -> dict[str, Any]:
        bag = self.bags[index]
        chosen = bag.digits[
            visiting_order(len(bag.digits), index, self.name, self.seed, shuffle=self.shuffle)
        ]
        return {
            "instances": torch.from_numpy(self.digits.images[chosen])[:, None].float() / 255,
            "instance_label": torch.from_numpy(self.digits.labels[chosen]),
            "label": bag.label,
            "id": f"{self.split}/{index:05d}",
        }


class MnistBagsSingle(MnistBags):
    """Is there a 9? See the module's docstring; for options see `MnistBags`."""

    name = "mnist-bags-single"
    rule = "presence"
    witnesses = (NINE,)

    def __init__(
        self,
        root: str | Path | None = None,
        variant: Variant = "miniature",
        *,
        mean_size: float = 10,
        std_size: float = 2,
        bags: int | None = None,
        val_bags: int | None = None,
        test_bags: int | None = None,
        shuffle: bool = True,
        bag_seed: int | None = None,
        val_share: float = 1 / 6,
        **serving: Unpack[Serving],
    ) -> None:
        super().__init__(
            root,
            variant,
            mean_size=mean_size,
            std_size=std_size,
            bags=bags,
            val_bags=val_bags,
            test_bags=test_bags,
            shuffle=shuffle,
            bag_seed=bag_seed,
            val_share=val_share,
            **serving,
        )

    def compose(self, number: int, random: np.random.Generator) -> tuple[Classes, int]:
        label = 1 - number % 2
        others = np.delete(np.arange(10), NINE)
        if label:
            return with_class(self.size(random), np.arange(10), (NINE,), random), label
        return random.choice(others, self.size(random)), label


class MnistBagsMultiple(MnistBags):
    """Are there a 3 and a 6? See the module's docstring; for options see `MnistBags`.

    pairs: 1: a positive bag holds one 3 and one 6 and a negative one none or two of one kind, whatever its size (the
        paper's larger bags); 0: as many as chance gives.
    """

    name = "mnist-bags-multiple"
    problem = (*MnistBags.problem, "pairs")
    rule = "presence"
    witnesses = (THREE, SIX)

    def __init__(
        self,
        root: str | Path | None = None,
        variant: Variant = "miniature",
        *,
        mean_size: float = 12,
        std_size: float = 2,
        pairs: int = 0,
        bags: int | None = None,
        val_bags: int | None = None,
        test_bags: int | None = None,
        shuffle: bool = True,
        bag_seed: int | None = None,
        val_share: float = 1 / 6,
        **serving: Unpack[Serving],
    ) -> None:
        super().__init__(
            root,
            variant,
            mean_size=mean_size,
            std_size=std_size,
            bags=bags,
            val_bags=val_bags,
            test_bags=test_bags,
            shuffle=shuffle,
            bag_seed=bag_seed,
            val_share=val_share,
            **serving,
        )
        if pairs not in (0, 1):
            raise ValueError(f"{self.name}: pairs must be 0 or 1, not {pairs}")
        self.pairs = pairs

    def compose(self, number: int, random: np.random.Generator) -> tuple[Classes, int]:
        label = 1 - number % 2
        present = (THREE, SIX) if label else ((), (THREE,), (SIX,))[number // 2 % 3]
        others = np.delete(np.arange(10), (THREE, SIX))
        if self.pairs:
            pair = (present * 2)[:2]
            classes = random.choice(others, self.size(random, least=2))
            classes[random.choice(len(classes), len(pair), replace=False)] = pair
            return classes, label
        return with_class(
            self.size(random, least=2), np.append(others, present).astype(np.int64), present, random
        ), label


class MnistBagsCounting(MnistBags):
    """How many 9s are there? See the module's docstring; for options see `MnistBags`.

    largest_count: the largest number of 9s in a bag.
    """

    name = "mnist-bags-counting"
    problem = (*MnistBags.problem, "largest_count")
    rule = "count"
    witnesses = (NINE,)

    def __init__(
        self,
        root: str | Path | None = None,
        variant: Variant = "miniature",
        *,
        mean_size: float = 15,
        std_size: float = 2,
        largest_count: int = 5,
        bags: int | None = None,
        val_bags: int | None = None,
        test_bags: int | None = None,
        shuffle: bool = True,
        bag_seed: int | None = None,
        val_share: float = 1 / 6,
        **serving: Unpack[Serving],
    ) -> None:
        super().__init__(
            root,
            variant,
            mean_size=mean_size,
            std_size=std_size,
            bags=bags,
            val_bags=val_bags,
            test_bags=test_bags,
            shuffle=shuffle,
            bag_seed=bag_seed,
            val_share=val_share,
            **serving,
        )
        if largest_count < 1:
            raise ValueError(f"{self.name}: largest_count must be at least 1, got {largest_count}")
        self.largest_count = largest_count

    def compose(self, number: int, random: np.random.Generator) -> tuple[Classes, int]:
        size = self.size(random)
        count = int(random.integers(min(self.largest_count, size) + 1))
        classes = random.choice(np.delete(np.arange(10), NINE), size)
        classes[random.choice(size, count, replace=False)] = NINE
        return classes, count


class MnistBagsOutlier(MnistBags):
    """Does a digit differ from the majority? See the module's docstring; for options see `MnistBags`.

    n_outlier: digits of the other class in a positive bag (2: the official code's).
    """

    name = "mnist-bags-outlier"
    problem = (*MnistBags.problem, "n_outlier")
    rule = "mixture"
    witnesses = ()
    real_bags: ClassVar[dict[Split, int]] = {"train": 10_000, "val": 1000, "test": 2000}
    miniature_bags: ClassVar[dict[Split, int]] = {"train": 1000, "val": 100, "test": 200}

    def __init__(
        self,
        root: str | Path | None = None,
        variant: Variant = "miniature",
        *,
        mean_size: float = 6,
        std_size: float = 1,
        n_outlier: int = 2,
        bags: int | None = None,
        val_bags: int | None = None,
        test_bags: int | None = None,
        shuffle: bool = True,
        bag_seed: int | None = None,
        val_share: float = 1 / 6,
        **serving: Unpack[Serving],
    ) -> None:
        super().__init__(
            root,
            variant,
            mean_size=mean_size,
            std_size=std_size,
            bags=bags,
            val_bags=val_bags,
            test_bags=test_bags,
            shuffle=shuffle,
            bag_seed=bag_seed,
            val_share=val_share,
            **serving,
        )
        if n_outlier < 1:
            raise ValueError(f"{self.name}: n_outlier must be at least 1, got {n_outlier}")
        self.n_outlier = n_outlier

    def compose(self, number: int, random: np.random.Generator) -> tuple[Classes, int]:
        majority, other = random.choice(10, 2, replace=False)
        classes = np.full(self.size(random, least=2 * self.n_outlier + 1), majority)
        classes[random.choice(len(classes), self.n_outlier, replace=False)] = other
        return classes, 1

    def cut(self, split: Split, digits: Digits) -> list[Bag]:
        """A bag of one class, then its copy with outliers, and so on."""
        pools = self.pools(split, digits)
        bags: list[Bag] = []
        for number in range((self.bags[split] + 1) // 2):
            random = random_generator(self.name, "bag", split, self.bag_seed, number)
            classes, label = self.compose(number, random)
            mixed = fill(classes, pools, random)
            majority = np.bincount(classes).argmax()
            outlier = classes != majority
            unused = np.setdiff1d(pools[majority], mixed)
            count = int(outlier.sum())
            pool = unused if len(unused) >= count else pools[majority]
            alike = mixed.copy()
            alike[outlier] = random.choice(pool, count, replace=len(pool) < count)
            bags += [Bag(alike, 0), Bag(mixed, label)]
        return bags[: self.bags[split]]
