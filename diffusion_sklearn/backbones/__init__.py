"""Diffusion models: one small file a family, and how they are loaded."""

from diffusion_sklearn.backbones._base import Backbone
from diffusion_sklearn.backbones._conditions import Conditions
from diffusion_sklearn.backbones._loading import load_backbone
from diffusion_sklearn.backbones._sources import clear_cache

__all__ = ["Backbone", "Conditions", "clear_cache", "load_backbone"]
