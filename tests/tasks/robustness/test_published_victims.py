"""Published networks: sizes, what they read, weight files, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision.models.resnet import Bottleneck, ResNet

from datamodules.specs import ImageClassesSpec
from tasks.robustness import published_victims
from tasks.robustness.adversarial_attack import ZOOS
from tasks.robustness.patchwise_attack import PatchwiseAttack
from tasks.robustness.published_victims import (
    PLANS,
    Plan,
    PublishedVictim,
    read_weights,
    with_denoising,
    without_background,
)

SPEC = ImageClassesSpec(dataset="rendered", classes=("a", "b", "c"), image_size=(299, 299))


class Tiny(nn.Module):
    """Answers the mean of each channel, through a head."""

    def __init__(self, classes: int, aux_logits: bool = False) -> None:
        super().__init__()
        self.fc = nn.Linear(3, classes)
        if aux_logits:
            self.AuxLogits = nn.Linear(3, classes)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        mean = x.mean((2, 3))
        return (self.fc(mean), self.AuxLogits(mean)) if hasattr(self, "AuxLogits") else self.fc(mean)


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    plans = {
        "inc_v3": Plan(Tiny, auxiliary=True),
        "res152_d": Plan(Tiny, **published_victims.FD),
    }
    monkeypatch.setattr(published_victims, "PLANS", plans)


def test_a_plan_for_each_network_of_the_zoo() -> None:
    assert set(PLANS) == set(ZOOS["published"]) == set(PublishedVictim.presets)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("inc_v3", 23_834_568),
        ("inc_v4", 42_679_816),
        ("incres_v2", 55_843_464),
        ("res152_v2", 60_192_808),
        ("dense161", 28_681_000),
        ("res152_b", 60_192_808),
        # Four blocks more: two embeddings c -> c/2 with bias, a 1x1 convolution and a normalisation.
        (
            "res152_d",
            60_192_808 + sum(2 * (c * c // 2 + c // 2) + c * c + 2 * c for c in (256, 512, 1024, 2048)),
        ),
        # ResNeXt-101 32x8d, and c -> c with a normalisation after each of 3, 4, 23, 3 blocks.
        (
            "resnext_da",
            88_791_336 + sum(n * (c * c + 2 * c) for n, c in ((3, 256), (4, 512), (23, 1024), (3, 2048))),
        ),
    ],
)
def test_sizes_are_those_of_the_networks(name: str, parameters: int) -> None:
    """Counts as torchvision and timm state them for 1000 classes."""
    with torch.device("meta"):
        network = PLANS[name].build(1000)
    # timm's pre-activation ResNet keeps the last normalisation, torchvision's v1 one a block.
    slack = 40_000 if name == "res152_v2" else 0
    assert abs(sum(p.numel() for p in network.parameters()) - parameters) <= slack


def test_denoising_blocks_start_as_the_identity() -> None:
    plain, denoised = (ResNet(Bottleneck, [1, 2, 1, 1], num_classes=3).eval() for _ in range(2))
    moved = dict(plain.state_dict())
    with_denoising(denoised, "stages")
    missing, unexpected = denoised.load_state_dict(moved, strict=False)
    assert not unexpected
    assert all(name.split(".")[2] in ("theta", "phi", "mix", "norm") for name in missing)
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(denoised(image), plain(image))


@pytest.mark.usefixtures("tiny")
def test_what_the_networks_read(tmp_path: Path) -> None:
    save_file(Tiny(3).state_dict(), tmp_path / "inc_v3.safetensors")
    image = torch.rand(2, 3, 299, 299)
    inception = PublishedVictim(SPEC, network="inc_v3", weights_folder=str(tmp_path))
    torch.testing.assert_close(inception.prepared(image), 2 * image - 1)
    save_file(Tiny(3).state_dict(), tmp_path / "res152_d.safetensors")
    robust = PublishedVictim(SPEC, network="res152_d", weights_folder=str(tmp_path))
    read = robust.prepared(image)
    assert read.shape == (2, 3, 224, 224)
    # Blue first, nearest neighbour, and its mean and spread.
    column = 299 * 5 // 224
    torch.testing.assert_close(read[:, 0, 5, 5], (image[:, 2, column, column] - 0.406) / 0.225)
    assert robust.logits(image).shape == (2, 3)


@pytest.mark.usefixtures("tiny")
def test_auxiliary_head_and_background_of_a_weights_file(tmp_path: Path) -> None:
    full = Tiny(4, aux_logits=True)
    torch.save({"state_dict": full.state_dict()}, tmp_path / "inc_v3.pth")
    victim = PublishedVictim(SPEC, network="inc_v3", weights_folder=str(tmp_path))
    image = torch.rand(2, 3, 299, 299)
    main, auxiliary = victim.logits_and_auxiliary(image)
    expected = full(2 * image - 1)
    torch.testing.assert_close(main, expected[0][:, 1:])
    torch.testing.assert_close(auxiliary, expected[1][:, 1:])
    torch.testing.assert_close(victim.logits(image), main)


@pytest.mark.usefixtures("tiny")
def test_weights_that_are_missing_or_damaged(tmp_path: Path) -> None:
    blank = PublishedVictim(SPEC, network="inc_v3")
    with pytest.raises(RuntimeError, match="inc_v3 has no weights: set weights_folder"):
        blank.logits(torch.rand(1, 3, 299, 299))
    with pytest.raises(ValueError, match=r"holds no inc_v3\.safetensors"):
        PublishedVictim(SPEC, network="inc_v3", weights_folder=str(tmp_path))
    # A checkpoint brings the weights as well.
    save_file(Tiny(3).state_dict(), tmp_path / "inc_v3.safetensors")
    loaded = PublishedVictim(SPEC, network="inc_v3", weights_folder=str(tmp_path))
    blank.load_state_dict(loaded.state_dict())
    assert blank.logits(torch.rand(1, 3, 299, 299)).shape == (1, 3)
    (tmp_path / "inc_v3.safetensors").write_bytes(b"no weights")
    with pytest.raises(ValueError, match=r"inc_v3\.safetensors: no weights can be read"):
        PublishedVictim(SPEC, network="inc_v3", weights_folder=str(tmp_path))
    save_file(Tiny(9).state_dict(), tmp_path / "inc_v3.safetensors")
    with pytest.raises(ValueError, match="does not fit inc_v3 with 3 classes"):
        PublishedVictim(SPEC, network="inc_v3", weights_folder=str(tmp_path))


class Intruder:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("unpickled",)


def test_nothing_is_unpickled(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"fc.weight": Intruder()}, tmp_path / "x.pth")
    with pytest.raises(ValueError, match="no weights can be read"):
        read_weights(tmp_path / "x.pth")
    assert "unpickled" not in capsys.readouterr().out
    torch.save({"fc.weight": 3}, tmp_path / "y.pth")
    with pytest.raises(ValueError, match="expected a state dict of tensors"):
        read_weights(tmp_path / "y.pth")


def test_only_heads_lose_the_background() -> None:
    weights = {
        "fc.weight": torch.arange(12.0).view(4, 3),
        "fc.bias": torch.arange(4.0),
        "other": torch.rand(4),
    }
    found = without_background(weights, Tiny(3))
    assert found["fc.bias"].tolist() == [1, 2, 3]
    assert found["fc.weight"][0].tolist() == [3, 4, 5]
    assert torch.equal(found["other"], weights["other"])
    assert without_background(found, Tiny(3))["fc.bias"].tolist() == [1, 2, 3]


def test_the_papers_attack_on_the_papers_network() -> None:
    """Inception-v3 at 299 pixels, ten steps cut down to one; random weights have gradients as well."""
    victim = PublishedVictim(SPEC, network="inc_v3")
    victim.loaded.fill_(True)
    attack = PatchwiseAttack(SPEC, **{**PatchwiseAttack.profile("paper"), "steps": 1})
    attack.adopt("inc_v3", victim)
    assert attack.parameters_used.kernel_size == 3
    image = torch.full((1, 3, 299, 299), 100 / 255)
    batch = {"image": image, "label": torch.tensor([1]), "id": ["grey"]}
    noise = (attack.predict(batch)["adversarial"] - image) * 255
    assert 15.9 < noise.abs().max() <= 16 + 1e-3
    assert 0.2 < (noise > 0).float().mean() < 0.8
