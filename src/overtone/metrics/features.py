"""Features of images.

A classifier of the very data set needs no download, works at any resolution, and tells apart what
is in the images; distances on its features compare with each other, not with published FIDs. Those
are computed on the features of one certain Inception network, which the extra `fid` brings.
"""

from __future__ import annotations

import hashlib
import tempfile
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, NamedTuple, Self

import torch
from jaxtyping import Float
from torch import Tensor

from overtone import precision, storage
from overtone.data.images import Pixels, to_unit
from overtone.errors import OvertoneError
from overtone.networks.classifier import Classifier
from overtone.networks.network import WEIGHTS_FILE, digest_of


class Features(NamedTuple):
    """What an extractor says of a batch, on the host."""

    vectors: Float[Tensor, "batch features"]
    logits: Float[Tensor, "batch classes"] | None = None
    """class scores"""
    spatial: Float[Tensor, "batch spatial_dims"] | None = None
    """features that keep the place, for the spatial Fréchet distance"""


class Extractor(ABC):
    """Turns uint8 images into feature vectors, in float32.

    `digest` identifies the weights: numbers from extractors with different digests don't compare.
    """

    name: str
    digest: str
    dims: int
    knows_classes: bool = False
    """whether its class scores are of the classes of the data"""

    @abstractmethod
    def __call__(self, pixels: Pixels) -> Features: ...


class ClassifierExtractor(Extractor):
    """Features and class scores from the penultimate layer and the head of a `Classifier`."""

    knows_classes = True

    def __init__(self, network: Classifier, digest: str) -> None:
        self.network = network.eval().to(precision.default_device()).to_fast_layout()
        self.digest = digest
        self.dims = network.config.num_features
        self.name = f"classifier at {network.config.resolution} px"

    @classmethod
    def from_pretrained(cls, folder: Path) -> Self:
        """The classifier saved in a directory, its digest the SHA-256 of the weights' file."""
        network = Classifier.from_pretrained(folder)
        digest = hashlib.sha256((folder / WEIGHTS_FILE).read_bytes()).hexdigest()
        return cls(network, digest[:16])

    @torch.no_grad()
    def __call__(self, pixels: Pixels) -> Features:
        device = next(self.network.parameters()).device
        vectors = self.network.features(to_unit(pixels.to(device)))
        return Features(vectors.cpu(), self.network.head(vectors).cpu())


class InceptionExtractor(Extractor):
    """The 2048 pooled features of the Inception network that FID is defined on (torch-fidelity's
    port of the original weights, with TensorFlow's resizing to 299 px). Grey images become RGB.

    `weights` is a file of its state dictionary (.pth or .safetensors); None downloads the original
    one, whose hash is checked. Needs the extra `fid`.
    """

    dims = 2048

    def __init__(self, weights: Path | None = None) -> None:
        module = _fidelity()
        state = _inception_weights(weights, module.URL_INCEPTION_V3)
        with tempfile.TemporaryDirectory() as folder:
            # torch-fidelity unpickles whatever it is given: it gets a file that was made here.
            torch.save(state, Path(folder) / "weights.pth")
            try:
                network = module.FeatureExtractorInceptionV3(
                    "inception", ["2048"], str(Path(folder) / "weights.pth")
                )
            except RuntimeError as error:
                first = str(error).splitlines()[0]
                raise OvertoneError(
                    f"{weights} holds other weights than torch-fidelity's Inception ({first})."
                ) from None
        self.digest = digest_of(network)
        self.network = network.to(precision.default_device())
        self.name = "Inception (torch-fidelity), 2048 features"

    @torch.no_grad()
    def __call__(self, pixels: Pixels) -> Features:
        device = next(self.network.parameters()).device
        pixels = pixels.to(device)
        if pixels.shape[1] == 1:
            pixels = pixels.expand(-1, 3, -1, -1)
        (vectors,) = self.network(pixels)
        return Features(vectors.cpu(), None)


def _fidelity() -> Any:
    try:
        from torch_fidelity import feature_extractor_inceptionv3
    except (ImportError, RuntimeError) as error:
        # RuntimeError: a torchvision whose operators were built for another torch.
        raise OvertoneError(
            "Inception's features need an extra: in Overtone's source, pip install -c"
            f" constraints.txt '.[fid]' ({error})."
        ) from None
    return feature_extractor_inceptionv3


def _inception_weights(file: Path | None, url: str) -> dict[str, Tensor]:
    import pickle

    try:
        if file is None:
            return torch.hub.load_state_dict_from_url(
                url, progress=False, check_hash=True, weights_only=True, map_location="cpu"
            )
        if Path(file).suffix == ".safetensors":
            return storage.load_tensors(Path(file))
        return torch.load(file, weights_only=True, map_location="cpu")
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        where = file or url
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise OvertoneError(
            f"Inception's weights can't be read from {where} ({reason}): pass --inception-weights"
            " FILE with torch-fidelity's weights."
        ) from None
