"""The two image encoders of the zero-shot study and the decoder that mirrors them (ICLR 2020, Tables A.2 and A.3).

`basic`: DCGAN's five 4 x 4 convolutions of stride 2 and a linear layer; 112 x 112 pictures make maps of side 56, 28,
14, 7, 3 and a vector of 9216. `alex`: six 3 x 3 convolutions, four of them with max-pooling 3 x 3 of stride 2; maps
of side 55, 27, 27, 27, 13, 6, a vector of 6912, two linear layers of 4096. Each has batch normalisation and ReLU (and
so no bias). Local features are the third convolution's, 14 x 14 x 256 and 27 x 27 x 384.

Chosen here: the text says that all encoders end in 1024 numbers, the table of `alex` in 4096: one more linear layer
follows there, without normalisation. Pictures in [0, 1] are moved to [-1, 1]. The decoder takes the layers backwards:
transposed convolutions, or nearest-neighbour enlargement to the size before a pool and a 3 x 3 convolution.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Literal, NamedTuple

from torch import Tensor, nn
from torch.nn import functional as F

from tasks.blocks.part_grids import Window

EncoderName = Literal["basic", "alex"]
LOCAL_LAYER = 2
POOL = Window(3, 2, 0)


class ConvLayer(NamedTuple):
    """A convolution, and whether `POOL` follows."""

    channels: int
    window: Window
    pool: bool = False


def conv_layers(name: EncoderName, *, width: float = 1.0, first_stride: Literal[1, 2] = 2) -> list[ConvLayer]:
    """The convolutions of an encoder.

    width: factor on the channels. first_stride: 1 lets the first layer (`basic`: its stride, `alex`: its pool) keep
    the picture's size, for pictures of half the side: their maps are as large as the paper's.
    """
    if first_stride not in (1, 2):
        raise ValueError(f"first_stride must be 1 or 2, got {first_stride}")
    if name == "basic":
        first = Window(4, 2, 1) if first_stride == 2 else Window(3, 1, 1)
        windows = [first, *[Window(4, 2, 1)] * 4]
        layers = [ConvLayer(64 * 2**i, window) for i, window in enumerate(windows)]
    elif name == "alex":
        pools = (first_stride == 2, True, False, False, True, True)
        layers = [
            ConvLayer(channels, Window(3, 1, 1), pool)
            for channels, pool in zip((96, 192, 384, 384, 192, 192), pools, strict=True)
        ]
    else:
        raise ValueError(f"encoder {name!r} is none of basic, alex")
    return [layer._replace(channels=max(1, round(width * layer.channels))) for layer in layers]


class Encoding(NamedTuple):
    """local [B, C, h, w]: the third convolution's features; unpooled and last: the last convolution's map before and
    after its pool (the same where it has none); hidden [B, H]: what the last linear layer reads; vector [B, D]."""

    local: Tensor
    unpooled: Tensor
    last: Tensor
    hidden: Tensor
    vector: Tensor


class Encoder(nn.Module):
    """Pictures [B, channels, H, W] in [0, 1] -> `Encoding`.

    output: length of the vector, before `width`. See the module's docstring and `conv_layers`.
    """

    def __init__(
        self,
        name: EncoderName,
        image_size: tuple[int, int],
        *,
        channels: int = 3,
        width: float = 1.0,
        first_stride: Literal[1, 2] = 2,
        output: int = 1024,
    ) -> None:
        super().__init__()
        self.name = name
        self.layers = conv_layers(name, width=width, first_stride=first_stride)
        self.sizes = map_sizes(self.layers, image_size)
        """(height, width) of the picture and behind each convolution and pool, in order."""
        self.blocks = nn.ModuleList()
        inputs = channels
        for layer in self.layers:
            self.blocks.append(_block(nn.Conv2d(inputs, layer.channels, *layer.window, bias=False)))
            inputs = layer.channels
        last = self.sizes[-1]
        self.flat = inputs * last[0] * last[1]
        self.length = max(1, round(width * output))
        linears = [self.flat]
        if name == "alex":
            linears += [max(1, round(width * 4096))] * 2
        self.fully = nn.Sequential(*[_dense(a, b) for a, b in pairwise(linears)])
        self.hidden = linears[-1]
        self.last = (
            nn.Linear(self.hidden, self.length) if name == "alex" else _dense(self.hidden, self.length)
        )

    @property
    def local_channels(self) -> int:
        return self.layers[LOCAL_LAYER].channels

    @property
    def last_channels(self) -> int:
        return self.layers[-1].channels

    def windows(self, through: int, *, last_pool: bool = True) -> list[Window]:
        """Of all convolutions and pools up to a layer, that layer's own pool only if `last_pool`."""
        found = []
        for number, layer in enumerate(self.layers[: through + 1]):
            found.append(layer.window)
            if layer.pool and (number < through or last_pool):
                found.append(POOL)
        return found

    def local(self, image: Tensor) -> Tensor:
        """The local features alone, [B, C, h, w]."""
        features = image * 2 - 1
        for layer, block in zip(self.layers[: LOCAL_LAYER + 1], self.blocks, strict=False):
            features = _pooled(block(features), layer)
        return features

    def forward(self, image: Tensor) -> Encoding:
        local = unpooled = last = self.local(image)
        for layer, block in zip(self.layers[LOCAL_LAYER + 1 :], self.blocks[LOCAL_LAYER + 1 :], strict=True):
            unpooled = block(last)
            last = _pooled(unpooled, layer)
        hidden = self.fully(last.flatten(1))
        return Encoding(local, unpooled, last, hidden, self.last(hidden))


class Decoder(nn.Module):
    """The encoder's layers backwards: [B, D] -> pictures [B, channels, H, W] in [0, 1]."""

    def __init__(self, encoder: Encoder, channels: int = 3) -> None:
        super().__init__()
        lengths = [encoder.length]
        if encoder.name == "alex":
            lengths += [encoder.hidden] * 2
        lengths.append(encoder.flat)
        self.fully = nn.Sequential(*[_dense(a, b) for a, b in pairwise(lengths)])
        self.start = (encoder.last_channels, *encoder.sizes[-1])
        self.layers = encoder.layers[::-1]
        # Sizes to return to, from the last map's to the picture's.
        self.sizes = encoder.sizes[::-1]
        self.blocks = nn.ModuleList()
        place = 0
        for number, layer in enumerate(self.layers):
            outputs = self.layers[number + 1].channels if number + 1 < len(self.layers) else channels
            place += int(layer.pool)
            here, there = self.sizes[place], self.sizes[place + 1]
            kernel, stride, padding = layer.window
            reached = [(side - 1) * stride - 2 * padding + kernel for side in here]
            extra = tuple(side - got for side, got in zip(there, reached, strict=True))
            finest = number + 1 == len(self.layers)
            transposed = nn.ConvTranspose2d(
                layer.channels, outputs, kernel, stride, padding, output_padding=extra, bias=finest
            )
            self.blocks.append(transposed if finest else _block(transposed))
            place += 1

    def forward(self, vector: Tensor) -> Tensor:
        features = self.fully(vector).unflatten(1, self.start)
        place = 0
        for layer, block in zip(self.layers, self.blocks, strict=True):
            if layer.pool:
                place += 1
                features = F.interpolate(features, self.sizes[place], mode="nearest")
            features = block(features)
            place += 1
        return features.float().sigmoid()


def map_sizes(layers: list[ConvLayer], image_size: tuple[int, int]) -> list[tuple[int, int]]:
    """Sizes of the picture and behind each convolution and each pool; a `ValueError` where nothing is left."""
    sizes = [image_size]
    for layer in layers:
        for window in (layer.window, POOL)[: 2 if layer.pool else 1]:
            height, width = (
                (side + 2 * window.padding - window.kernel) // window.stride + 1 for side in sizes[-1]
            )
            if min(height, width) < 1:
                raise ValueError(
                    f"pictures of {image_size[0]} x {image_size[1]} are too small for the encoder; "
                    f"first_stride=1 keeps maps twice as large"
                )
            sizes.append((height, width))
    return sizes


def _block(convolution: nn.Conv2d | nn.ConvTranspose2d) -> nn.Sequential:
    return nn.Sequential(convolution, nn.BatchNorm2d(convolution.out_channels), nn.ReLU())


def _dense(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, outputs, bias=False), nn.BatchNorm1d(outputs), nn.ReLU())


def _pooled(features: Tensor, layer: ConvLayer) -> Tensor:
    return F.max_pool2d(features, *POOL) if layer.pool else features


def parameter_count(module: nn.Module) -> int:
    """Trainable numbers of a module."""
    return sum(parameter.numel() for parameter in module.parameters())
