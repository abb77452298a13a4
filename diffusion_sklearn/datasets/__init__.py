"""Real photos to try the classifiers on, and scenes composed of them."""

from diffusion_sklearn.datasets._fashion_mnist import (
    load_fashion_mnist,
    load_fashion_photos,
)
from diffusion_sklearn.datasets._fashion_scenes import Scene, make_fashion_scenes
from diffusion_sklearn.datasets._fashion_winoground import (
    load_fashion_winoground,
    make_fashion_winoground,
)

__all__ = [
    "Scene",
    "load_fashion_mnist",
    "load_fashion_photos",
    "load_fashion_winoground",
    "make_fashion_scenes",
    "make_fashion_winoground",
]
