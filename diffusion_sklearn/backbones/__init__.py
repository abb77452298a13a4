"""Diffusion models: one small file a family, and how they are loaded."""

from importlib import import_module
from pkgutil import iter_modules

from diffusion_sklearn._sources import clear_cache
from diffusion_sklearn.backbones._base import Backbone
from diffusion_sklearn.backbones._loading import load_backbone

# Every file here may hold a family.
for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")

__all__ = ["Backbone", "clear_cache", "load_backbone"]
