from .ancestral import AncestralSampler as AncestralSampler
from .estimates import EstimateKind as EstimateKind
from .loop import SamplingLoop as SamplingLoop
from .loop import Step as Step
from .operator import OperatorSampler as OperatorSampler
from .repaint import ResamplingSampler as ResamplingSampler
from .sampler import Sampler as Sampler
from .sampler import budget_grid as budget_grid
from .sampler import sigma_grid as sigma_grid
from .schedulers import SchedulerSampler as SchedulerSampler
from .schedulers import scheduler_of as scheduler_of

KINDS: dict[str, dict[str, str]]
