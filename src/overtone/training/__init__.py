"""Training: tasks, the loop, runs."""

import lazy_loader

KINDS = {
    "recipe": {
        "classifier": "configs.classifier",
        "denoising": "configs.denoising",
        "distillation": "configs.distillation",
        "vae": "configs.vae",
    },
}
"""the module of each built-in kind"""

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
