"""Samplers fitted to a model: the fewest evaluations for images that hardly differ.

fit.py        what is fitted, checked and kept
problem.py    starts, and the converged images that they lead to
grid.py       where the search begins: noise levels of grids, under each form of the estimate
settings.py   how it is done
unrolled.py   the sampler with noise levels and weights that carry gradients
guidance.py   the scale, the interval and the frequencies of guidance
descent.py    Adam on them, by gradients through the sampler or by differences
"""

from overtone import renamed

__getattr__, __dir__, __all__ = renamed.attach(__name__, __file__)
