from .configs.classifier import ClassifierRecipe as ClassifierRecipe
from .configs.denoising import DenoisingRecipe as DenoisingRecipe
from .configs.denoising import ExpertSettings as ExpertSettings
from .configs.distillation import DistillationRecipe as DistillationRecipe
from .configs.halving import HalvingRecipe as HalvingRecipe
from .configs.recipe import Recipe as Recipe
from .configs.training import Reporting as Reporting
from .configs.training import Training as Training
from .configs.vae import VAERecipe as VAERecipe
from .objectives import DenoisingObjective as DenoisingObjective
from .objectives import Objective as Objective
from .recipes import RECIPES as RECIPES
from .recipes import find_recipe as find_recipe
from .task import Task as Task
from .train import train as train

KINDS: dict[str, dict[str, str]]
