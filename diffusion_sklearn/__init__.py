"""Any pretrained conditional diffusion model as a scikit-learn classifier."""

import lazy_loader

__version__ = "0.1.0.dev0"

# Loaded when first used: importing the package imports neither torch nor diffusers.
__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=[
        "backbones",
        "baselines",
        "datasets",
        "inspection",
        "metrics",
        "testing",
    ],
    submod_attrs={
        "backbones": ["Backbone", "clear_cache", "load_backbone"],
        "baselines": ["CLIPZeroShotClassifier"],
        "classifiers": [
            "ConditionalDiffusionClassifier",
            "ZeroShotDiffusionClassifier",
            "fit_class_offsets",
            "fit_prefilter_weight",
            "fit_timestep_weights",
            "fit_trial_covariance",
        ],
        "engine": ["DenoisingErrors", "ErrorStore", "TrialCovariance"],
        "images": ["ImageError"],
        "_versions": ["show_versions"],
    },
)
