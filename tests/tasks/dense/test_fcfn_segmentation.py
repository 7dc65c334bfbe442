from __future__ import annotations

import math
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from torch.nn import functional as F

from datamodules.dense.pascal_voc import PascalVOC
from datamodules.specs import PixelClassesSpec
from tasks.blocks.side_outputs import bilinear_kernel
from tasks.dense.fcfn_segmentation import FCFNSegmentation, Fusion, paste, pixel_loss, upsample

VOC21 = PixelClassesSpec(dataset="none", classes=tuple(f"class{i}" for i in range(21)))
THREE = PixelClassesSpec(dataset="none", classes=("a", "b", "c"))
TINY = {"canvas": 64, "width": 1 / 32}


def parameters(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


# Loss, fusion, up-sampling, canvas


def test_loss_by_hand() -> None:
    # Logits (ln 3, 0) give the first class 3/4: the loss is -ln 3/4 where it is true and -ln 1/4 elsewhere.
    logits = torch.tensor([math.log(3), 0.0]).view(1, 2, 1, 1).expand(1, 2, 1, 3)
    mask = torch.tensor([[[0, 1, 255]]])
    total = math.log(4 / 3) + math.log(4)
    assert pixel_loss(logits, mask, 255, "sum").item() == pytest.approx(total)
    assert pixel_loss(logits, mask, 255).item() == pytest.approx(total / 2)
    twice = logits.repeat(2, 1, 1, 1), mask.repeat(2, 1, 1)
    assert pixel_loss(*twice, 255, "sum").item() == pytest.approx(total), (
        "summed a picture, mean over pictures"
    )
    assert pixel_loss(logits, torch.full((1, 1, 3), 255), 255).item() == 0


def test_fusion_has_a_weight_for_every_class_and_pixel() -> None:
    fusion = Fusion("lc", 3, 4, 0.5, 0.0, "relu")
    assert parameters(fusion) == 2 * 4 * 4 * 3 + 4 * 4 * 3
    coarse, fine = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    assert fusion(coarse, fine).allclose(F.relu(0.5 * coarse + 0.5 * fine))
    with torch.no_grad():
        fusion.lc.weight.normal_()
        fusion.lc.bias.normal_()
    fused, (first, second), bias = fusion(coarse, fine).detach(), fusion.lc.weight.detach(), fusion.lc.bias
    for sample in range(2):
        for k in range(3):
            for i in range(4):
                for j in range(4):
                    value = first[k, i, j] * coarse[sample, k, i, j] + second[k, i, j] * fine[sample, k, i, j]
                    expected = max(float(value + bias[k, i, j].detach()), 0.0)
                    assert float(fused[sample, k, i, j]) == pytest.approx(expected, abs=1e-5)
    # Eq. 2.7 is no convolution: moving the input doesn't move the output.
    assert not fusion(coarse.roll(1, -1), fine.roll(1, -1)).allclose(fused.roll(1, -1))


def test_lc_fusion_starts_at_the_sum_where_asked() -> None:
    coarse, fine = torch.randn(1, 3, 4, 4), torch.randn(1, 3, 4, 4)
    plain = Fusion("sum", 3, 4, 0.5, 0.0, "relu")
    assert parameters(plain) == 0
    assert Fusion("lc", 3, 4, 1.0, 0.0, "none")(coarse, fine).allclose(plain(coarse, fine))


@pytest.mark.parametrize("factor", [2, 8])
def test_upsampling_is_the_bilinear_transposed_convolution(factor: int) -> None:
    scores = torch.randn(2, 3, 6, 5)
    kernel = bilinear_kernel(factor)[None, None].expand(3, 1, -1, -1)
    assert kernel.shape[-1] == 2 * factor, "4x4 and 16x16"
    reference = F.conv_transpose2d(scores, kernel, stride=factor, padding=factor // 2, groups=3)
    ours = upsample(scores, factor)
    assert ours.shape == reference.shape == (2, 3, 6 * factor, 5 * factor)
    inside = slice(factor // 2, -factor // 2)
    assert ours[..., inside, inside].allclose(reference[..., inside, inside], atol=1e-5)
    assert upsample(torch.ones(1, 1, 3, 3), factor).allclose(torch.ones(1, 1, 3 * factor, 3 * factor))


def test_canvas() -> None:
    images = torch.rand(1, 3, 5, 7)
    pasted = paste(images, 32)
    assert pasted.shape == (1, 3, 32, 32)
    assert torch.equal(pasted[..., :5, :7], images)
    assert pasted.sum() == pytest.approx(float(images.sum()), rel=1e-5)
    with pytest.raises(ValueError, match="33x7 does not fit the canvas of 32x32"):
        paste(torch.rand(1, 3, 33, 7), 32)
    with pytest.raises(ValueError, match="multiple of 32"):
        FCFNSegmentation(THREE, canvas=100)


# The network


def test_sizes_of_the_paper() -> None:
    with torch.device("meta"):
        fcfn, fcn8s = FCFNSegmentation(VOC21), FCFNSegmentation(VOC21, **FCFNSegmentation.presets["fcn8s"])
    # VGG-16's thirteen convolutions, fc6, fc7, and scores of 4096, 512 and 256 channels for 21 classes.
    vgg = 14_714_688 + (7 * 7 * 512 + 1) * 4096 + (4096 + 1) * 4096
    assert parameters(fcn8s) == vgg + 21 * (4096 + 512 + 256 + 3) == 134_362_751
    for stage, grid in ((fcfn.network.stage1, 32), (fcfn.network.stage2, 64)):
        assert stage.lc.weight.numel() == 2 * grid * grid * 21
        assert stage.lc.bias.numel() == grid * grid * 21
        assert (stage.lc.weight.shape[0], *stage.lc.element_shape) == (2, 21, grid, grid)
    assert parameters(fcfn) - parameters(fcn8s) == 3 * 21 * (32**2 + 64**2)
    assert fcfn.network.score_pool4.in_channels == 512
    assert fcfn.network.score_pool3.in_channels == 256
    assert fcfn.network.dropout.p == 0.5


@pytest.mark.slow
def test_paper_profile_takes_a_step() -> None:
    torch.manual_seed(0)
    method = FCFNSegmentation(VOC21, **FCFNSegmentation.profile("paper"))
    optimizer = method.configure_optimizers()
    group = optimizer.param_groups[0]
    assert (group["lr"], group["momentum"], group["weight_decay"]) == (1e-4, 0.9, 1e-4)
    assert (method.recipe.batch_size, method.recipe.max_steps) == (1, 100_000)
    method.log = method.log_dict = lambda *_, **__: None
    mask = torch.randint(0, 21, (1, 375, 500))
    loss = method.training_step({"image": torch.rand(1, 3, 375, 500), "mask": mask}, 0)
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in method.parameters())
    optimizer.step()


def test_every_part_gets_a_gradient_and_a_picture_its_own_size() -> None:
    torch.manual_seed(0)
    method = FCFNSegmentation(THREE, **TINY)
    method.log = method.log_dict = lambda *_, **__: None
    batch = {"image": torch.rand(2, 3, 40, 60), "mask": torch.randint(0, 3, (2, 40, 60))}
    method.training_step(batch, 0).backward()
    for name, parameter in method.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name
    # Weights of cells wholly beyond the picture are never touched: 60 of 64 columns are used, 40 of 64 rows.
    assert (method.network.stage2.lc.weight.grad[..., 6:, :] == 0).all()
    method.eval()
    with torch.no_grad():
        assert method.predict(batch)["logits"].shape == (2, 3, 40, 60)


def test_padding_is_neither_seen_nor_scored() -> None:
    method = FCFNSegmentation(THREE, **TINY).eval()
    image = torch.rand(1, 3, 64, 64)
    mean = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1).expand(1, 3, 64, 64).clone()
    mean[..., :40, :64] = image[..., :40, :64]
    with torch.no_grad():
        cut = method(image[..., :40, :64])
        pasted = method(mean)
    assert cut.allclose(pasted[..., :40, :64], atol=1e-5), "beyond the picture lies the mean colour"


def test_batch_statistics_do_not_see_pad_pixels() -> None:
    method = FCFNSegmentation(THREE, **TINY, batch_norm=True)
    with pytest.raises(ValueError, match="count pad pixels"):
        method(torch.rand(2, 3, 40, 64))
    method.eval()
    assert method(torch.rand(2, 3, 40, 64)).shape == (2, 3, 40, 64)


def test_relu_needs_its_bias() -> None:
    """With biases of 0 the ReLU cuts half of the logits at the start; with those of `lc_bias` none."""
    torch.manual_seed(0)
    image = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        dead = (FCFNSegmentation(THREE, **TINY, lc_bias=0.0).eval()(image) == 0).float().mean()
        open_ = (FCFNSegmentation(THREE, **TINY).eval()(image) == 0).float().mean()
    assert dead > 0.2
    assert open_ == 0
    linear = FCFNSegmentation(THREE, **TINY, lc_act="none", lc_bias=0.0).eval()
    assert (linear(image) < 0).any()


def test_vgg_weights_become_fc6_and_fc7(tmp_path: Path) -> None:
    method = FCFNSegmentation(THREE, **TINY)
    network, trunk = method.network, method.network.trunk
    state = {}
    for layer in trunk.convolutions:
        convolution = trunk.convolutions[layer]
        state[f"{layer}.weight"] = torch.randn_like(convolution.weight)
        state[f"{layer}.bias"] = torch.randn_like(convolution.bias)
    flat = torch.randn(network.fc6.out_channels, network.fc6.in_channels * 49)
    state |= {"classifier.0.weight": flat, "classifier.0.bias": torch.randn(flat.shape[0])}
    state |= {"classifier.3.weight": torch.randn(flat.shape[0], flat.shape[0])}
    state |= {"classifier.3.bias": torch.randn(flat.shape[0])}
    path = tmp_path / "vgg.pth"
    torch.save(state, path)
    loaded = FCFNSegmentation(THREE, **TINY, weights=str(path)).network
    assert torch.equal(loaded.trunk.convolutions["conv4_2"].weight, state["conv4_2.weight"])
    assert torch.equal(loaded.fc6.bias, state["classifier.0.bias"])
    # A 7x7 map through fc6 is the fully connected layer on its flattened values (channel, row, column).
    features = torch.randn(1, loaded.fc6.in_channels, 7, 7)
    centre = loaded.fc6(features)[0, :, 3, 3]
    assert centre.allclose(flat @ features.flatten() + state["classifier.0.bias"], atol=1e-3)
    state["classifier.0.weight"] = flat[:, :-1]
    torch.save(state, path)
    with pytest.raises(ValueError, match=r"classifier\.0\.weight"):
        FCFNSegmentation(THREE, **TINY, weights=str(path))
    with pytest.raises(FileNotFoundError):
        FCFNSegmentation(THREE, **TINY, weights=str(tmp_path / "none.pth"))


@pytest.mark.parametrize(
    "wrong", [{"fusion": "conv"}, {"loss_reduction": "mean"}, {"optimiser": "lion"}, {"lc_act": "tanh"}]
)
def test_unknown_switches_are_named(wrong: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong.values()))):
        FCFNSegmentation(THREE, **TINY, **wrong)  # type: ignore[arg-type]


def test_presets_and_figures() -> None:
    for preset in FCFNSegmentation.presets:
        method = FCFNSegmentation(THREE, **FCFNSegmentation.profile("smoke", preset))
        if preset == "fcn8s":
            assert method.diagnostics() == method.figures() == {}
        else:
            assert method.diagnostics()["weight_pool4_deep"] == (1.0 if preset == "lc_from_sum" else 0.5)
            assert method.figures()["lc_weights_pool3"].shape == (256, 256, 3)


# Learning


def fit(
    cache: Path, steps: int, **options: object
) -> tuple[FCFNSegmentation, dict[str, float], dict[str, float]]:
    pl.seed_everything(0, verbose=False)
    data = PascalVOC(cache=cache, batch_size=8, test_batch_size=20)
    data.prepare_data()
    method = FCFNSegmentation(data.spec, **{**FCFNSegmentation.profile("mini"), **options})
    trainer = pl.Trainer(
        accelerator="cpu",
        max_steps=steps,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
    )
    (before,) = trainer.test(method, data, verbose=False)
    trainer.fit(method, data)
    (after,) = trainer.test(method, data, verbose=False)
    return method, before, after


def test_learns_on_the_miniature(cache: Path) -> None:
    method, before, after = fit(cache, 80)
    assert after["test/miou"] > before["test/miou"] + 10
    assert after["test/miou"] > 30, "background everywhere, the trivial predictor, gets about 13"
    assert (method.network.stage2.lc.weight - 0.5).abs().max() > 0.01, "the weights have moved"
    assert method.network.stage2.lc.weight[0, 0].std() > 1e-3, "and differ from pixel to pixel"


def test_same_seed_same_weights(cache: Path) -> None:
    first, _, scores = fit(cache, 3, width=1 / 32)
    second, _, again = fit(cache, 3, width=1 / 32)
    assert scores == again
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
