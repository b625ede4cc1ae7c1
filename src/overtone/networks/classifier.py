"""A small convolutional classifier, whose features the metrics are computed on."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from overtone.networks.configs.classifier import ClassifierConfig
from overtone.networks.layers import Features, GroupNorm
from overtone.networks.network import Network


class Classifier(Network):
    """A convolutional classifier: images (batch, channels, height, width) in [-1, 1] to logits
    (batch, num_classes).

    It has levels of two 3x3 convolutions, the mean over pixels, a feature layer, a linear layer.
    """

    config_class = ClassifierConfig
    config: ClassifierConfig

    def __init__(self, config: ClassifierConfig | None = None) -> None:
        config = config or ClassifierConfig()
        super().__init__(config)
        layers: list[nn.Module] = []
        width = config.channels
        for level, out in enumerate(config.widths):
            layers += [nn.MaxPool2d(2)] if level else []
            layers += [nn.Conv2d(width, out, 3, padding=1), GroupNorm(out)]
            layers += [nn.Conv2d(out, out, 3, padding=1), GroupNorm(out)]
            width = out
        self.body = nn.Sequential(*layers)
        self.feature_layer = nn.Linear(width, config.num_features)
        self.head = nn.Linear(config.num_features, config.num_classes)

    def features(self, x: Features) -> Float[Tensor, "batch features"]:
        """The feature vector of images in [-1, 1]."""
        return self.features_of(self.body(x))

    def features_of(self, maps: Features) -> Float[Tensor, "batch features"]:
        """The feature vector of the last feature map."""
        return F.silu(self.feature_layer(maps.mean(dim=(2, 3))))

    def forward(self, x: Features) -> Float[Tensor, "batch classes"]:
        """Logits of images in [-1, 1]."""
        return self.head(F.dropout(self.features(x), self.config.dropout, self.training))
