"""SPVNAS: 3D neural architecture search over SPVCNN (Tang et al., ECCV 2020, Sec. 4).

One super network of all widths and depths is trained once (`spvnas_supernet`); `spvnas` searches it under a budget of
multiply-accumulates before it trains: it counts kernel maps over the training scans, scores candidates by mIoU on the
validation split, copies the winner into a network of its own, trains that on and tests it.

- Search space, weight sharing, MACs, evolution and random search: `spvnas_search.py`; networks: `spvnas_network.py`;
  the training itself: `spvcnn.py`.
- The recipes hold sequence 10 out of training as that validation split; test scans select nothing, and a method that
  finds a scan it was searched on among its test scans raises.
- Neither the paper's text nor the official code has the super network's schedule or the search's numbers but for
  its 20 generations (Fig. 7). Chosen here: 15 epochs at full depth at 0.24 and 15 shrinking at 0.096, cosine each,
  four candidates a step, each on its own batch (the paper has one a replica); population 50, 10 parents, mutation
  0.1; that a candidate's batch statistics are estimated anew on a few training scans before it is scored; 10 epochs
  at 0.032 on the winner.
- `:uniform` is Fig. 6's hand-made baseline at the same budget, all widths shrunk alike; it too takes the super
  network's weights and the same further training, so that the search alone differs. From scratch it is
  `spvcnn:cr_0.5` and such.
- Test rows of Table 2 are trained on all 23,201 labelled scans; here the labelled test sequence is 08.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from datamodules.specs import LidarSpec
from tasks.base import Batch, Claim, Method, Need, Recipe
from tasks.blocks.sparse_voxels import Align, Mode, PointSet
from tasks.metrics.class_confusion import ClassConfusion
from tasks.pointcloud.spvnas_network import SPVCNN, MinkUNet
from tasks.pointcloud.spvnas_search import (
    Genes,
    KernelStatistics,
    Search,
    SearchSpace,
    SuperNetwork,
    evolve,
    random_search,
    reestimate_statistics,
    segment_depths,
    widest_uniform,
)
from tasks.pointcloud.spvnas_training import (
    PAPER,
    Inputs,
    PointVoxelMethod,
    cosine,
    picture,
    point_loss,
    training_scans,
)


class SPVNASSupernet(PointVoxelMethod):
    """Super-network training (Sec. 4.2): each batch trains one candidate, drawn uniformly; a step averages several.

    shrink: progressive depth shrinking: the first half of the training at full depth, the second, from
    shrink_learning_rate, at all depths. fine_grained, width, decoder: of the space (`SearchSpace.of`). Others as in
    `spvcnn`. What is tested, for the record only, is the largest network; the search takes candidates.
    """

    name = "spvnas_supernet"
    paper = PAPER
    recipe = Recipe(
        batch_size=4,
        accumulate=4,
        max_epochs=30,
        validate_every=0,
        precision="16-mixed",
        data={"val_sequences": ["10"]},
    )
    profiles = {
        "mini": {
            "width": 0.25,
            "voxel_size": 0.2,
            "learning_rate": 0.06,
            "shrink_learning_rate": 0.024,
            "batch_size": 1,
            "accumulate": 1,
            "max_epochs": 3,
            "statistics_scans": 4,
            "precision": "32-true",
        },
        "smoke": {
            "width": 0.125,
            "voxel_size": 0.4,
            "learning_rate": 0.03,
            "shrink_learning_rate": 0.012,
            "max_voxels": 1000,
            "batch_size": 2,
            "accumulate": 1,
            "max_epochs": 1,
            "max_steps": 2,
            "statistics_scans": 2,
            "precision": "32-true",
        },
    }
    presets = {
        "no_shrink": {"shrink": False},
        "coarse": {"fine_grained": False},
        "no_decoder": {"decoder": False},
    }
    baselines = ("spvcnn", "majority_points")

    def __init__(
        self,
        spec: LidarSpec,
        *,
        width: float = 1.0,
        fine_grained: bool = True,
        decoder: bool = True,
        shrink: bool = True,
        devox: Mode = "trilinear",
        align: Align = "corner",
        point_stem: bool = False,
        dropout: float = 0.3,
        voxel_size: float = 0.05,
        unique_points: bool = False,
        max_voxels: int = 80_000,
        rotate: bool = True,
        scale: tuple[float, float] = (0.95, 1.05),
        learning_rate: float = 0.24,
        shrink_learning_rate: float = 0.096,
        momentum: float = 0.9,
        weight_decay: float = 1e-4,
        statistics_scans: int = 16,
    ) -> None:
        super().__init__(
            spec,
            voxel_size=voxel_size,
            unique_points=unique_points,
            max_voxels=max_voxels,
            rotate=rotate,
            scale=scale,
            learning_rate=learning_rate,
            momentum=momentum,
            weight_decay=weight_decay,
        )
        self.shrink, self.shrink_learning_rate = shrink, shrink_learning_rate
        self.statistics_scans = statistics_scans
        self.space = SearchSpace.of(width, fine_grained=fine_grained, decoder=decoder)
        self.supernet = SuperNetwork(
            self.space, self.classes, devox=devox, align=align, point_stem=point_stem, dropout=dropout
        )

    @property
    def tested(self) -> MinkUNet:
        return self.supernet.network

    def rate(self, progress: float) -> float:
        if not self.shrink:
            return cosine(progress)
        if progress < 0.5:
            return cosine(2 * progress)
        return self.shrink_learning_rate / self.learning_rate * cosine(2 * progress - 1)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        # By seed, place and replica, so that each replica and each accumulated batch has a candidate of its own.
        place = (torch.initial_seed() % 2**63, self.current_epoch, batch_idx, self.global_rank)
        depths = segment_depths(self.progress(), self.shrink)
        candidate = self.space.decode(self.space.sample(np.random.default_rng(place), depths))
        inputs = self.inputs(batch, augment=True)
        logits = self.supernet(inputs.features, inputs.points, candidate)
        return self.record(point_loss(logits, batch["label"][inputs.rows]), batch)

    def on_train_end(self) -> None:
        """Batch statistics of the largest network, which is tested; those of the training mix all candidates."""
        scans = list(training_scans(self, self.statistics_scans))
        reestimate_statistics(self.supernet.network, [(one.features, one.points) for one in scans])


class SPVNAS(PointVoxelMethod):
    """The searched network: search, extraction, training on, test (Sec. 4.3).

    mac_budget: most MACs of a scan, in 10^9. search: evolution, random with as many evaluations, or the widest uniform
    network within the budget. population, parents, mutation, generations: see `evolve`. statistics_scans: training
    scans for a candidate's batch statistics; cost_scans: for the kernel maps' mean size (None: all). Others, which
    the super network must have too, as there; learning_rate: of training the winner on.
    """

    name = "spvnas"
    paper = PAPER
    recipe = Recipe(
        batch_size=2,
        accumulate=8,
        max_epochs=10,
        validate_every=0,
        precision="16-mixed",
        data={"val_sequences": ["10"]},
    )
    profiles = {
        "mini": {
            "width": 0.25,
            "voxel_size": 0.2,
            "mac_budget": 0.25,
            "population": 8,
            "parents": 3,
            "generations": 4,
            "statistics_scans": 2,
            "learning_rate": 0.02,
            "batch_size": 1,
            "accumulate": 1,
            "max_epochs": 2,
            "precision": "32-true",
        },
        "smoke": {
            "width": 0.125,
            "voxel_size": 0.4,
            "mac_budget": 0.04,
            "population": 2,
            "parents": 1,
            "generations": 2,
            "statistics_scans": 2,
            "cost_scans": 2,
            "learning_rate": 0.01,
            "max_voxels": 1000,
            "batch_size": 2,
            "accumulate": 1,
            "max_epochs": 1,
            "max_steps": 2,
            "precision": "32-true",
        },
    }
    presets = {
        "random": {"search": "random"},
        "uniform": {"search": "uniform"},
        "small": {"mac_budget": 15.0},
        "no_shrink": {"shrink": False},
        "coarse": {"fine_grained": False},
        "no_decoder": {"decoder": False, "mac_budget": 8.9},
    }
    baselines = ("spvnas:random", "spvnas:uniform", "spvcnn", "spvcnn:minkunet", "pvcnn", "majority_points")
    claims = (
        Claim(
            method="spvnas",
            over="spvnas:random",
            measure="miou",
            reported="the best of 20 random generations is below the fourth generation's best (Fig. 7)",
        ),
        Claim(
            method="spvnas",
            over="spvnas:uniform",
            measure="miou",
            reported="62.9 at 25 GMACs against a uniform SPVCNN's 60.7 at 30 on sequence 08 (official code)",
        ),
    )
    genes: Tensor

    def __init__(
        self,
        spec: LidarSpec,
        *,
        mac_budget: float = 73.8,
        search: Literal["evolution", "random", "uniform"] = "evolution",
        population: int = 50,
        parents: int = 10,
        mutation: float = 0.1,
        generations: int = 20,
        statistics_scans: int = 16,
        cost_scans: int | None = None,
        width: float = 1.0,
        fine_grained: bool = True,
        decoder: bool = True,
        shrink: bool = True,
        devox: Mode = "trilinear",
        align: Align = "corner",
        point_stem: bool = False,
        dropout: float = 0.3,
        voxel_size: float = 0.05,
        unique_points: bool = False,
        max_voxels: int = 80_000,
        rotate: bool = True,
        scale: tuple[float, float] = (0.95, 1.05),
        learning_rate: float = 0.032,
        momentum: float = 0.9,
        weight_decay: float = 1e-4,
    ) -> None:
        super().__init__(
            spec,
            voxel_size=voxel_size,
            unique_points=unique_points,
            max_voxels=max_voxels,
            rotate=rotate,
            scale=scale,
            learning_rate=learning_rate,
            momentum=momentum,
            weight_decay=weight_decay,
        )
        if search not in ("evolution", "random", "uniform"):
            raise ValueError(f"search must be 'evolution', 'random' or 'uniform', not {search!r}")
        if min(population, parents, generations, statistics_scans) < 1 or mac_budget <= 0:
            raise ValueError(
                "population, parents, generations, statistics_scans and mac_budget must be positive"
            )
        self.mac_budget, self.search_by = mac_budget, search
        self.population, self.parents, self.mutation, self.generations = (
            population,
            parents,
            mutation,
            generations,
        )
        self.statistics_scans, self.cost_scans = statistics_scans, cost_scans
        self.space = SearchSpace.of(width, fine_grained=fine_grained, decoder=decoder)
        self.network_options = {"devox": devox, "align": align, "point_stem": point_stem, "dropout": dropout}
        start = self.space.uniform(1.0)
        self.register_buffer("genes", torch.tensor(start))
        self.network = self._network(start)
        self._supernet: list[SuperNetwork] = []  # in a list, so that its weights aren't this network's own
        self.search: Search | None = None
        self.searched_macs: dict[str, float] = {}
        self._searched_on: set[str] = set()
        self.register_load_state_dict_pre_hook(_as_searched)

    def _network(self, genes: Genes) -> SPVCNN:
        return SPVCNN(self.space.decode(genes), self.classes, **self.network_options)  # type: ignore[arg-type]

    @property
    def tested(self) -> MinkUNet:
        return self.network

    # The super network.

    @classmethod
    def needs(cls, options: Mapping[str, Any]) -> Sequence[Need]:
        """A super network of the same space and inputs."""
        shared = ("width", "fine_grained", "decoder", "shrink", "devox", "align", "point_stem", "dropout")
        shared += ("voxel_size", "unique_points", "max_voxels", "rotate", "scale")
        return (
            Need(
                role="supernet",
                method="spvnas_supernet",
                options={key: options[key] for key in shared if key in options},
            ),
        )

    def adopt(self, role: str, trained: Method) -> None:
        if role != "supernet" or not isinstance(trained, SPVNASSupernet):
            raise TypeError(
                f"spvnas needs a spvnas_supernet as 'supernet', not a {type(trained).__name__} as {role!r}"
            )
        if trained.space != self.space:
            raise ValueError(f"the super network's space is {trained.space}, not {self.space}")
        self._supernet = [trained.supernet]

    # The search.

    def on_fit_start(self) -> None:
        if not self._supernet:
            raise RuntimeError(
                "spvnas searches a trained super network; hand it one with adopt('supernet', trained)"
            )
        supernet = self._supernet.pop().to(self.device)
        batches = [(one.features, one.points) for one in training_scans(self, self.statistics_scans)]
        self.search = self._search(supernet, batches)
        self.genes = torch.tensor(self.search.genes, device=self.device)
        self.network = supernet.extract(self.space.decode(self.search.genes))
        reestimate_statistics(self.network, batches)
        self.network.train()
        self.trainer.strategy.setup_optimizers(self.trainer)  # of the extracted network

    @torch.no_grad()
    def _search(self, supernet: SuperNetwork, batches: Sequence[tuple[Tensor, PointSet]]) -> Search:
        """Search the super network within the budget, by mIoU on the validation split; batches: for statistics."""
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        costs = KernelStatistics.mean(
            [self.kernel_statistics(one, 1) for one in training_scans(self, self.cost_scans)]
        )
        held_out: list[tuple[Inputs, Tensor]] = []
        for batch in data.in_order("val"):
            batch = self.transfer_batch_to_device(batch, self.device, 0)
            self._searched_on.update(batch["id"])
            inputs = self.inputs(batch)
            held_out.append((inputs, batch["label"]))

        def cost(genes: Genes) -> dict[str, float]:
            return self.macs_of(self.space.decode(genes), costs, self.network)

        def fits(genes: Genes) -> bool:
            return sum(cost(genes).values()) <= self.mac_budget * 1e9

        def score(genes: Genes) -> float:
            candidate = supernet.extract(self.space.decode(genes))
            reestimate_statistics(candidate, batches)
            confusion = ClassConfusion(self.classes).to(self.device)
            for inputs, label in held_out:
                logits = candidate(inputs.features, inputs.points)
                confusion.update((logits.argmax(1) + 1)[inputs.answers], label)
            return float(confusion.compute().miou)

        chance = np.random.default_rng((torch.initial_seed() % 2**63, 1))
        sizes = {"population": self.population, "generations": self.generations}
        if self.search_by == "evolution":
            found = evolve(
                self.space, fits, score, chance, parents=self.parents, mutation=self.mutation, **sizes
            )
        elif self.search_by == "random":
            found = random_search(self.space, fits, score, chance, **sizes)
        else:
            genes = widest_uniform(self.space, fits)
            found = Search(genes, score(genes))
        self.searched_macs = cost(found.genes)
        return found

    # Training on, and test.

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        inputs = self.inputs(batch, augment=True)
        logits = self.network(inputs.features, inputs.points)
        return self.record(point_loss(logits, batch["label"][inputs.rows]), batch)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        both = self._searched_on.intersection(batch["id"])
        if both:
            raise ValueError(
                f"the search saw the test scans {sorted(both)}: hold training sequences out for it with "
                "data.val_sequences"
            )
        super().test_step(batch, batch_idx)

    def diagnostics(self) -> dict[str, float]:
        """Beside the network's: of the search, the winner's 10^9 MACs by the training scans' kernel maps, its inherited
        mIoU on the validation split, the best of the first and last generation, and the residual blocks kept."""
        numbers = super().diagnostics()
        numbers["blocks"] = float(sum(stage.depth for stage in self.network.architecture.stages))
        if self.search is not None:
            numbers |= {
                "searched_macs_g": sum(self.searched_macs.values()) / 1e9,
                "inherited_miou": self.search.score,
            }
            if self.search.generations:
                best = self.search.best()
                numbers |= {"first_generation": best[0], "last_generation": best[-1]}
        return numbers

    def figures(self) -> dict[str, np.ndarray]:
        """Beside Fig. 4, Fig. 7: the candidates' scores by generation."""
        pictures = super().figures()
        if self.search is not None and self.search.generations:
            pictures["search"] = _curve(self.search, self.search_by)
        return pictures


def _as_searched(method: SPVNAS, state: Mapping[str, Tensor], prefix: str, *_: Any) -> None:
    """Before weights are loaded, build the network that they are of."""
    genes = state.get(f"{prefix}genes")
    if (
        genes is not None
        and genes.shape == method.genes.shape
        and not torch.equal(genes, method.genes.to(genes))
    ):
        method.network = method._network(tuple(genes.tolist())).to(method.device).train(method.training)


def _curve(search: Search, name: str) -> np.ndarray:
    """Every candidate, and the best of each generation; uint8 [H, W, 3]."""
    figure = Figure(figsize=(8, 5), dpi=80, layout="constrained")
    axis = figure.add_subplot()
    for number, scores in enumerate(search.generations, start=1):
        axis.scatter([number] * len(scores), scores, s=14, c="tab:grey", linewidths=0)
    axis.plot(
        range(1, len(search.generations) + 1), search.best(), "o-", c="tab:red", label="best of a generation"
    )
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.set(xlabel="generation", ylabel="mIoU on the validation split (%)", title=f"Search by {name}")
    axis.legend()
    return picture(figure)
