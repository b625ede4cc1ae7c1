from .discrete import DiscreteSchedule as DiscreteSchedule
from .flow import FlowSchedule as FlowSchedule
from .gaussian import GaussianProcess as GaussianProcess
from .gaussian import Process as Process
from .noise import NoiseSource as NoiseSource
from .noise import ReplayNoise as ReplayNoise
from .noise import SeededNoise as SeededNoise
from .relay import RelayProcess as RelayProcess
from .schedule import QuantileSchedule as QuantileSchedule
from .schedule import Schedule as Schedule
from .schedule import VESchedule as VESchedule
from .schedule import VPCosineSchedule as VPCosineSchedule
from .schedule import VPLinearSchedule as VPLinearSchedule
from .vp_frame import FLOW_TIME as FLOW_TIME
from .vp_frame import Spacing as Spacing
from .vp_frame import check_levels as check_levels
from .vp_frame import from_vp as from_vp
from .vp_frame import spaced as spaced
from .vp_frame import to_vp as to_vp

KINDS: dict[str, dict[str, str]]
