"""What to compare with: other classifiers with the same manners."""

from diffusion_sklearn.baselines._clip import CLIPZeroShotClassifier
from diffusion_sklearn.baselines._features import DiffusionFeatures
from diffusion_sklearn.baselines._pretrained import PretrainedImageClassifier
from diffusion_sklearn.baselines._resnet_head import ResNetHead
from diffusion_sklearn.baselines._synthetic import SyntheticDataClassifier

__all__ = [
    "CLIPZeroShotClassifier",
    "DiffusionFeatures",
    "PretrainedImageClassifier",
    "ResNetHead",
    "SyntheticDataClassifier",
]
