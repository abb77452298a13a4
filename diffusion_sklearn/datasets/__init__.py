"""Photos and scenes that ship, and the data sets of the paper."""

from diffusion_sklearn.datasets._fashion_mnist import (
    load_fashion_mnist,
    load_fashion_photos,
)
from diffusion_sklearn.datasets._fashion_scenes import Scene, make_fashion_scenes
from diffusion_sklearn.datasets._fashion_winoground import (
    load_fashion_winoground,
    make_fashion_winoground,
)
from diffusion_sklearn.datasets._filters import training_filter_report
from diffusion_sklearn.datasets._load import load_dataset
from diffusion_sklearn.datasets._scorers import (
    ClipAestheticScorer,
    ClipSafetyScorer,
    SafetyCheckerScorer,
)
from diffusion_sklearn.datasets._specs import (
    DatasetSpec,
    get_dataset_spec,
    list_datasets,
)

__all__ = [
    "ClipAestheticScorer",
    "ClipSafetyScorer",
    "DatasetSpec",
    "SafetyCheckerScorer",
    "Scene",
    "get_dataset_spec",
    "list_datasets",
    "load_dataset",
    "load_fashion_mnist",
    "load_fashion_photos",
    "load_fashion_winoground",
    "make_fashion_scenes",
    "make_fashion_winoground",
    "training_filter_report",
]
