"""RRF-Net: Learning a Recurrent Residual Fusion Network for Multimodal Matching (Liu et al., ICCV 2017; thesis
chapter 5).

Two frozen vectors, of a picture and of a sentence, each go through four fully-connected layers to a unit
vector; cosine ranks. Against the plain network (`:baseline`) the third layer becomes a residual one that is
applied T + 1 times with tied weights and whose outputs are fused; and the loss also pushes negatives of the
same modality away (`:bidirectional` doesn't).

- Eqs. 5.1-5.6, the block and its fusions, and the network: `rrf_network.py`. The printed eq. 5.5 lacks
  brackets: the sum covers the skips too. T recurrent steps are T + 1 applications.
- Eqs. 5.7-5.10, the loss: `tasks/blocks/ranking_losses.py`. Eq. 5.7 is a distance; similarity is 1 minus
  it. "Top N most dissimilar" negatives means the hardest: literally the easiest, they would make the loss
  zero at once.
- The weights {alpha1, alpha2, beta1, beta2} = {1, 0.5, 2, 1}: in eq. 5.10 the betas multiply whole
  directions. The official code uses the four numbers as the weights of the four terms, image to text (1,
  0.5) and text to image (2, 1), and so does this by default; `weight_convention="thesis"` is the literal
  one, (2, 1) and (1, 0.5). Read literally, the bi-directional {1, 0, 2, 0} would leave text to image out;
  it is the four terms with the second and fourth at 0.
- Eq. 5.11, the ensemble: `RRFNetEnsemble`.
- Features: `tasks/blocks/frozen_features.py`. Training never runs the encoders.

From the official code, not in the text: batch normalisation of both inputs; BN and ReLU after a fusion
(with `fusion="none"` there is nothing to normalise); Gaussian weights of 0.05 and zero biases; biases at
twice the learning rate without decay (here those of the Linear and fusion layers; the shifts of batch
normalisation are no such biases); 6500 steps with a tenth of the rate every 2000 on Flickr30K, 16500 and
5500 on MSCOCO (`:long`). The text divides "when the decrease in loss stabilizes": `schedule="plateau"`,
with patience and threshold chosen here.

The official weights are Caffe models whose layer names the text doesn't give; there is no reader of them.
The encoders `vgg19`, `gmm_fv` and `mean_w2v` are presets; a profile that adopts a small trained image
encoder overrides the choice of the picture's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from datamodules.specs import CaptionsSpec
from tasks.base import Batch, Claim, Method, Need, Paper, Prediction, Recipe
from tasks.blocks.frozen_features import FrozenPairFeatures, ImageEncoder, TextEncoder
from tasks.blocks.ranking_losses import bi_rank_loss
from tasks.language.image_text_retrieval import ImageTextRetrieval, caption_owners, check_captions
from tasks.language.rrf_network import Block, Fusion, RRFNetwork

Loss = Literal["birank", "bidirectional"]
Convention = Literal["code", "thesis"]

PAPER = Paper(
    title="Learning a Recurrent Residual Fusion Network for Multimodal Matching",
    venue="ICCV 2017; thesis chapter 5",
    url="https://doi.org/10.1109/ICCV.2017.442",
    code="https://github.com/yuLiu24/RRF-Net",
)


def term_weights(loss: Loss, convention: Convention) -> tuple[float, float, float, float]:
    """(w1, w2, w3, w4) of the four hinges: image to text across and within, text to image across and within.

    >>> term_weights("birank", "code"), term_weights("birank", "thesis")
    ((1.0, 0.5, 2.0, 1.0), (2.0, 1.0, 1.0, 0.5))
    """
    if loss not in ("birank", "bidirectional") or convention not in ("code", "thesis"):
        raise ValueError(f"no weights of loss {loss!r} in convention {convention!r}")
    w1, w2, w3, w4 = (1.0, 0.5, 2.0, 1.0) if convention == "code" else (2.0, 1.0, 1.0, 0.5)
    return (w1, w2, w3, w4) if loss == "birank" else (w1, 0.0, w3, 0.0)


def numbered(names: Sequence[str]) -> Tensor:
    """A number for each name, equal for equal ones: int64 [B].

    >>> numbered(["b", "a", "b"])
    tensor([1, 0, 1])
    """
    return torch.from_numpy(np.unique(np.asarray(names), return_inverse=True)[1]).long()


class RRFNet(Method):
    """Image-text matching with recurrent residual fusion and the bi-rank loss.

    T: recurrent steps. fusion: of the T + 1 side outputs. block: `plain` is the baseline's FC3.
    widths: of FC1 to FC4. dropout: after FC1. init_std: of all Linear and fusion weights.
    loss, weight_convention: see `term_weights`. margin: m; negatives: N, the most a query has.
    image_encoder, text_encoder, image_weights, adopted_image_dim, word_dim, centres, text_pca: of
        `FrozenPairFeatures`.
    learning_rate, momentum, weight_decay: of SGD; biases have twice the rate and no decay.
    schedule: a tenth of the rate every `decay_every` steps, or where the loss of an epoch hasn't fallen by 1 % for
        `patience` epochs.
    """

    name = "rrfnet"
    task = ImageTextRetrieval
    paper = PAPER
    recipe = Recipe(batch_size=1500, max_steps=6500, validate_every=0)
    profiles = {
        "mini": {
            "widths": [256, 128, 128, 128],
            "negatives": 20,
            "image_encoder": "adopted",
            "word_dim": 50,
            "centres": 5,
            "text_pca": 128,
            "batch_size": 250,
            "learning_rate": 1.0,
            "gradient_clip": 0.3,
            "max_steps": 600,
            "decay_every": 250,
        },
        "smoke": {
            "widths": [32, 16, 16, 16],
            "negatives": 20,
            "image_encoder": "adopted",
            "word_dim": 50,
            "centres": 2,
            "text_pca": 32,
            "batch_size": 250,
            "max_steps": 5,
        },
    }
    presets = {
        "baseline": {"block": "plain"},
        "t1": {"T": 1},
        "t2": {"T": 2},
        "t4": {"T": 4},
        "no_fusion": {"fusion": "none"},
        "sum_fusion": {"fusion": "sum"},
        "bidirectional": {"loss": "bidirectional"},
        "baseline_bidirectional": {"block": "plain", "loss": "bidirectional"},
        "thesis": {"weight_convention": "thesis"},
        "plateau": {"schedule": "plateau"},
        "vgg19": {"image_encoder": "vgg19"},
        "gmm_fv": {"text_encoder": "gmm_fv"},
        "mean_w2v": {"text_encoder": "mean_w2v"},
        "long": {"max_steps": 16500, "decay_every": 5500},
    }
    baselines = ("rrfnet:baseline", "rrfnet:bidirectional", "cca", "chance_retrieval")
    claims = (
        Claim(
            method="rrfnet",
            over="rrfnet:baseline",
            measure="r1",
            reported="R@1 +2.6 image to text, +1.8 points text to image on Flickr30K (Table 5.1)",
        ),
        Claim(
            method="rrfnet",
            over="rrfnet:bidirectional",
            measure="r1",
            reported="R@1 +1.2 image to text, +1.3 points text to image on Flickr30K (Table 5.3)",
        ),
        Claim(
            method="rrfnet",
            over="rrfnet:no_fusion",
            measure="r1",
            reported="R@1 +1.8 image to text, +1.2 points text to image on Flickr30K (Table 5.2)",
        ),
    )

    def __init__(
        self,
        spec: CaptionsSpec,
        *,
        T: int = 3,
        fusion: Fusion = "conv",
        block: Block = "rrf",
        widths: tuple[int, int, int, int] = (2048, 512, 512, 512),
        dropout: float = 0.5,
        init_std: float = 0.05,
        loss: Loss = "birank",
        weight_convention: Convention = "code",
        margin: float = 0.1,
        negatives: int = 50,
        image_encoder: ImageEncoder = "resnet152",
        text_encoder: TextEncoder = "hglmm",
        image_weights: str | None = None,
        adopted_image_dim: int = 128,
        word_dim: int = 300,
        centres: int = 30,
        text_pca: int = 6000,
        learning_rate: float = 0.1,
        momentum: float = 0.9,
        weight_decay: float = 5e-4,
        schedule: Literal["steps", "plateau"] = "steps",
        decay_every: int = 2000,
        patience: int = 3,
    ) -> None:
        super().__init__(check_captions(spec))
        if negatives < 1 or margin < 0 or decay_every < 1:
            raise ValueError(
                f"negatives and decay_every must be positive and margin not negative, got {negatives}, "
                f"{decay_every} and {margin}"
            )
        self.features = FrozenPairFeatures(
            spec,
            image_encoder=image_encoder,
            text_encoder=text_encoder,
            image_weights=image_weights,
            adopted_image_dim=adopted_image_dim,
            word_dim=word_dim,
            centres=centres,
            text_pca=text_pca,
        )
        self.network = RRFNetwork(
            self.features.image_dim,
            self.features.text_dim,
            tuple(widths),  # type: ignore[arg-type]
            block=block,
            T=T,
            fusion=fusion,
            dropout=dropout,
            init_std=init_std,
        )
        self.loss_options: dict[str, Any] = {
            "margin": margin,
            "negatives": negatives,
            "weights": term_weights(loss, weight_convention),
        }
        self.learning_rate, self.momentum, self.weight_decay = learning_rate, momentum, weight_decay
        self.schedule, self.decay_every, self.patience = schedule, decay_every, patience

    @classmethod
    def needs(cls, options: Mapping[str, Any]) -> Sequence[Need]:
        return FrozenPairFeatures.needs(options["image_encoder"], options["text_encoder"])

    def adopt(self, role: str, trained: Method) -> None:
        self.features.adopt(role, trained)

    def on_fit_start(self) -> None:
        self.features.fit(self.trainer.datamodule)  # type: ignore[attr-defined]

    def on_test_start(self) -> None:
        if (data := getattr(self.trainer, "datamodule", None)) is not None:
            self.features.open_cache(data)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        owner = caption_owners(batch).to(self.device)
        image, text = self.network(self.features.images(batch)[owner], self.features.texts(batch))
        item = numbered(batch["image_id"]).to(self.device)[owner]
        loss = bi_rank_loss(image, text, item, **self.loss_options)
        self.log("train/loss", loss, on_step=False, on_epoch=True, batch_size=len(owner))
        return loss

    def configure_optimizers(self) -> Any:
        biases = [layer.bias for layer in self.network.weighted_layers() if layer.bias is not None]
        apart = {id(bias) for bias in biases}
        others = [weight for weight in self.network.parameters() if id(weight) not in apart]
        groups: list[dict[str, Any]] = [
            {"params": others},
            {"params": biases, "lr": 2 * self.learning_rate, "weight_decay": 0.0},
        ]
        optimizer = torch.optim.SGD(
            groups, lr=self.learning_rate, momentum=self.momentum, weight_decay=self.weight_decay
        )
        if self.schedule == "plateau":
            plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(
                optimizer, factor=0.1, patience=self.patience, threshold=0.01
            )
            return {
                "optimizer": optimizer,
                "lr_scheduler": {"scheduler": plateau, "monitor": "train/loss"},
            }
        steps = torch.optim.lr_scheduler.StepLR(optimizer, step_size=self.decay_every, gamma=0.1)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": steps, "interval": "step"}}

    def predict(self, batch: Batch) -> Prediction:
        image, text = self.network(self.features.images(batch), self.features.texts(batch))
        return {"image": image, "text": text, "owner": caption_owners(batch).to(self.device)}

    def diagnostics(self) -> dict[str, float]:
        """The learned fusion weights and bias of both branches."""
        numbers: dict[str, float] = {}
        for kind, branch in (("image", self.network.image), ("text", self.network.text)):
            fuse = getattr(branch.fc3, "fuse", None)
            if fuse is not None:
                weights = fuse.weight.detach().flatten().tolist()
                numbers |= {f"{kind}_fusion_weight_{step}": weight for step, weight in enumerate(weights)}
                numbers[f"{kind}_fusion_bias"] = float(fuse.bias.detach())
        return numbers


class RRFNetEnsemble(Method):
    """Networks with different T, trained apart; their similarity matrices are averaged (eq. 5.11).

    Each network's embeddings are unit vectors. Laid end to end and divided by sqrt(|M|) they are unit vectors
    again, and a dot product of two is the mean of the members' cosines. So the mean of the matrices needs no
    comparison of its own.

    members: M, the values of T. member: "rrfnet" or "rrfnet:preset", which settings the members share.
    """

    name = "rrfnet_ensemble"
    task = ImageTextRetrieval
    paper = PAPER
    recipe = Recipe(batch_size=1500, max_steps=0, validate_every=0)
    profiles = {"mini": {"batch_size": 250}, "smoke": {"batch_size": 250}}
    presets = {"two": {"members": [1, 3]}, "three": {"members": [1, 2, 3]}}
    baselines = ("rrfnet", "rrfnet_ensemble:three", "rrfnet_ensemble:two")
    claims = (
        Claim(
            method="rrfnet_ensemble",
            over="rrfnet",
            measure="r1",
            reported="R@1 +3.2 image to text, +2.2 points text to image on Flickr30K (Table 5.5)",
        ),
    )

    def __init__(
        self, spec: CaptionsSpec, *, members: tuple[int, ...] = (1, 2, 3, 4), member: str = "rrfnet"
    ) -> None:
        super().__init__(check_captions(spec))
        if not members or len(set(members)) != len(members):
            raise ValueError(f"members must be different values of T, got {members}")
        self.roles = [need.role for need in self.needs({"members": members, "member": member})]
        self.members = nn.ModuleDict()

    @classmethod
    def needs(cls, options: Mapping[str, Any]) -> Sequence[Need]:
        return [Need(role=f"t{T}", method=options["member"], options={"T": T}) for T in options["members"]]

    def adopt(self, role: str, trained: Method) -> None:
        if role not in self.roles:
            raise TypeError(f"{self.name} needs {', '.join(self.roles)}, no {role!r}")
        self.members[role] = trained.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> RRFNetEnsemble:
        """Stays in evaluation mode: the members have learnt."""
        return super().train(False)

    def on_test_start(self) -> None:
        if (data := getattr(self.trainer, "datamodule", None)) is not None:
            for member in self.members.values():
                member.features.open_cache(data)  # type: ignore[union-attr, operator]

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """There is nothing to learn."""

    def configure_optimizers(self) -> Any:
        return None

    def predict(self, batch: Batch) -> Prediction:
        if missing := [role for role in self.roles if role not in self.members]:
            raise RuntimeError(
                f"{self.name} has no {', '.join(missing)}: call adopt(role, trained) with trained rrfnet methods"
            )
        predictions = [self.members[role].predict(batch) for role in self.roles]  # type: ignore[operator]
        joined = {
            key: torch.cat([prediction[key] for prediction in predictions], dim=1) / len(predictions) ** 0.5
            for key in ("image", "text")
        }
        return {**joined, "owner": predictions[0]["owner"]}
