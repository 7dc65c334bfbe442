"""What an encoder is trained for in the zero-shot study: one module for each objective, all called alike.

Each answers the named parts of its loss; their sum is minimised. `second` is what a picture is matched with: nothing,
another crop of it (AMDIM), or a picture of its class (CMDIM). Section 4.4.1 and appendix A.7 of the paper; what they
leave open is as chosen in `zsl_local_comp.py`.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from tasks.blocks.mutual_information import Estimator, PairScores, clipped_nce, pair_loss
from tasks.recognition.zsl_encoders import Decoder, Encoder, Encoding

ObjectiveName = Literal["fc", "vae", "beta_vae", "aae", "dim", "amdim", "cmdim", "pn"]
Negatives = Literal["other_class", "other_image"]
Losses = dict[str, Tensor]


class Classifier(nn.Module):
    """FC: softmax over the seen classes."""

    def __init__(self, encoder: Encoder, classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(encoder.length, classes)

    def forward(self, first: Encoding, image: Tensor, label: Tensor) -> Losses:
        return {"classes": F.cross_entropy(self.linear(first.vector).float(), label)}


def reconstruction_error(reconstruction: Tensor, image: Tensor) -> Tensor:
    """Squared error summed over a picture, mean over pictures: [B, C, H, W] each -> scalar."""
    return (reconstruction.float() - image.float()).square().flatten(1).sum(1).mean()


def gaussian_divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL divergence of N(mean, exp(log_variance)) from N(0, 1), summed over [B, D], mean over B: scalar."""
    mean, log_variance = mean.float(), log_variance.float()
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(1).mean()


class VariationalAutoEncoder(nn.Module):
    """VAE and beta-VAE: the encoder's vector is the mean, a second head answers the logarithm of the variance."""

    def __init__(self, encoder: Encoder, channels: int, *, beta: float) -> None:
        super().__init__()
        self.beta = beta
        self.log_variance = nn.Linear(encoder.hidden, encoder.length)
        self.decoder = Decoder(encoder, channels)

    def forward(self, first: Encoding, image: Tensor, label: Tensor) -> Losses:
        # Bounded: an exponential of the first steps' wild guesses must not overflow.
        log_variance = self.log_variance(first.hidden).float().clamp(-10, 10)
        noise = torch.randn_like(log_variance)
        latent = first.vector.float() + noise * (0.5 * log_variance).exp()
        return {
            "reconstruction": reconstruction_error(self.decoder(latent), image),
            "divergence": self.beta * gaussian_divergence(first.vector, log_variance),
        }


class AdversarialAutoEncoder(nn.Module):
    """AAE: a discriminator of three linear layers tells latent vectors from N(0, 1); the encoder deceives it.

    Both losses are minimised at once by one optimiser: the discriminator's sees a detached latent vector, the
    encoder's sees detached weights of the discriminator, so that each moves its own side alone.
    """

    def __init__(self, encoder: Encoder, channels: int) -> None:
        super().__init__()
        self.decoder = Decoder(encoder, channels)
        hidden = encoder.length
        self.discriminator = nn.Sequential(
            nn.Linear(encoder.length, hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Linear(hidden, 1),
        )

    def forward(self, first: Encoding, image: Tensor, label: Tensor) -> Losses:
        latent = first.vector
        true = self.discriminator(torch.randn_like(latent)).float()
        false = self.discriminator(latent.detach()).float()
        fixed = {name: weight.detach() for name, weight in self.discriminator.named_parameters()}
        deceiving = functional_call(self.discriminator, fixed, (latent,)).float()
        return {
            "reconstruction": reconstruction_error(self.decoder(latent), image),
            "discriminator": F.softplus(-true).mean() + F.softplus(false).mean(),
            "adversarial": F.softplus(-deceiving).mean(),
        }


class InfoMax(nn.Module):
    """DIM and CMDIM: mutual information of global vectors and the local features matched with them."""

    def __init__(self, encoder: Encoder, *, units: int, estimator: Estimator, negatives: Negatives) -> None:
        super().__init__()
        self.scores = PairScores(encoder.length, encoder.local_channels, units)
        self.estimator: Estimator = estimator
        self.negatives = negatives

    def forward(self, first: Encoding, image: Tensor, label: Tensor, matched: Tensor | None = None) -> Losses:
        """matched: local features [B, C, h, w] of the picture's match; None: the picture's own."""
        scores = self.scores(first.vector, first.local if matched is None else matched)
        return {"information": pair_loss(scores, negative_pairs(label, self.negatives), self.estimator)}


class MultiscaleInfoMax(nn.Module):
    """AMDIM: global vectors of one view against local features of the other at two scales, and the other way round."""

    def __init__(self, encoder: Encoder, *, units: int) -> None:
        super().__init__()
        self.scales = nn.ModuleDict(
            {
                "local": PairScores(encoder.length, encoder.local_channels, units),
                "last": PairScores(encoder.length, encoder.last_channels, units),
            }
        )

    def forward(self, first: Encoding, image: Tensor, label: Tensor, other: Encoding) -> Losses:
        """other: the encoding of the second view."""
        negative = negative_pairs(label, "other_image")
        losses = {}
        for name, scale in self.scales.items():
            there = scale(first.vector, getattr(other, name))
            back = scale(other.vector, getattr(first, name))
            losses[f"information_{name}"] = 0.5 * (clipped_nce(there, negative) + clipped_nce(back, negative))
        return losses


def negative_pairs(label: Tensor, negatives: Negatives) -> Tensor:
    """Which pairs of pictures are of the product of the marginals: bool [B, B], of other pictures or of other classes
    only (as the paper has it: pictures of one class are no negatives, whether drawn as a match or by chance)."""
    if negatives == "other_class":
        return label[:, None] != label[None]
    return ~torch.eye(len(label), dtype=torch.bool, device=label.device)


class LocalClassifier(nn.Module):
    """The auxiliary local loss (Fig. A.1): a 1 x 1 convolution reads attributes (ac) or the class (lc) off every local
    feature; binary cross-entropy on the class's present attributes, or cross-entropy, averaged over places."""

    def __init__(self, channels: int, kind: Literal["ac", "lc"], attributes: Tensor, classes: int) -> None:
        super().__init__()
        self.kind = kind
        self.attributes: Tensor
        self.register_buffer("attributes", attributes.float(), persistent=False)
        self.read = nn.Conv2d(channels, attributes.shape[1] if kind == "ac" else classes, 1)

    def forward(self, local: Tensor, label: Tensor) -> Tensor:
        logits = self.read(local).float()
        if self.kind == "ac":
            truth = self.attributes[label][..., None, None].expand_as(logits)
            return F.binary_cross_entropy_with_logits(logits, truth)
        return F.cross_entropy(logits, label[:, None, None].expand(-1, *logits.shape[2:]))
