"""Displays of how a diffusion classifier decides, as in scikit-learn."""

import lazy_loader

# Loaded when first used.
__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "_comparison": [
            "ClassifierComparison",
            "ClassifierComparisonDisplay",
            "compare_classifiers",
        ],
        "_denoising_error": ["DenoisingErrorDisplay"],
        "_effective_robustness": ["EffectiveRobustnessDisplay"],
        "_evidence": ["EvidenceDisplay"],
        "_timestep_accuracy": ["TimestepAccuracyDisplay"],
        "_trial_scaling": ["TrialScalingDisplay"],
    },
)
