"""Baselines with the interface of the diffusion classifiers."""

import lazy_loader

# Loaded when first used.
__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "_clip": ["CLIPZeroShotClassifier"],
        "_features": ["DiffusionFeatures"],
        "_pretrained": ["PretrainedImageClassifier"],
        "_resnet_head": ["ResNetHead"],
        "_synthetic": ["SyntheticDataClassifier"],
    },
)
