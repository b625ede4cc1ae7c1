"""Features of the Inception network that FID, KID, the Inception Score and sFID are defined on."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from overtone import precision
from overtone.data.images import Pixels
from overtone.errors import OvertoneError
from overtone.metrics.features import (
    Extractor,
    Features,
    as_rgb,
    by_blocks,
    output_of,
    place_features,
)
from overtone.metrics.foreign import library, read_state
from overtone.networks.network import digest_of

BLOCK = 64
"""images at a time: the first feature maps of one are 22 MB"""
ADVICE = "pass --extractor-weights FILE with torch-fidelity's weights"


class InceptionExtractor(Extractor):
    """Features of torch-fidelity's port of the original network, with TensorFlow's resizing to
    299 px. Grey images become RGB. Needs the extra `fid`.

    - vectors: the 2048 features after the pooling;
    - logits: the 1008 class scores without the bias, of whose softmax the Inception Score is made;
    - spatial: as ADM's evaluator has them for sFID, the first 7 channels of the graph's
      `mixed_6/conv`, which is the 1x1 branch of the block called Mixed_6d here, behind its ReLU:
      17 x 17 x 7 numbers, the channel last.

    `weights` is a file of its state dictionary (.pth or .safetensors), of which nothing is
    executed; None downloads the original one, whose hash is checked.
    """

    dims = 2048

    def __init__(self, weights: Path | None = None) -> None:
        place = "torch_fidelity.feature_extractor_inceptionv3"
        network_class = library(place, "FeatureExtractorInceptionV3", "fid", "Inception")
        if weights is None:
            state = _published(library(place, "URL_INCEPTION_V3", "fid", "Inception"))
        else:
            state = read_state(weights, "Inception", ADVICE)
        with tempfile.TemporaryDirectory() as folder:
            # torch-fidelity unpickles whatever it is given: it gets a file that was made here.
            file = Path(folder) / "weights.pth"
            torch.save({name: _as_float(tensor) for name, tensor in state.items()}, file)
            try:
                network = network_class("inception", ["2048", "logits_unbiased"], str(file))
            except RuntimeError as error:
                first = str(error).splitlines()[0]
                raise OvertoneError(
                    f"{weights} holds other weights than torch-fidelity's Inception ({first})."
                ) from None
        self.digest = digest_of(network)
        self.network = network.to(precision.default_device())
        self.name = "Inception (torch-fidelity), 2048 features"

    def __call__(self, pixels: Pixels) -> Features:
        return by_blocks(self.network, self._extract, as_rgb(pixels, "Inception"), BLOCK)

    def _extract(self, pixels: Pixels) -> Features:
        branch: Any = self.network.Mixed_6d
        with output_of(branch.branch1x1) as maps:
            vectors, logits = self.network(pixels)
        return Features(vectors, logits, place_features(maps[0]))


def _as_float(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor


def _published(url: str) -> dict[str, Tensor]:
    import pickle

    try:
        return torch.hub.load_state_dict_from_url(
            url, progress=False, check_hash=True, weights_only=True, map_location="cpu"
        )
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise OvertoneError(
            f"Inception's weights can't be read from {url} ({reason}): {ADVICE}."
        ) from None
