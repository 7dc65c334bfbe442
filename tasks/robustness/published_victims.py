"""`published_victim`: the eleven ImageNet networks that Gao et al. (ECCV 2020, section 4.1) attack, from
weight files.

| name | network | input |
| --- | --- | --- |
| inc_v3, inc_v3_ens3, inc_v3_ens4 | Inception-v3, the latter two ensemble adversarially trained | 299, [-1, 1] |
| inc_v4 | Inception-v4 | 299, [-1, 1] |
| incres_v2, incres_v2_ens | Inception-ResNet-v2, the latter ensemble adversarially trained | 299, [-1, 1] |
| res152_v2 | pre-activation ResNet-152 | 299, [-1, 1] |
| dense161 | DenseNet-161 | 224, mean and std |
| res152_b | ResNet-152, PGD-trained ("baseline" of Xie et al., CVPR 2019) | 224, mean and std, BGR |
| res152_d | the same with a denoising block after each of the four stages | 224, mean and std, BGR |
| resnext_da | ResNeXt-101 32x8d with a denoising block after each residual block | 224, mean and std, BGR |

Weights lie in `weights_folder` as `<name>.safetensors`, `.pth` or `.pt`: a state dict (plain, or under
`state_dict` or `model`) with the parameter names of timm (Inceptions, `resnetv2_152`) and torchvision
(`densenet161`, `resnet152`, ResNeXt; denoising blocks as built here). Heads of 1001 classes, as TensorFlow's,
lose their first, the background. An Inception-v3 file with an auxiliary head brings it along; timm's other
Inceptions have none.

The FD blocks follow the published code: "Gaussian" non-local with a softmax in res152_d, the plain dot
product in resnext_da. Pictures come in [0, 1]; they are resized here, by nearest neighbours for the FD
networks and bilinearly for dense161.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from datamodules.specs import Spec
from tasks.base import Batch, Method, Paper, Prediction, Recipe
from tasks.recognition.image_classification import ImageClassification, classes_of
from tasks.robustness.adversarial_attack import weights_file
from tasks.robustness.victims_networks import Denoising

Name = Literal[
    "inc_v3", "inc_v4", "res152_v2", "incres_v2", "dense161",
    "inc_v3_ens3", "inc_v3_ens4", "incres_v2_ens", "resnext_da", "res152_b", "res152_d",
]  # fmt: skip
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def with_denoising(network: nn.Module, after: Literal["stages", "blocks"]) -> nn.Module:
    """A torchvision ResNet with non-local denoising blocks after each stage, or after each residual block."""
    for name in ("layer1", "layer2", "layer3", "layer4"):
        blocks = list(getattr(network, name))
        width = blocks[-1].conv3.out_channels
        if after == "stages":
            built: list[nn.Module] = [*blocks, Denoising(width, "non_local")]
        else:
            built = [part for block in blocks for part in (block, Denoising(width, "non_local", embed=False))]
        setattr(network, name, nn.Sequential(*built))
    return network


def timm_network(name: str) -> Callable[..., nn.Module]:
    def build(classes: int, **options: Any) -> nn.Module:
        import timm

        return timm.create_model(name, pretrained=False, num_classes=classes, **options)

    return build


def torchvision_network(
    name: str, after: Literal["stages", "blocks"] | None = None
) -> Callable[..., nn.Module]:
    def build(classes: int) -> nn.Module:
        import torchvision

        network = torchvision.models.get_model(name, weights=None, num_classes=classes)
        return with_denoising(network, after) if after else network

    return build


@dataclass(frozen=True)
class Plan:
    """How a network is built, and what it takes: side in pixels, mean and std of RGB, order of channels."""

    build: Callable[..., nn.Module]
    side: int = 299
    normalisation: tuple[tuple[float, ...], tuple[float, ...]] = HALF
    bgr: bool = False
    interpolation: Literal["nearest", "bilinear"] = "bilinear"
    auxiliary: bool = False


FD = {"side": 224, "normalisation": IMAGENET, "bgr": True, "interpolation": "nearest"}
PLANS: Mapping[str, Plan] = {
    "inc_v3": Plan(timm_network("inception_v3"), auxiliary=True),
    "inc_v4": Plan(timm_network("inception_v4")),
    "res152_v2": Plan(timm_network("resnetv2_152")),
    "incres_v2": Plan(timm_network("inception_resnet_v2")),
    "dense161": Plan(torchvision_network("densenet161"), side=224, normalisation=IMAGENET),
    "inc_v3_ens3": Plan(timm_network("inception_v3"), auxiliary=True),
    "inc_v3_ens4": Plan(timm_network("inception_v3"), auxiliary=True),
    "incres_v2_ens": Plan(timm_network("inception_resnet_v2")),
    "resnext_da": Plan(torchvision_network("resnext101_32x8d", "blocks"), **FD),  # type: ignore[arg-type]
    "res152_b": Plan(torchvision_network("resnet152"), **FD),  # type: ignore[arg-type]
    "res152_d": Plan(torchvision_network("resnet152", "stages"), **FD),  # type: ignore[arg-type]
}


def read_weights(path: Path) -> dict[str, Tensor]:
    """The state dict of a weights file; a `ValueError` names a file that holds none. Nothing is unpickled."""
    try:
        content = (
            load_file(path)
            if path.suffix == ".safetensors"
            else torch.load(path, map_location="cpu", weights_only=True)
        )
    except Exception as error:  # a damaged file may raise anything
        raise ValueError(f"{path}: no weights can be read ({error}); fetch this file again") from error
    for key in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not all(isinstance(v, Tensor) for v in content.values()):
        raise ValueError(f"{path}: expected a state dict of tensors, got {type(content).__name__}")
    return dict(content)


def without_background(weights: Mapping[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    """Weights whose heads have one class more than the network's lose their first row, the background."""
    wanted = network.state_dict()
    return {
        name: value[1:]
        if name in wanted
        and value.ndim > 0
        and value.shape[0] == wanted[name].shape[0] + 1
        and value.shape[1:] == wanted[name].shape[1:]
        else value
        for name, value in weights.items()
    }


class PublishedVictim(Method):
    """A published network, never trained here.

    network: its name. weights_folder: where its file lies; None: it has no weights until a checkpoint is
    loaded.
    """

    name = "published_victim"
    task = ImageClassification
    paper = Paper(
        title="Patch-Wise Attack for Fooling Deep Neural Network (the networks it attacks)",
        venue="ECCV 2020",
        url="https://doi.org/10.1007/978-3-030-58604-1_19",
    )
    recipe = Recipe(batch_size=10, max_steps=0, validate_every=0)
    profiles = {"mini": {}, "smoke": {}}
    presets = {name: {"network": name} for name in PLANS}

    def __init__(self, spec: Spec, *, network: Name = "inc_v3", weights_folder: str | None = None) -> None:
        super().__init__(spec)
        self.automatic_optimization = False
        self.plan, self.network_name = PLANS[network], network
        classes = len(classes_of(spec))
        path = weights_file(weights_folder, network)
        if weights_folder is not None and path is None:
            raise ValueError(
                f"{weights_folder} holds no {network}.safetensors, .pth or .pt; put the network's weights there"
            )
        weights = read_weights(path) if path else {}
        self.auxiliary = self.plan.auxiliary and any(name.startswith("AuxLogits.") for name in weights)
        self.network = self.plan.build(classes, **({"aux_logits": True} if self.auxiliary else {}))
        mean, std = self.plan.normalisation
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)
        self.loaded: Tensor
        self.register_buffer("loaded", torch.tensor(False))
        if path:
            try:
                self.network.load_state_dict(without_background(weights, self.network))
            except RuntimeError as error:
                raise ValueError(f"{path} does not fit {network} with {classes} classes: {error}") from None
            self.loaded.fill_(True)

    def prepared(self, image: Tensor) -> Tensor:
        """float [B, 3, H, W] RGB in [0, 1] -> what the network reads."""
        side = (self.plan.side, self.plan.side)
        if tuple(image.shape[-2:]) != side:
            smooth = {"align_corners": False} if self.plan.interpolation == "bilinear" else {}
            image = F.interpolate(image, side, mode=self.plan.interpolation, **smooth)
        image = (image - self.mean) / self.std
        return image.flip(1) if self.plan.bgr else image

    def logits_and_auxiliary(self, image: Tensor) -> tuple[Tensor, Tensor | None]:
        """Both heads' logits [B, C]; a `RuntimeError` where no weights were loaded."""
        if not bool(self.loaded):
            raise RuntimeError(
                f"{self.network_name} has no weights: set weights_folder to where "
                f"{self.network_name}.safetensors (.pth, .pt) lies"
            )
        answer = self.network(self.prepared(image))
        return answer if self.auxiliary else (answer, None)

    def logits(self, image: Tensor) -> Tensor:
        """float [B, 3, H, W] in [0, 1] -> [B, C]."""
        return self.logits_and_auxiliary(image)[0]

    def predict(self, batch: Batch) -> Prediction:
        return {"logits": self.logits(batch["image"])}

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """The published weights stay as they are."""

    def configure_optimizers(self) -> None:
        return None
