"""Any pretrained conditional diffusion model as a scikit-learn classifier."""

from diffusion_sklearn._conditional import ConditionalDiffusionClassifier
from diffusion_sklearn._errors import DenoisingErrors
from diffusion_sklearn._read_image import ImageError
from diffusion_sklearn._store import ErrorStore
from diffusion_sklearn._versions import show_versions
from diffusion_sklearn._weights import fit_timestep_weights
from diffusion_sklearn._zero_shot import ZeroShotDiffusionClassifier
from diffusion_sklearn.backbones import Backbone, clear_cache, load_backbone
from diffusion_sklearn.baselines import CLIPZeroShotClassifier

__version__ = "0.1.0.dev0"

__all__ = [
    "Backbone",
    "CLIPZeroShotClassifier",
    "ConditionalDiffusionClassifier",
    "DenoisingErrors",
    "ErrorStore",
    "ImageError",
    "ZeroShotDiffusionClassifier",
    "clear_cache",
    "fit_timestep_weights",
    "load_backbone",
    "show_versions",
]
