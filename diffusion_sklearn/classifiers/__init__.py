"""The scikit-learn estimators."""

from diffusion_sklearn.classifiers._class_offsets import fit_class_offsets
from diffusion_sklearn.classifiers._conditional import ConditionalDiffusionClassifier
from diffusion_sklearn.classifiers._prefilter_weight import fit_prefilter_weight
from diffusion_sklearn.classifiers._timestep_weights import fit_timestep_weights
from diffusion_sklearn.classifiers._trial_covariance import fit_trial_covariance
from diffusion_sklearn.classifiers._zero_shot import ZeroShotDiffusionClassifier

__all__ = [
    "ConditionalDiffusionClassifier",
    "ZeroShotDiffusionClassifier",
    "fit_class_offsets",
    "fit_prefilter_weight",
    "fit_timestep_weights",
    "fit_trial_covariance",
]
