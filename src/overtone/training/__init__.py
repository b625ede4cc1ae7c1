"""Training: tasks, the loop, runs."""

from overtone import renamed

KINDS = {
    "recipe": {
        "classifier": "configs.classifier",
        "denoising": "configs.denoising",
        "distillation": "configs.distillation",
        "halving": "configs.halving",
        "vae": "configs.vae",
    },
}
"""the module of each built-in kind"""

__getattr__, __dir__, __all__ = renamed.attach(__name__, __file__)
