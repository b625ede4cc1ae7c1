"""Raw networks: modules with a settings dataclass, saved as config.json + safetensors."""

from overtone import renamed

KINDS = {
    "network": {
        "ADMUNet": "configs.adm",
        "DSNOUNet": "configs.dsno",
        "DiffiTTransformer": "configs.diffit",
        "DiffiTUNet": "configs.diffit",
        "DiffusersDiT": "configs.foreign",
        "DiffusersUNet": "configs.foreign",
        "Experts": "configs.experts",
        "IUNet": "configs.iunet",
        "SongUNet": "configs.song",
        "TemporalNetwork": "configs.dsno",
    },
}
"""the module of each built-in kind"""

__getattr__, __dir__, __all__ = renamed.attach(__name__, __file__)
