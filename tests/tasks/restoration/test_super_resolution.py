"""The task super-resolution: its judge by hand, its juror, its drawing."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from datamodules.specs import ImageClassesSpec, Spec, SuperResolutionSpec
from tasks.base import Method
from tasks.recognition.image_classification import ImageClassification
from tasks.restoration.super_resolution import (
    SuperResolution,
    corrupted_mass,
    identity_needs,
    weight_entropy,
)

SPEC = SuperResolutionSpec(dataset="test", image_size=(16, 16), factor=4, exemplars=2)
PLAIN = SuperResolutionSpec(dataset="plain", image_size=(0, 0), factor=2)


class Colours(Method):
    """Compares faces by their mean colour."""

    name = "colours"
    task = ImageClassification

    def features(self, batch: dict) -> Tensor:
        return batch["image"].mean(dim=(2, 3))

    def predict(self, batch: dict) -> dict:
        return {"logits": self.features(batch)}


def batch_of(count: int = 2, m: int = 2) -> dict:
    generator = torch.Generator().manual_seed(0)
    return {
        "low": torch.rand(count, 3, 4, 4, generator=generator),
        "high": torch.rand(count, 3, 16, 16, generator=generator),
        "exemplars": torch.rand(count, m, 3, 16, 16, generator=generator),
        "id": [str(index) for index in range(count)],
    }


def test_entropy_and_mass_by_hand() -> None:
    weights = torch.tensor([[0.5, 0.25], [0.5, 0.75]]).view(1, 2, 1, 2)
    quarter = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75)) / math.log(2)
    assert weight_entropy(weights).tolist() == [pytest.approx((1 + quarter) / 2)]
    corrupted = torch.zeros(2, 2, 4, 8, dtype=torch.bool)
    corrupted[0, 0, :, 4:] = True  # the right half of exemplar 0, where it weighs 1/4
    both = corrupted_mass(weights.expand(2, -1, -1, -1), corrupted)
    assert both.tolist() == [0.5]  # 1/4 over 1/2; the second picture has no such pixel


def test_judge_over_uneven_batches() -> None:
    judge = SuperResolution.judge(SPEC)
    batch = batch_of(3)
    noisy = batch["high"].clone()
    noisy[2] = (noisy[2] + 0.1).clamp(0, 1)
    expected = -10 * math.log10(float((noisy[2] - batch["high"][2]).double().square().mean()))
    for part in (slice(0, 2), slice(2, 3)):
        some = {key: value[part] for key, value in batch.items()}
        judge.update({"image": noisy[part]}, some)
    scores = judge.compute()
    assert set(scores) == {"psnr", "ssim"}
    assert scores["psnr"] == pytest.approx((100 + 100 + expected) / 3, rel=1e-5)
    judge.reset()
    judge.update({"image": batch["high"]}, batch)
    assert judge.compute() == {"psnr": 100.0, "ssim": pytest.approx(1.0)}


def test_identity_measures_come_with_a_juror() -> None:
    judge = SuperResolution.judge(SPEC)
    juror = Colours(ImageClassesSpec(dataset="faces", classes=("a",), image_size=(16, 16)))
    judge.adopt("identity", juror)
    batch = batch_of(1)
    batch["high"] = torch.tensor([1.0, 0, 0]).view(1, 3, 1, 1).expand(1, 3, 16, 16)
    batch["exemplars"] = torch.tensor([[1.0, 0, 0], [0, 1.0, 0]]).view(1, 2, 3, 1, 1).expand(1, 2, 3, 16, 16)
    green = torch.tensor([0, 1.0, 0]).view(1, 3, 1, 1).expand(1, 3, 16, 16)
    judge.update({"image": green}, batch)
    scores = judge.compute()
    assert scores["identity"] == pytest.approx(0.0)
    assert scores["exemplar_identity"] == pytest.approx(0.5**0.5)
    with pytest.raises(TypeError, match="no 'victim'"):
        judge.adopt("victim", juror)


def test_weights_are_judged_where_a_method_has_them() -> None:
    judge = SuperResolution.judge(SPEC)
    batch = batch_of(2)
    batch["corrupted"] = torch.zeros(2, 2, 16, 16, dtype=torch.bool)
    batch["corrupted"][0, 0] = True
    judge.update({"image": batch["high"], "weights": torch.full((2, 2, 8, 8), 0.5)}, batch)
    scores = judge.compute()
    assert scores["weight_entropy"] == pytest.approx(1.0)
    assert scores["corrupted_mass"] == pytest.approx(1.0)
    with pytest.raises(ValueError, match=r"weights must be \[2, 2"):
        judge.update({"image": batch["high"], "weights": torch.ones(2, 3, 8, 8)}, batch)


def test_plain_datasets_are_also_judged_on_luma_without_the_border() -> None:
    judge = SuperResolution.judge(PLAIN)
    batch = batch_of(1, 0)
    wrong = batch["high"].clone()
    wrong[..., :2, :] = 0  # only the border that is shaved
    judge.update({"image": wrong}, batch)
    scores = judge.compute()
    assert scores["psnr_y"] == 100.0
    assert scores["psnr"] < 20
    assert "identity" not in scores


def test_jury_follows_the_datas_option() -> None:
    (need,) = SuperResolution.jury({"data.identities": "people"}, "mini")
    assert (need.role, need.method, need.dataset) == ("identity", "face_classifier", "people")
    assert SuperResolution.jury({"data.identities": ""}, "mini") == SuperResolution.jury({}, "mini") == ()
    assert identity_needs({"data.identities": "people"}) == (need,)


def test_wrong_shapes_and_specs_are_refused() -> None:
    with pytest.raises(ValueError, match=r"image must be \[2, 3, 16, 16\]"):
        SuperResolution.judge(SPEC).update({"image": torch.zeros(2, 3, 8, 8)}, batch_of())
    with pytest.raises(TypeError, match="SuperResolutionSpec"):
        SuperResolution.judge(Spec(dataset="points"))


def test_drawings_show_given_true_restored_and_exemplars() -> None:
    batch = batch_of(3)
    drawn = SuperResolution.draw({"image": batch["high"]}, batch, SPEC, limit=2)
    assert [picture.shape for picture in drawn] == [(178, 5 * 160, 3)] * 2
    assert all(picture.dtype == np.uint8 for picture in drawn)
    np.testing.assert_array_equal(drawn[0][:160, 160:320], drawn[0][:160, 320:480])  # true and restored
