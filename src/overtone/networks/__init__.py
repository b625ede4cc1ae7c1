"""Raw networks: modules with a settings dataclass, saved as config.json + safetensors."""

import lazy_loader

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

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
