"""Overtone: image diffusion models that use time and frequency.

Where to start:

    train("diffit-digits", "runs/digits")    trains a recipe; find_recipe changes its settings
    load_pipeline("runs/digits")             opens a run, a saved model, or one of the Hub
    pipe(seeds=range(16))                    makes images; what may be asked for is a Request
    compare(["runs/digits", "runs/other"])   scores models on the same seeds

`overtone --help` lists the same as commands. A model is a Pipeline of parts, and each part may be
exchanged for another:

    network             DiffiTUNet, DiffiTTransformer, IUNet, ADMUNet, Experts of several, ...
    preconditioning     EDMPreconditioning, VPPreconditioning, FlowPreconditioning, ...
    process             GaussianProcess, RelayProcess: what an image becomes at a noise level
    sampler             Sampler, AncestralSampler, OperatorSampler
    start               NoiseStart, RelayStart, ImageStart: what sampling begins with
    guidance            GuidanceSettings

A small model that nobody has trained makes noise:

    >>> from overtone import DiffiTConfig, DiffiTUNet, Pipeline, Sampler
    >>> small = DiffiTConfig(
    ...     resolution=8, channels=1, widths=(16,), num_cells=(1,), head_channels=8, token_width=16
    ... )
    >>> pipe = Pipeline(DiffiTUNet(small), Sampler(num_steps=4))
    >>> [image.size for image in pipe(seeds=range(2))]
    [(8, 8), (8, 8)]

The public names are imported when they are first used.
"""

from __future__ import annotations

from overtone import renamed

__version__ = "0.2.0"

__getattr__, __dir__, __all__ = renamed.attach(__name__, __file__)
