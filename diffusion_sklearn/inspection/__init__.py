"""Figures that show how a diffusion classifier decides, in scikit-learn's manner."""

from diffusion_sklearn.inspection._denoising_error import DenoisingErrorDisplay
from diffusion_sklearn.inspection._effective_robustness import (
    EffectiveRobustnessDisplay,
)
from diffusion_sklearn.inspection._evidence import EvidenceDisplay
from diffusion_sklearn.inspection._timestep_accuracy import TimestepAccuracyDisplay
from diffusion_sklearn.inspection._trial_scaling import TrialScalingDisplay

__all__ = [
    "DenoisingErrorDisplay",
    "EffectiveRobustnessDisplay",
    "EvidenceDisplay",
    "TimestepAccuracyDisplay",
    "TrialScalingDisplay",
]
