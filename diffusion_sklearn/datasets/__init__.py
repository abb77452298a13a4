"""Real photos to try the classifiers on, and scenes composed of them."""

from diffusion_sklearn.datasets._fashion_mnist import (
    load_fashion_mnist,
    load_fashion_photos,
)
from diffusion_sklearn.datasets._fashion_scenes import make_fashion_scenes

__all__ = ["load_fashion_mnist", "load_fashion_photos", "make_fashion_scenes"]
