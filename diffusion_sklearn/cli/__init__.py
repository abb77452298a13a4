"""Command line: ``diffusion-sklearn`` or ``python -m diffusion_sklearn``."""

from diffusion_sklearn.cli._main import main

__all__ = ["main"]
