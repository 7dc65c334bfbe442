"""The judge of attacks: victims it runs itself, families, white boxes, bounds; and the jury."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from datamodules.specs import ImageClassesSpec, PixelClassesSpec
from tasks.base import Method, Need
from tasks.recognition.image_classification import ImageClassification
from tasks.robustness.adversarial_attack import (
    ZOOS,
    AdversarialAttack,
    Attack,
    AttackJudge,
    jury_order,
    source_names,
    victim_need,
)

SPEC = ImageClassesSpec(dataset="rendered", classes=("dark", "bright"), image_size=(4, 4))


class Threshold(Method):
    """Says "bright" where the mean is above a threshold; counts the modes it is asked in."""

    name = "threshold"
    task = ImageClassification

    def __init__(self, spec: ImageClassesSpec, threshold: float = 0.5) -> None:
        super().__init__(spec)
        self.threshold = torch.nn.Parameter(torch.tensor(threshold))
        self.asked_in_training = 0

    def logits(self, image: Tensor) -> Tensor:
        self.asked_in_training += self.training
        margin = image.mean((1, 2, 3)) - self.threshold
        return torch.stack([-margin, margin], dim=1)

    def predict(self, batch: dict) -> dict:
        return {"logits": self.logits(batch["image"])}


class Brighten(Attack):
    """Adds the full bound to every pixel."""

    name = "brighten"

    def attack(self, models: object, image: Tensor, label: Tensor, generator: torch.Generator) -> Tensor:
        return (image + 16 / 255).clamp(0, 1)


def flat(*levels: int) -> Tensor:
    """Pictures of one grey level of 0..255 each."""
    return (torch.tensor(levels) / 255).view(-1, 1, 1, 1).expand(-1, 3, 4, 4).contiguous()


def a_batch() -> dict:
    # All are "dark"; a victim of threshold 128/255 reads the last one wrong when clean.
    return {
        "image": flat(100, 120, 125, 140),
        "label": torch.zeros(4, dtype=torch.int64),
        "id": ["a", "b", "c", "d"],
    }


def a_judge(**thresholds: float) -> AttackJudge:
    judge = AdversarialAttack.judge(SPEC)
    for role, level in thresholds.items():
        judge.adopt(role, Threshold(SPEC, level / 255))
    return judge


def test_scores_by_hand() -> None:
    judge, batch = a_judge(pgd=128, ens3=130, residual=150, plain=128), a_batch()
    assert judge.roles == ["plain", "residual", "ens3", "pgd"]
    white_box = torch.tensor([True, False, False, False])
    judge.update({"adversarial": batch["image"] + 16 / 255, "white_box": white_box}, batch)
    scores = judge.compute()
    # Attacked levels 116, 136, 141, 156: over 128 three, over 150 one, over 130 three.
    assert scores["success/plain"] == 75
    assert scores["success/residual"] == 25
    assert scores["success/ens3"] == 75
    # Of a feature-denoising victim the clean error of 25 is subtracted.
    assert scores["clean_error/pgd"] == 25
    assert scores["success/pgd"] == 50
    assert scores["success"] == pytest.approx((25 + 75 + 50) / 3)
    assert (scores["success_nt"], scores["success_eat"], scores["success_fd"]) == (25, 75, 50)
    assert scores["success_white_box"] == 75
    assert scores["success_quantised"] == scores["success"]
    # On pictures read right when clean: 1 of 4, 2 of 3 (ens3 and pgd).
    assert scores["success_clean_correct"] == pytest.approx(100 * (1 / 4 + 2 / 3 + 2 / 3) / 3)
    assert scores["max_noise"] == pytest.approx(16, abs=1e-3)
    assert scores["mean_noise"] == pytest.approx(16, abs=1e-3)
    assert scores["patchiness"] == 0
    assert set(scores) >= {measure.name for measure in AdversarialAttack.measures}
    judge.reset()
    judge.update({"adversarial": batch["image"], "white_box": white_box}, batch)
    assert judge.compute()["success_nt"] == 0


def test_rounded_pictures_are_judged_apart() -> None:
    judge, batch = a_judge(plain=128.2), a_batch()
    adversarial = batch["image"].clone()
    adversarial[2] = 128.3 / 255  # rounds to 128, below the threshold
    prediction = {"adversarial": adversarial, "white_box": torch.tensor([False])}
    judge.update(prediction, batch)
    scores = judge.compute()
    assert (scores["success"], scores["success_quantised"]) == (50, 25)
    assert "success_eat" not in scores


def test_victims_are_frozen_and_in_evaluation_mode() -> None:
    victim = Threshold(SPEC).train()
    judge = AdversarialAttack.judge(SPEC)
    judge.adopt("plain", victim)
    judge.update({"adversarial": a_batch()["image"], "white_box": torch.tensor([True])}, a_batch())
    assert victim.asked_in_training == 0
    assert not victim.threshold.requires_grad
    assert judge.compute()["success"] == judge.compute()["success_white_box"]


@pytest.mark.parametrize(
    ("noise", "message"),
    [
        (16.5, r"picture c is 16\.500/255 from the clean one"),
        (-16.1, r"picture c is 16\.100/255"),
        (float("nan"), r"picture c is nan/255"),
    ],
)
def test_noise_over_the_bound_is_refused(noise: float, message: str) -> None:
    judge, batch = a_judge(plain=128), a_batch()
    adversarial = batch["image"].clone()
    adversarial[2, 1, 3, 0] += noise / 255
    with pytest.raises(ValueError, match=message):
        judge.update({"adversarial": adversarial, "white_box": torch.tensor([True])}, batch)


def test_bad_predictions_are_refused() -> None:
    judge, batch = a_judge(plain=128), a_batch()
    dark = {"image": flat(3), "label": batch["label"][:1], "id": ["a"]}
    with pytest.raises(ValueError, match=r"outside of \[0, 1\]"):
        judge.update({"adversarial": flat(-5), "white_box": torch.tensor([True])}, dark)
    with pytest.raises(ValueError, match=r"adversarial must be \(4, 3, 4, 4\)"):
        judge.update({"adversarial": batch["image"][:2], "white_box": torch.tensor([True])}, batch)
    with pytest.raises(ValueError, match=r"white_box must be bool \[1\]"):
        judge.update({"adversarial": batch["image"], "white_box": torch.tensor([True, False])}, batch)
    with pytest.raises(RuntimeError, match="needs victims"):
        AdversarialAttack.judge(SPEC).update({"adversarial": batch["image"]}, batch)
    with pytest.raises(TypeError, match="ImageClassesSpec"):
        AdversarialAttack.judge(PixelClassesSpec(dataset="x", classes=("a",)))


def test_order_and_sources_of_the_zoos() -> None:
    assert jury_order({"b:x", "pgd", "a:x", "plain"}) == ["plain", "pgd", "a:x", "b:x"]
    assert source_names("nt1", "published") == ("inc_v3",)
    assert source_names("nt1", "miniature") == ("plain",)
    assert source_names("fd_ensemble", "published") == ("resnext_da", "res152_b", "res152_d")
    assert source_names("inc_v4+fd2", "published") == ("inc_v4", "res152_b")
    with pytest.raises(ValueError, match="'plain' is no victim of the published zoo"):
        source_names("plain", "published")


def test_jury_of_the_profiles(tmp_path: Path) -> None:
    small = AdversarialAttack.jury({}, "mini")
    assert [need.method for need in small] == [f"victim:{name}" for name in ZOOS["miniature"]]
    defended = AdversarialAttack.jury({"zoo": "miniature", "defences": ["some:thing"]}, "mini")
    assert defended[-1] == Need(role="some:thing", method="some:thing")
    with pytest.warns(UserWarning, match=r"victims_folder, which is not set are skipped: inc_v3, inc_v4"):
        assert AdversarialAttack.jury({}, "paper") == []
    (tmp_path / "inc_v4.pth").touch()
    (tmp_path / "res152_d.safetensors").touch()
    options = {"victims_folder": str(tmp_path)}
    with pytest.warns(UserWarning, match=r"are skipped: inc_v3, res152_v2"):
        found = AdversarialAttack.jury(options, "paper")
    # The same trial, whether the judge asks for it or an attack looks into it.
    assert found == [victim_need(name, "published", str(tmp_path)) for name in ("inc_v4", "res152_d")]


def test_an_attack_marks_its_sources_in_the_jurys_order() -> None:
    method = Brighten(SPEC, zoo="miniature", source="nt2")
    for role in ("pgd", "residual", "plain"):
        method.empanel(role, Threshold(SPEC))
    method.adopt("residual", Threshold(SPEC))
    batch = a_batch()
    method.test_step(batch, 0)
    assert method.predict(batch)["white_box"].tolist() == [False, True, False]
    scores = method.judge("test").compute()
    assert scores["success_white_box"] == scores["success/residual"]
    assert method.judge("test").figures()["victims"].shape == (22 * 3 + 52, 640, 3)


def test_drawing_shows_clean_adversarial_noise_and_patch_map() -> None:
    batch = {"image": flat(100, 50), "label": torch.tensor([0, 1]), "id": ["a", "b"]}
    adversarial = batch["image"].clone()
    adversarial[:, :, :2] += 8 / 255
    prediction = {"adversarial": adversarial, "white_box": torch.tensor([True])}
    first, _ = AdversarialAttack.draw(prediction, batch, SPEC)
    assert first.shape == (166, 4 * 144 + 15, 3)
    centres = [first[22 + 36, column * 149 + 72].tolist() for column in range(4)]
    # Grey 0.5 + 8 * 8 / 255 of the noise; 8 * 256 / 16 of the patch map.
    assert [centre[0] for centre in centres] == [100, 108, 192, 128]
    assert len(AdversarialAttack.draw(prediction, batch, SPEC, limit=1)) == 1
