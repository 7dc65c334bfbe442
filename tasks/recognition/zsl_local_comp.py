"""Locality and compositionality in zero-shot learning (Sylvain, Petrini and Hjelm, ICLR 2020).

Zero-shot learning from scratch: nothing is trained on but the seen classes of the dataset itself. An encoder is
trained by one of several objectives and frozen, a prototypical network on class attributes is fitted to its features,
and unseen classes are told by their nearest prototype. What is new is CMDIM: Deep InfoMax whose positive local
features come from another picture of the same class, and local losses on an early layer.

- Sec. 4.4.1, objectives and local losses: `zsl_objectives.py`; appendix A.7: `tasks/blocks/mutual_information.py`.
- Tables A.2 and A.3, encoders: `zsl_encoders.py`.
- Sec. 4.4.2 (parts), 4.4.3 (Eq. 4.4.1, information maps), 4.4.4 (attribute vectors): `zsl_probes.py`; appendix A.6,
  clicks to places: `tasks/blocks/part_grids.py`; appendix A.8, TRE: `tasks/metrics/tree_reconstruction.py`.
- Sec. 4.5.3 and Fig. 4.6, classification of patches: `combine` and `pool`.

The paper leaves open and is chosen here:
- 200 epochs and 10,000 episodes of the head for all objectives, the last weights. `selection: best` with the
  dataset's `validation` selects on held-out seen classes: the head is fitted anew before each validation.
- DIM's score network: two layers of 2048 units with a shortcut and layer normalisation, dot products over sqrt(units)
  (see `PairScores`); bound `dv` as in appendix A.7, `jsd` (the default of DIM's code) and `nce` as options. AMDIM: 1024
  units, scores clipped softly at 20, 0.05 x mean squared score, third and last convolution as scales.
- CMDIM scores the global vector of x with local features of x+ in one direction; p is drawn for each picture.
- FC, CMDIM and the local losses share the picture's random crop; AMDIM's second view is another such crop, as the
  paper names no further augmentation.
- VAE: squared error summed over pixels, latent mean = the encoder's vector (which in `basic` ends in a ReLU), a second
  head on what the last layer reads for the log-variance; beta = 4. AAE: three layers, non-saturating loss.
- Local losses: 1 x 1 convolution, weight 1. Attributes count as present from half of the full strength on, unless
  the dataset publishes a binary matrix.
- Head: see `tasks/blocks/attribute_prototypes.py`. `pn` trains encoder and head together, on episodes of the classes
  of a batch, and keeps that head.
- `combine: repr` averages the last map's places, `pred` classifies each and averages probabilities, also in the
  head's training; the encoder is trained as ever.
- Part probes and MINE: Adam, on up to 8192 training pictures, centre crops. Test pictures' parts and attributes
  enter the measures alone.

No official code is known. The correlations of Figs. 4.2 and 4.5 over models are `correlation_of_measures`.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from datamodules.specs import ZeroShotSpec
from tasks.base import Batch, Claim, Method, Paper, Prediction, Recipe
from tasks.blocks.attribute_prototypes import AttributePrototypes, fit_prototypes, patch_log_probabilities
from tasks.blocks.mutual_information import Estimator
from tasks.blocks.part_grids import click_masks, project, receptive_field
from tasks.recognition.zero_shot import (
    ZeroShotClassification,
    attribute_draws,
    class_groups,
    semantic_vectors,
    zero_shot_of,
)
from tasks.recognition.zsl_encoders import LOCAL_LAYER, Encoder, EncoderName, Encoding, parameter_count
from tasks.recognition.zsl_objectives import (
    AdversarialAutoEncoder,
    Classifier,
    InfoMax,
    LocalClassifier,
    Losses,
    MultiscaleInfoMax,
    Negatives,
    ObjectiveName,
    VariationalAutoEncoder,
)
from tasks.recognition.zsl_presets import PRESETS, PROFILES
from tasks.recognition.zsl_probes import Gathered, Probes, information_figure, information_report

OBJECTIVES = ("fc", "vae", "beta_vae", "aae", "dim", "amdim", "cmdim", "pn")


class ZSLLocalComp(Method):
    """Encoder by one objective, frozen; prototypical network on attributes; probes of its features.

    objective: what the encoder is trained for. p: chance of a CMDIM positive to be of another picture of the class,
    else it is another crop of the same. negatives: CMDIM's. estimator: DIM's and CMDIM's bound. units, amdim_units:
    of the score networks. beta: of `beta_vae` (1 in `vae`).
    local_loss, local_weight: the auxiliary loss. encoder, width, first_stride: see `Encoder`.
    combine: represent a picture by the encoder's vector ("none"), by the mean of the last map's places ("repr"), or
    classify each place ("pred"). pool: that map after its pool, or before (`alex` only).
    learning_rate: of Adam. head_steps, head_rate, head_decay, head_space, ways, pictures: of the head's episodes.
    probe_images: training pictures for the probes. part_steps, part_rate; mine_steps, mine_rate, mine_units;
    tree_steps: how they are fitted. pairs: of test pictures for the parts ratio. click_side: of the square around a
    click in pixels.
    """

    name = "zsl_local_comp"
    task = ZeroShotClassification
    paper = Paper(
        title="Locality and Compositionality in Zero-Shot Learning",
        venue="ICLR 2020",
        url="https://openreview.net/forum?id=Hye_V0NKwr",
    )
    recipe = Recipe(batch_size=64, max_epochs=200, validate_every=0)
    profiles = PROFILES
    presets = PRESETS
    baselines = (
        "zsl_local_comp:dim",
        "zsl_local_comp:amdim",
        "zsl_local_comp:fc",
        "zsl_local_comp:vae",
        "zsl_local_comp:pn",
        "random_zero_shot",
    )
    claims = (
        Claim(
            method="zsl_local_comp",
            over="zsl_local_comp:dim",
            measure="accuracy",
            reported="CUB, AlexNet: 35.80 against 23.93 % (Table A.2)",
        ),
        Claim(
            method="zsl_local_comp",
            over="zsl_local_comp:amdim",
            measure="accuracy",
            reported="CUB, AlexNet: 35.80 against 24.34 % (Table A.2)",
        ),
        Claim(
            method="zsl_local_comp",
            over="zsl_local_comp:fc",
            measure="accuracy",
            reported="CUB, AlexNet: 35.80 against 30.47 % (Table A.2)",
        ),
        Claim(
            method="zsl_local_comp:dim",
            over="zsl_local_comp:vae",
            measure="accuracy",
            reported="CUB, AlexNet: 23.93 against 12.08 % (Table A.2)",
        ),
        Claim(
            method="zsl_local_comp:cmdim_ac",
            over="zsl_local_comp",
            measure="accuracy",
            reported="CUB, AlexNet: 40.11 against 35.80 % (Table A.2)",
        ),
        Claim(
            method="zsl_local_comp:dim_ac",
            over="zsl_local_comp:dim",
            measure="accuracy",
            reported="CUB, AlexNet: 33.35 against 23.93 % (Table A.2)",
        ),
        Claim(
            method="zsl_local_comp",
            over="zsl_local_comp:dim",
            measure="tre_ratio",
            reported="CUB, basic: .639 against .771; AlexNet .676 against .755 (Table A.1 of A.10)",
        ),
    )

    def __init__(
        self,
        spec: ZeroShotSpec,
        *,
        objective: ObjectiveName = "cmdim",
        p: float = 1.0,
        negatives: Negatives = "other_class",
        estimator: Estimator = "dv",
        units: int = 2048,
        amdim_units: int = 1024,
        beta: float = 4.0,
        local_loss: Literal["none", "ac", "lc"] = "none",
        local_weight: float = 1.0,
        encoder: EncoderName = "basic",
        width: float = 1.0,
        first_stride: Literal[1, 2] = 2,
        combine: Literal["none", "repr", "pred"] = "none",
        pool: bool = True,
        learning_rate: float = 1e-4,
        head_steps: int = 10_000,
        head_rate: float = 1e-4,
        head_decay: float = 1e-5,
        head_space: int = 1024,
        ways: int = 50,
        pictures: int = 10,
        probe_images: int = 8192,
        part_steps: int = 2000,
        part_rate: float = 1e-3,
        mine_steps: int = 2000,
        mine_rate: float = 1e-4,
        mine_units: int = 2048,
        tree_steps: int = 400,
        pairs: int = 20_000,
        click_side: float = 10.0,
    ) -> None:
        super().__init__(zero_shot_of(spec))
        self.facts = zero_shot_of(spec)
        if objective not in OBJECTIVES:
            raise ValueError(f"objective {objective!r} is none of {', '.join(OBJECTIVES)}")
        if combine not in ("none", "repr", "pred") or local_loss not in ("none", "ac", "lc"):
            raise ValueError(f"unknown combine {combine!r} or local_loss {local_loss!r}")
        if not 0 <= p <= 1:
            raise ValueError(f"p is a probability, not {p}")
        if not pool and encoder == "basic":
            raise ValueError("the basic encoder has no pool to leave out; pool=False is for encoder='alex'")
        if objective == "pn" and combine != "none":
            raise ValueError("pn trains its head on the encoder's vector: combine must be 'none'")
        self.objective, self.p, self.combine, self.pool = objective, p, combine, pool
        self.encoder = Encoder(
            encoder, spec.image_size, channels=spec.channels, width=width, first_stride=first_stride
        )
        self.model = self._model(beta, units, amdim_units, estimator, negatives)
        attributes = attribute_draws(self.facts)
        self.local_classifier = None
        if local_loss != "none":
            self.local_classifier = LocalClassifier(
                self.encoder.local_channels, local_loss, attributes[0], self.facts.seen
            )
        self.local_weight, self.learning_rate = local_weight, learning_rate
        length = self.encoder.length if combine == "none" else self.encoder.last_channels
        self.head = AttributePrototypes(length, semantic_vectors(self.facts), space=head_space)
        self.head_options = {
            "steps": head_steps,
            "learning_rate": head_rate,
            "weight_decay": head_decay,
            "ways": ways,
            "pictures": pictures,
        }
        self.probes = Probes(
            self.encoder.length,
            self.encoder.local_channels,
            len(self.facts.parts),
            attributes,
            representation=length,
            units=mine_units,
        )
        self.probe_images, self.pairs, self.click_side = probe_images, pairs, click_side
        self.probe_options = {
            "part_steps": part_steps,
            "part_rate": part_rate,
            "mine_steps": mine_steps,
            "mine_rate": mine_rate,
            "tree_steps": tree_steps,
        }
        self._probed = self._testing = False
        self._tested: list[dict[str, Tensor]] = []
        self._numbers: dict[str, float] = {}
        self._maps: np.ndarray | None = None

    def _model(
        self, beta: float, units: int, amdim_units: int, estimator: Estimator, negatives: Negatives
    ) -> nn.Module | None:
        """The objective's own networks; `pn` has none but the head."""
        match self.objective:
            case "fc":
                return Classifier(self.encoder, self.facts.seen)
            case "vae" | "beta_vae":
                return VariationalAutoEncoder(
                    self.encoder, self.spec.channels, beta=beta if self.objective == "beta_vae" else 1.0
                )
            case "aae":
                return AdversarialAutoEncoder(self.encoder, self.spec.channels)
            case "dim":
                return InfoMax(self.encoder, units=units, estimator=estimator, negatives="other_image")
            case "cmdim":
                return InfoMax(self.encoder, units=units, estimator=estimator, negatives=negatives)
            case "amdim":
                return MultiscaleInfoMax(self.encoder, units=amdim_units)
        return None

    # Stage 1: the encoder

    def match(self, batch: Batch) -> Tensor | None:
        """What each picture is matched with, [B, channels, H, W]: another crop of it, or with probability p a picture
        of its class; None for objectives that take pictures alone. A `KeyError` where the dataset doesn't serve it."""
        wanted = {"amdim": 0.0, "cmdim": self.p}.get(self.objective)
        if wanted is None:
            return None
        for key in ["view"] * (wanted < 1) + ["partner"] * (wanted > 0):
            if key not in batch:
                raise KeyError(
                    f"{self.objective} needs {key!r} in training batches: set the dataset's `pairs`"
                )
        if wanted in (0.0, 1.0):
            return batch["partner" if wanted else "view"]
        own = torch.rand(len(batch["image"]), device=batch["image"].device) >= wanted
        return torch.where(own[:, None, None, None], batch["view"], batch["partner"])

    def losses(self, batch: Batch) -> Losses:
        """The named parts of L = L_model + w L_local (Fig. A.1), weighted."""
        image, label, second = batch["image"], batch["label"], self.match(batch)
        first = self.encoder(image)
        if self.objective == "pn":
            present, truth = label.unique(return_inverse=True)
            losses = {"episode": F.cross_entropy(self.head(first.vector)[:, present], truth)}
        elif self.objective == "cmdim":
            losses = self.model(first, image, label, self.encoder.local(second))
        elif self.objective == "amdim":
            losses = self.model(first, image, label, self.encoder(second))
        else:
            losses = self.model(first, image, label)
        if self.local_classifier is not None:
            losses["local"] = self.local_weight * self.local_classifier(first.local, label)
        return losses

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        losses = self.losses(batch)
        loss = torch.stack(list(losses.values())).sum()
        for name, value in {"loss": loss, **losses}.items():
            self.log(f"train/{name}", value.detach(), batch_size=len(batch["id"]))
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        trained = [
            self.encoder,
            self.model,
            self.local_classifier,
            self.head if self.objective == "pn" else None,
        ]
        parameters = [weight for module in trained if module is not None for weight in module.parameters()]
        return torch.optim.Adam(parameters, lr=self.learning_rate)

    # Stage 2: the encoder is frozen, the prototypical network fitted to its features

    def patches(self, encoding: Encoding) -> Tensor:
        """The last map's places, [B, P, C]."""
        return (encoding.last if self.pool else encoding.unpooled).flatten(2).transpose(1, 2)

    def features(self, encoding: Encoding) -> Tensor:
        """What the head reads: [B, D], or for `combine="pred"` [B, P, D]."""
        if self.combine == "none":
            return encoding.vector
        places = self.patches(encoding)
        return places.mean(dim=1) if self.combine == "repr" else places

    def representation(self, encoding: Encoding) -> Tensor:
        """f(x), float32 [B, D]."""
        return (encoding.vector if self.combine == "none" else self.patches(encoding).mean(dim=1)).float()

    def part_grid(self, batch: Batch) -> Tensor | None:
        """Whether a part is in sight of each local feature, bool [B, P, h, w]; None without clicks."""
        if "clicks" not in batch or len(self.facts.parts) < 2:
            return None
        mask = click_masks(batch["clicks"], self.facts.image_size, self.click_side)
        return project(mask, self.encoder.windows(LOCAL_LAYER))

    @torch.no_grad()
    def _gather(self, *, for_probes: bool) -> Gathered:
        """One pass over the training pictures, centre crops, with the encoder in evaluation mode: labels and, for the
        probes, all that they are fitted to; else `representation` is what the head reads, and the rest is missing."""
        data, training = self.trainer.datamodule, self.encoder.training
        count = len(data.split("train"))
        chosen = torch.zeros(count, dtype=torch.bool)
        chosen[torch.randperm(count, generator=torch.Generator().manual_seed(0))[: self.probe_images]] = True
        rows: dict[str, list[Tensor]] = {
            name: [] for name in ("label", "features", "vector", "local", "parts")
        }
        self.encoder.eval()
        start = 0
        for batch in data.in_order("train"):
            batch = self.transfer_batch_to_device(batch, self.device, 0)
            encoding = self.encoder(batch["image"])
            some = chosen[start : start + len(batch["id"])]
            start += len(batch["id"])
            rows["label"].append(batch["label"].cpu())
            if not for_probes:
                rows["features"].append(self.features(encoding).half().cpu())
                continue
            rows["features"].append(self.representation(encoding).cpu())
            rows["vector"].append(encoding.vector.float().cpu()[some])
            rows["local"].append(encoding.local.half().cpu()[some])
            grid = self.part_grid(batch)
            if grid is not None:
                rows["parts"].append(grid.cpu()[some])
        self.encoder.train(training)
        joined = {name: torch.cat(values) if values else None for name, values in rows.items()}
        return Gathered(
            joined["features"], joined["label"], joined["vector"], joined["local"], joined["parts"]
        )

    def fit_head(self) -> None:
        """Fit the prototypical network anew to the frozen encoder; `pn` has its own already."""
        if self.objective == "pn" or self.trainer.datamodule is None:
            return
        with torch.inference_mode(False):
            gathered = self._gather(for_probes=False)
            self._numbers["head_loss"] = fit_prototypes(
                self.head,
                gathered.representation,
                gathered.label,
                generator=torch.Generator().manual_seed(0),
                per_patch=self.combine == "pred",
                **self.head_options,
            )

    def on_validation_start(self) -> None:
        if self.trainer.state.fn == "fit" and not self.trainer.sanity_checking:
            self.fit_head()

    def on_train_end(self) -> None:
        self.fit_head()

    # Stage 3: unseen classes

    def predict(self, batch: Batch) -> Prediction:
        """See the task; parts and representation once the probes are fitted, which a test with a datamodule does."""
        encoding = self.encoder(batch["image"])
        logits = self.head(self.features(encoding))
        if self.combine == "pred":
            logits = patch_log_probabilities(logits, list(class_groups(self.facts).values()))
        prediction = {"logits": logits}
        if not self._probed:
            return prediction
        grid = self.part_grid(batch)
        if grid is not None and self.probes.parts is not None:
            prediction |= {"parts": self.probes.parts(encoding.local).float(), "parts_truth": grid}
        prediction["representation"] = self.representation(encoding)
        prediction["attribute_vectors"] = self.probes.attribute_vectors
        if self._testing:
            kept = {
                "vector": encoding.vector.float(),
                "local": encoding.local.half(),
                "image": (batch["image"] * 255).round().to(torch.uint8),
                "label": batch["label"],
            }
            if grid is not None:
                kept["parts"] = grid
            self._tested.append({name: value.cpu() for name, value in kept.items()})
        return prediction

    def on_test_start(self) -> None:
        """Fit the probes to the training pictures; without a datamodule there are none."""
        self._tested, self._testing = [], True
        if self.trainer.datamodule is not None:
            with torch.inference_mode(False):
                self.probes.fit(self._gather(for_probes=True), **self.probe_options)
            self._probed = True

    def on_test_end(self) -> None:
        self._testing = False
        if not self._tested:
            return
        tested = {name: torch.cat([part[name] for part in self._tested]) for name in self._tested[0]}
        self._tested = []
        parts = tested.get("parts")
        semantics = semantic_vectors(self.facts)[tested["label"]]
        self._numbers |= information_report(
            self.probes,
            tested["vector"],
            tested["local"],
            parts,
            tested["image"],
            semantics,
            pairs=self.pairs,
        )
        if parts is not None:
            share = parts.float().mean(dim=(0, 2, 3))
            self._numbers["parts_f1_all_positive"] = float((2 * share / (1 + share)).mean())
        self._maps = information_figure(self.probes, tested)

    def diagnostics(self) -> dict[str, float]:
        """head_loss: of the head's last episodes. Of the last test: see `information_report`; parts_f1_all_positive:
        what answering yes everywhere would get (no everywhere: 0). parameters_encoder; receptive_field_local, _last and
        _unpooled: in pixels of the picture, of the third convolution and of the last map after and before its pool."""
        last = len(self.encoder.layers) - 1
        fields = {
            "local": self.encoder.windows(LOCAL_LAYER),
            "last": self.encoder.windows(last),
            "unpooled": self.encoder.windows(last, last_pool=False),
        }
        return {
            **{name: value for name, value in self._numbers.items() if np.isfinite(value)},
            "parameters_encoder": float(parameter_count(self.encoder)),
            **{f"receptive_field_{name}": float(receptive_field(way)[0]) for name, way in fields.items()},
        }

    def figures(self) -> dict[str, np.ndarray]:
        """information_maps: one picture's global vector over local features of others (Fig. 4.4)."""
        return {} if self._maps is None else {"relative_information": self._maps}
