"""Pretrained models that ship with the package, as diffusers folders."""
