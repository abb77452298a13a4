"""Photos and scenes that ship, and the data sets of the paper."""

import lazy_loader

# Loaded when first used: the command line needs only the names of the data sets.
__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "_fashion_mnist": ["load_fashion_mnist", "load_fashion_photos"],
        "_fashion_scenes": ["Scene", "make_fashion_scenes"],
        "_fashion_winoground": ["load_fashion_winoground", "make_fashion_winoground"],
        "_filters": ["training_filter_report"],
        "_load": ["load_dataset"],
        "_scorers": ["ClipAestheticScorer", "ClipSafetyScorer", "SafetyCheckerScorer"],
        "_specs": ["DatasetSpec", "get_dataset_spec", "list_datasets"],
    },
)
