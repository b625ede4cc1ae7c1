from .fit import fit_samplers as fit_samplers
from .guidance import fitted_guidance as fitted_guidance
from .problem import Problem as Problem
from .settings import FitSettings as FitSettings
from .settings import GuidanceSearch as GuidanceSearch
