"""Features of the Inception network that published FIDs are computed on."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from overtone import precision, storage
from overtone.data.images import Pixels
from overtone.errors import OvertoneError
from overtone.metrics.features import Extractor, Features
from overtone.networks.network import digest_of

SPATIAL_CHANNELS = 7
"""of 192, in sFID"""


class InceptionExtractor(Extractor):
    """The Inception network that FID is defined on (torch-fidelity's port of the original weights,
    with TensorFlow's resizing to 299 px). Grey images become RGB.

    Vectors are the 2048 pooled features of FID and KID, class scores the 1008 logits without their
    bias that the Inception Score is of. Spatial features are sFID's: the first 7 channels, on
    17 x 17 places, of the first branch of the block that TensorFlow's graph calls mixed_6.

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
                    "inception", ["2048", "logits_unbiased"], str(Path(folder) / "weights.pth")
                )
            except RuntimeError as error:
                first = str(error).splitlines()[0]
                raise OvertoneError(
                    f"{weights} holds other weights than torch-fidelity's Inception ({first})."
                ) from None
        self.digest = digest_of(network)
        self.network = network.to(precision.default_device())
        self.name = "Inception (torch-fidelity), 2048 features"
        self._spatial: Tensor | None = None
        network.Mixed_6d.branch1x1.register_forward_hook(self._keep)

    @torch.no_grad()
    def __call__(self, pixels: Pixels) -> Features:
        device = next(self.network.parameters()).device
        pixels = pixels.to(device)
        if pixels.shape[1] == 1:
            pixels = pixels.expand(-1, 3, -1, -1)
        vectors, logits = self.network(pixels)
        assert self._spatial is not None
        return Features(vectors.cpu(), logits.cpu(), self._spatial.flatten(1).cpu())

    def _keep(self, module: Any, inputs: Any, output: Tensor) -> None:
        self._spatial = output[:, :SPATIAL_CHANNELS].float()


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
            f"Inception's weights can't be read from {where} ({reason}): pass --extractor-weights"
            " FILE with torch-fidelity's weights."
        ) from None
