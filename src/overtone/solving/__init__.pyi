from .fit import fit_samplers as fit_samplers
from .problem import Problem as Problem
from .settings import FitSettings as FitSettings
