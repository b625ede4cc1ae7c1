from .adm import ADMUNet as ADMUNet
from .classifier import Classifier as Classifier
from .configs.adm import ADMConfig as ADMConfig
from .configs.classifier import ClassifierConfig as ClassifierConfig
from .configs.diffit import DiffiTConfig as DiffiTConfig
from .configs.diffit import DiffiTTransformerConfig as DiffiTTransformerConfig
from .configs.dsno import DSNOConfig as DSNOConfig
from .configs.dsno import TemporalConfig as TemporalConfig
from .configs.experts import ExpertsConfig as ExpertsConfig
from .configs.iunet import IUNetConfig as IUNetConfig
from .configs.network import NetworkConfig as NetworkConfig
from .configs.song import SongConfig as SongConfig
from .configs.vae import VAEConfig as VAEConfig
from .diffit import DiffiTTransformer as DiffiTTransformer
from .diffit import DiffiTUNet as DiffiTUNet
from .dsno import DSNOUNet as DSNOUNet
from .dsno import OperatorNetwork as OperatorNetwork
from .dsno import TemporalNetwork as TemporalNetwork
from .dsno import temporalize as temporalize
from .experts import Experts as Experts
from .foreign import DiffusersNetwork as DiffusersNetwork
from .iunet import IUNet as IUNet
from .network import Network as Network
from .network import load_network as load_network
from .song import SongUNet as SongUNet
from .vae import VAE as VAE

KINDS: dict[str, dict[str, str]]
