"""The zero-shot study's encoders: the paper's sizes and parameter counts, halved pictures, the mirrored decoder."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch

from tasks.blocks.part_grids import receptive_field
from tasks.recognition.zsl_encoders import Decoder, Encoder, parameter_count


def build(name: Any, side: int = 112, **options: Any) -> Encoder:
    torch.manual_seed(0)
    return Encoder(name, (side, side), **options)


def on_meta(name: Any) -> Encoder:
    with torch.device("meta"):
        return Encoder(name, (112, 112))


def test_parameters_of_basic_by_hand() -> None:
    convolutions = 16 * (3 * 64 + 64 * 128 + 128 * 256 + 256 * 512 + 512 * 1024)
    norms = 2 * (64 + 128 + 256 + 512 + 1024 + 1024)
    assert parameter_count(on_meta("basic")) == convolutions + 9216 * 1024 + norms == 20_587_392


def test_parameters_of_alex_by_hand() -> None:
    channels = (3, 96, 192, 384, 384, 192, 192)
    convolutions = 9 * sum(a * b for a, b in itertools.pairwise(channels))
    norms = 2 * (sum(channels[1:]) + 2 * 4096)
    linear = 6912 * 4096 + 4096 * 4096
    before = convolutions + linear + norms
    assert round(before / 1e6, 1) == 48.3
    assert round((convolutions + linear) / 1e6, 1) == 48.2
    last = 4096 * 1024 + 1024
    assert round(last / 1e6, 1) == 4.2
    assert parameter_count(on_meta("alex")) == before + last


@pytest.mark.parametrize(
    ("name", "sides", "flat", "local"),
    [
        ("basic", [112, 56, 28, 14, 7, 3], 9216, (256, 14, 14)),
        ("alex", [112, 112, 55, 55, 27, 27, 27, 27, 13, 13, 6], 6912, (384, 27, 27)),
    ],
)
def test_the_papers_maps(name: str, sides: list[int], flat: int, local: tuple[int, ...]) -> None:
    encoder = on_meta(name)
    assert encoder.sizes == [(side, side) for side in sides]
    assert encoder.flat == flat
    with torch.device("meta"):
        encoding = encoder(torch.rand(2, 3, 112, 112))
    assert encoding.local.shape == (2, *local)
    assert encoding.vector.shape == (2, 1024)
    assert encoding.last.shape[1:] == ((1024, 3, 3) if name == "basic" else (192, 6, 6))
    assert encoding.unpooled.shape[1:] == ((1024, 3, 3) if name == "basic" else (192, 13, 13))


@pytest.mark.parametrize("name", ["basic", "alex"])
def test_halved_pictures_make_the_same_maps(name: str) -> None:
    small = build(name, 56, width=0.125, first_stride=1)
    encoding = small(torch.rand(2, 3, 56, 56))
    full = on_meta(name)
    assert small.sizes[-1] == full.sizes[-1]
    assert encoding.local.shape[2:] == ((14, 14) if name == "basic" else (27, 27))
    assert encoding.vector.shape == (2, 128)
    assert len(small.blocks) == len(full.blocks)


def test_receptive_fields_of_the_tables() -> None:
    alex, basic = on_meta("alex"), on_meta("basic")
    assert receptive_field(alex.windows(5, last_pool=False))[0] == 61
    assert receptive_field(alex.windows(5))[0] == 77
    assert receptive_field(basic.windows(2)) == (22, 8)
    assert receptive_field(alex.windows(2)) == (21, 4)


@pytest.mark.parametrize("name", ["basic", "alex"])
def test_local_features_are_those_of_the_whole_pass_and_see_their_field_only(name: str) -> None:
    encoder = build(name, 56, width=0.0625, first_stride=1).eval()
    image = torch.rand(1, 3, 56, 56)
    whole = encoder(image)
    assert torch.equal(encoder.local(image), whole.local)
    changed = image.clone()
    changed[..., :8, :8] = 0
    difference = (encoder.local(changed) - whole.local).abs().amax(1)[0] > 0
    assert difference[0, 0]
    assert not difference[difference.shape[0] // 2 :, difference.shape[1] // 2 :].any()


@pytest.mark.parametrize(("side", "stride"), [(112, 2), (56, 1)])
@pytest.mark.parametrize("name", ["basic", "alex"])
def test_the_decoder_returns_to_the_pictures_size(name: str, side: int, stride: Any) -> None:
    encoder = build(name, side, width=0.0625, first_stride=stride)
    decoder = Decoder(encoder, channels=3)
    picture = decoder(encoder(torch.rand(2, 3, side, side)).vector)
    assert picture.shape == (2, 3, side, side)
    assert picture.min() >= 0
    assert picture.max() <= 1
    assert len(decoder.blocks) == len(encoder.blocks)
    picture.mean().backward()
    assert all(parameter.grad is not None for parameter in decoder.parameters())


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="too small for the encoder; first_stride=1"):
        build("basic", 20)
    with pytest.raises(ValueError, match="none of basic, alex"):
        build("resnet")
    with pytest.raises(ValueError, match="first_stride must be 1 or 2"):
        build("basic", first_stride=3)
