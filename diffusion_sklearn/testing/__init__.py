"""Checks for a Backbone of one's own, and tiny pipelines of every family."""

from diffusion_sklearn.testing._checks import check_backbone
from diffusion_sklearn.testing._pipelines import tiny_pipelines

__all__ = ["check_backbone", "tiny_pipelines"]
