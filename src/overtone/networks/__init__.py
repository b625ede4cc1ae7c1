"""Raw networks: modules with a settings dataclass, saved as config.json + safetensors."""

from overtone.networks.adm import ADMConfig, ADMUNet
from overtone.networks.classifier import Classifier, ClassifierConfig
from overtone.networks.diffit import (
    DiffiTConfig,
    DiffiTTransformer,
    DiffiTTransformerConfig,
    DiffiTUNet,
)
from overtone.networks.dsno import (
    DSNOConfig,
    DSNOUNet,
    OperatorNetwork,
    TemporalConfig,
    TemporalNetwork,
    temporalize,
)
from overtone.networks.experts import Experts
from overtone.networks.iunet import IUNet, IUNetConfig
from overtone.networks.network import Network
from overtone.networks.song import SongConfig, SongUNet

NETWORKS: dict[str, type[Network]] = {
    network.__name__: network
    for network in (
        ADMUNet,
        Classifier,
        DSNOUNet,
        DiffiTTransformer,
        DiffiTUNet,
        Experts,
        IUNet,
        SongUNet,
        TemporalNetwork,
    )
}

__all__ = [
    "NETWORKS",
    "ADMConfig",
    "ADMUNet",
    "Classifier",
    "ClassifierConfig",
    "DSNOConfig",
    "DSNOUNet",
    "DiffiTConfig",
    "DiffiTTransformer",
    "DiffiTTransformerConfig",
    "DiffiTUNet",
    "Experts",
    "IUNet",
    "IUNetConfig",
    "Network",
    "OperatorNetwork",
    "SongConfig",
    "SongUNet",
    "TemporalConfig",
    "TemporalNetwork",
    "temporalize",
]
