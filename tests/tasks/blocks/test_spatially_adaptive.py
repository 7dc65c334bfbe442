"""SAC against the literal Eq. 4, the plain unfold formulation of Sec. 4.3, and cases worked out by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tasks.blocks import spatially_adaptive
from tasks.blocks.spatially_adaptive import (
    BlockAttention,
    ContextAggregation,
    PixelAdaptive,
    PlainConv,
    RangeConv2d,
    SpatiallyAdaptiveConv,
    SqueezeExcitation,
    adaptive_convolution,
    gaussian_taps,
)

PEERS = (PlainConv, SqueezeExcitation, BlockAttention, ContextAggregation, PixelAdaptive)


def sac_isk_unfold(features: Tensor, attention: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Sec. 4.3 as it is written: unfold, multiply, 1x1 convolution. The same shapes as the fast one's."""
    batch, channels, height, width = features.shape
    outputs, _, kernel, _ = weight.shape
    patches = F.unfold(features, kernel, padding=kernel // 2).view(batch, channels, -1, height, width)
    attended = patches * attention.view(batch, -1, kernel * kernel, height, width)
    return F.conv2d(attended.flatten(1, 2), weight.reshape(outputs, -1, 1, 1), bias)


def eq4(features: Tensor, attention: Tensor, weight: Tensor) -> Tensor:
    """Eqs. 3 and 4 to the letter: the filter of each pixel is built, W[m, n, p, q, i, j], and then applied.

    attention: [B, I or 1, K or 1, K or 1, H, W].
    """
    kernel = weight.shape[-1]
    pad = kernel // 2
    height, width = features.shape[2:]
    padded = F.pad(features, (pad, pad, pad, pad))
    filters = torch.einsum("mnij,bnijpq->bmnpqij", weight, attention.expand(-1, *weight.shape[1:], -1, -1))
    output = torch.zeros(features.shape[0], weight.shape[0], height, width, dtype=features.dtype)
    for i in range(kernel):
        for j in range(kernel):
            shifted = padded[..., i : i + height, j : j + width]  # X[n, p + i^, q + j^]
            output += torch.einsum("bmnpq,bnpq->bmpq", filters[..., i, j], shifted)
    return output


def random_case(kernel: int = 3, shared: bool = False, batch: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    channels, outputs, height, width = 3, 4, 5, 7
    features = torch.randn(batch, channels, height, width, dtype=torch.float64)
    maps = kernel * kernel * (1 if shared else channels)
    attention = torch.rand(batch, maps, height, width, dtype=torch.float64)
    weight = torch.randn(outputs, channels, kernel, kernel, dtype=torch.float64)
    return features, attention, weight


@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("chunk", [1, 1 << 20])
def test_isk_and_sk_are_eq4(kernel: int, shared: bool, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(spatially_adaptive._CHUNK_BYTES, "cpu", chunk)  # 1: one image row at a time
    features, attention, weight = random_case(kernel, shared)
    maps = attention.view(2, -1, kernel, kernel, 5, 7)
    torch.testing.assert_close(adaptive_convolution(features, attention, weight), eq4(features, maps, weight))


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("chunk", [3 * 9 * 7 * 8 * 2, 1 << 20])  # rows: 2 + 2 + 1, and all five
def test_gradients_equal_those_of_the_unfold_formulation(
    shared: bool, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(spatially_adaptive._CHUNK_BYTES, "cpu", chunk)
    tensors = [tensor.requires_grad_() for tensor in random_case(shared=shared)]
    bias = torch.randn(4, dtype=torch.float64, requires_grad=True)
    out = torch.randn(2, 4, 5, 7, dtype=torch.float64)
    fast = torch.autograd.grad(adaptive_convolution(*tensors, bias), [*tensors, bias], out)
    plain = torch.autograd.grad(sac_isk_unfold(*tensors, bias), [*tensors, bias], out)
    for ours, theirs in zip(fast, plain, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("wrap", [False, True])
def test_gradcheck(wrap: bool) -> None:
    tensors = [tensor.requires_grad_() for tensor in random_case(batch=1)]
    assert torch.autograd.gradcheck(lambda *x: adaptive_convolution(*x, wrap=wrap), tensors)


def test_gradients_are_only_made_where_wanted() -> None:
    features, attention, weight = random_case()
    weight.requires_grad_()
    adaptive_convolution(features, attention, weight).sum().backward()
    expected = torch.autograd.grad(sac_isk_unfold(features, attention, weight).sum(), weight)[0]
    torch.testing.assert_close(weight.grad, expected)
    features.requires_grad_()
    (gradient,) = torch.autograd.grad(
        adaptive_convolution(features, attention, weight.detach()).sum(), features
    )
    reference = sac_isk_unfold(features, attention, weight.detach()).sum()
    torch.testing.assert_close(gradient, torch.autograd.grad(reference, features)[0])


def test_attention_one_is_a_plain_convolution() -> None:
    features, attention, weight = random_case()
    ones = torch.ones_like(attention)
    expected = F.conv2d(features, weight, padding=1)
    torch.testing.assert_close(adaptive_convolution(features, ones, weight), expected)
    turned = F.conv2d(F.pad(features, (1, 1, 0, 0), mode="circular"), weight, padding=(1, 0))
    torch.testing.assert_close(adaptive_convolution(features, ones, weight, wrap=True), turned)


def test_one_pixel_by_hand() -> None:
    # Two channels of one pixel: only the middle tap (4) sees it, in channels 4 and 9 + 4 of the attention.
    features = torch.tensor([[[[2.0]], [[5.0]]]])
    attention = torch.zeros(1, 18, 1, 1)
    attention[0, 4], attention[0, 13] = 0.5, 0.1
    weight = torch.full((1, 2, 3, 3), 3.0)
    assert adaptive_convolution(features, attention, weight).item() == pytest.approx(3 * (2 * 0.5 + 5 * 0.1))


def test_mixed_precision_keeps_the_result() -> None:
    features, attention, weight = (tensor.float().requires_grad_() for tensor in random_case())
    expected = sac_isk_unfold(features, attention, weight)
    with torch.autocast("cpu", torch.bfloat16):
        output = adaptive_convolution(features, attention, weight)
    assert output.dtype == torch.bfloat16
    torch.testing.assert_close(output.float(), expected, atol=0.15, rtol=0.05)
    output.float().sum().backward()
    assert weight.grad.dtype == torch.float32


def test_no_patches_are_kept_for_the_backward_pass() -> None:
    features, attention, weight = (tensor.requires_grad_() for tensor in random_case())
    kept: dict[str, int] = {}
    for name, convolution in (("fast", adaptive_convolution), ("plain", sac_isk_unfold)):
        sizes: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda x, s=sizes: s.append(x.numel()) or x, lambda x: x
        ):
            convolution(features, attention, weight)
        kept[name] = sum(sizes)
    assert kept["fast"] == features.numel() + attention.numel() + weight.numel()
    assert kept["plain"] >= 3 * attention.numel()


def test_wrong_shapes_are_named() -> None:
    features, attention, weight = random_case()
    with pytest.raises(ValueError, match="attention"):
        adaptive_convolution(features, attention[:, :-1], weight)
    with pytest.raises(ValueError, match="weight"):
        adaptive_convolution(features[:, :2], attention, weight)
    with pytest.raises(ValueError, match="odd"):
        SpatiallyAdaptiveConv(3, 3, attention_kernel=4)
    with pytest.raises(ValueError, match="variant"):
        SpatiallyAdaptiveConv(3, 3, variant="OISK")


@pytest.mark.parametrize(("variant", "maps"), [("S", 1), ("IS", 6), ("SK", 9), ("ISK", 54)])
def test_variants_have_their_maps_and_parameters(variant: str, maps: int) -> None:
    module = SpatiallyAdaptiveConv(6, 8, variant=variant)
    output = module(torch.randn(2, 6, 4, 10), torch.randn(2, 3, 4, 10))
    assert output.shape == (2, 8, 4, 10)
    assert module.attention(torch.randn(1, 3, 4, 10)).shape[1] == maps
    # The 7x7 convolution of three coordinates with bias (148 a map) and its normalisation.
    assert sum(p.numel() for p in module.attention.parameters()) == maps * (3 * 49 + 1 + 2)


@pytest.mark.parametrize("variant", ["S", "IS"])
def test_s_and_is_attend_before_the_filter(variant: str) -> None:
    module = SpatiallyAdaptiveConv(3, 4, variant=variant).double()
    features = torch.randn(2, 3, 5, 7, dtype=torch.float64)
    attention = torch.rand(2, 1 if variant == "S" else 3, 5, 7, dtype=torch.float64)
    weight, bias = module.filter.weight, module.filter.bias
    output = module.attend(features, attention)
    torch.testing.assert_close(output, F.conv2d(features * attention, weight, bias, padding=1))
    # Not Eq. 4, which reads the attention at the output pixel; the two agree where it is constant.
    maps = attention.view(2, -1, 1, 1, 5, 7)
    assert not torch.allclose(output, eq4(features, maps, weight) + bias.view(1, -1, 1, 1))
    flat = torch.full_like(attention, 0.3)
    literal = eq4(features, flat.view(2, -1, 1, 1, 5, 7), weight) + bias.view(1, -1, 1, 1)
    torch.testing.assert_close(module.attend(features, flat), literal)


@pytest.mark.parametrize("variant", ["SK", "ISK"])
def test_sk_and_isk_modules_are_eq4_of_their_own_attention(variant: str) -> None:
    module = SpatiallyAdaptiveConv(3, 4, variant=variant).double().eval()
    features, coordinates = (torch.randn(2, 3, 5, 7, dtype=torch.float64) for _ in range(2))
    convolution, norm, _ = module.attention
    attention = torch.sigmoid(norm(convolution(coordinates))).view(2, -1, 3, 3, 5, 7)
    expected = eq4(features, attention, module.filter.weight) + module.filter.bias.view(1, -1, 1, 1)
    torch.testing.assert_close(module(features, coordinates), expected)


def test_attention_comes_from_coordinates_alone() -> None:
    module = SpatiallyAdaptiveConv(3, 4, variant="ISK").eval()
    features, coordinates = torch.randn(1, 3, 5, 7), torch.randn(1, 3, 5, 7)
    linear = module(2 * features, coordinates) - module(torch.zeros_like(features), coordinates)
    once = module(features, coordinates) - module(torch.zeros_like(features), coordinates)
    torch.testing.assert_close(linear, 2 * once, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(module(features, coordinates), module(features, coordinates.roll(1, -1)))


def test_gaussian_taps_by_hand() -> None:
    coordinates = torch.tensor([[[[0.0, 1.0, 3.0]]]])
    taps = gaussian_taps(coordinates)
    assert taps.shape == (1, 9, 1, 3)
    assert taps[0, 4].tolist() == [[1.0, 1.0, 1.0]]  # the centre's distance is 0
    right = torch.exp(-0.5 * torch.tensor([1.0, 4.0, 9.0]))  # 1 - 0, 3 - 1, and the zero padding - 3
    torch.testing.assert_close(taps[0, 5, 0], right)
    torch.testing.assert_close(gaussian_taps(coordinates, wrap=True)[0, 5, 0, 2], right[2])
    assert gaussian_taps(coordinates + 0, wrap=True)[0, 3, 0, 0] == pytest.approx(float(right[2]))


def test_pac_on_flat_coordinates_is_a_plain_convolution_inside() -> None:
    module = PixelAdaptive(3, 4, wrap=True)
    features, flat = torch.randn(2, 3, 5, 7), torch.full((2, 3, 5, 7), 0.7)
    inside = module(features, flat)[:, :, 1:-1], module.filter(features)[:, :, 1:-1]
    torch.testing.assert_close(*inside, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("peer", PEERS)
@pytest.mark.parametrize("wrap", [False, True])
def test_peers_drop_in_and_learn(peer: type[PlainConv], wrap: bool) -> None:
    module = peer(8, 6, wrap=wrap)
    output = module(torch.randn(2, 8, 4, 10), torch.randn(2, 3, 4, 10))
    assert output.shape == (2, 6, 4, 10)
    output.square().sum().backward()
    assert all(parameter.grad is not None for parameter in module.parameters())


def test_se_and_cam_gate_as_their_papers_say() -> None:
    squeeze, context = SqueezeExcitation(3, 4), ContextAggregation(3, 4)
    features, coordinates = torch.randn(1, 3, 9, 11), torch.zeros(1, 3, 9, 11)
    gate = torch.sigmoid(squeeze.gate(features.mean((2, 3), keepdim=True)))
    torch.testing.assert_close(squeeze(features, coordinates), squeeze.filter(features * gate))
    pixel = features[:, :, 1:8, 2:9].amax((2, 3), keepdim=True)  # the 7x7 window around pixel (4, 5)
    gated = features * torch.sigmoid(context.gate(F.max_pool2d(features, 7, 1, 3)))
    torch.testing.assert_close(
        gated[:, :, 4:5, 5:6], features[:, :, 4:5, 5:6] * torch.sigmoid(context.gate(pixel))
    )
    torch.testing.assert_close(context(features, coordinates), context.filter(gated))


def test_wrapped_modules_commute_with_turning_the_scan() -> None:
    torch.manual_seed(0)
    features, coordinates = torch.randn(1, 8, 6, 12), torch.randn(1, 3, 6, 12)
    sacs = [SpatiallyAdaptiveConv(8, 8, variant=variant, wrap=True) for variant in ("S", "IS", "SK", "ISK")]
    for module in [*sacs, *(peer(8, 8, wrap=True) for peer in PEERS)]:
        module.eval()
        turned = module(features.roll(5, -1), coordinates.roll(5, -1))
        torch.testing.assert_close(turned, module(features, coordinates).roll(5, -1), atol=1e-5, rtol=1e-4)


def test_range_conv_strides_the_width_only() -> None:
    convolution = RangeConv2d(2, 3, 3, stride=(1, 2))
    assert convolution(torch.randn(1, 2, 6, 8)).shape == (1, 3, 6, 4)
    wrapped = RangeConv2d(2, 3, 3, stride=(1, 2), wrap=True)
    assert wrapped(torch.randn(1, 2, 6, 8)).shape == (1, 3, 6, 4)
