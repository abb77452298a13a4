"""Images in any form -> pixels of the model's size."""

from diffusion_sklearn.images._read import ImageError

__all__ = ["ImageError"]
