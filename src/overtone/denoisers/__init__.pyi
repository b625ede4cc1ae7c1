from .build import denoiser_of as denoiser_of
from .denoiser import Denoiser as Denoiser
from .denoiser import Estimate as Estimate
from .denoiser import Model as Model
from .experts import ExpertDenoiser as ExpertDenoiser
from .foreign import DiffusersDenoiser as DiffusersDenoiser
from .guidance import GuidanceSettings as GuidanceSettings
from .guided import GuidedDenoiser as GuidedDenoiser
from .ideal import IdealDenoiser as IdealDenoiser
from .kept import KeptDenoiser as KeptDenoiser
from .network import EDMDenoiser as EDMDenoiser
from .network import NetworkDenoiser as NetworkDenoiser
from .network import VEDenoiser as VEDenoiser
from .network import VPDenoiser as VPDenoiser
from .operator import SolutionOperator as SolutionOperator
from .preconditioning import ADM_DIFFUSION as ADM_DIFFUSION
from .preconditioning import EDMPreconditioning as EDMPreconditioning
from .preconditioning import FlowPreconditioning as FlowPreconditioning
from .preconditioning import OperatorPreconditioning as OperatorPreconditioning
from .preconditioning import Preconditioning as Preconditioning
from .preconditioning import ScorePreconditioning as ScorePreconditioning
from .preconditioning import VEPreconditioning as VEPreconditioning
from .preconditioning import VPPreconditioning as VPPreconditioning

KINDS: dict[str, dict[str, str]]
