"""Images, inputs, copies and comparisons of the checks."""

import numpy as np
import torch

from diffusion_sklearn.backbones._devices import copy_to
from diffusion_sklearn.backbones._sources import quiet

PROMPTS = ["a blue bag", "a red shirt"]


def two_names(backbone):
    """Two prompts or class ids, sorted."""
    return [0, 1] if backbone.kind == "class" else PROMPTS


def make_images(backbone, n):
    """Random images, (n, size, size, 3) uint8."""
    shape = (n, backbone.image_size, backbone.image_size, 3)
    return np.random.RandomState(0).randint(0, 256, shape, dtype=np.uint8)


def to_tensor(images):
    """The same as a tensor in [-1, 1], (n, 3, size, size)."""
    return torch.from_numpy(images.transpose(0, 3, 1, 2) / 127.5 - 1)


def draw_noise(latents):
    """Standard normal noise of the shape of some latents."""
    noise = np.random.RandomState(1).standard_normal(latents.shape)
    return torch.from_numpy(noise).to(latents)


def make_inputs(backbone):
    """Three noised latents, their timesteps and conditions."""
    latents = backbone.encode(to_tensor(make_images(backbone, 3)))
    steps = [int(part * backbone.n_timesteps) for part in (0.2, 0.5, 0.8)]
    timesteps = torch.tensor(steps, device=latents.device)
    noised = backbone.add_noise(latents, draw_noise(latents), timesteps)
    return noised, timesteps, backbone.condition(two_names(backbone))[[0, 1, 0]]


def assert_output(name, tensor, shape, dtype, hint):
    """Check what a method of the backbone returns."""
    assert (tuple(tensor.shape), tensor.dtype) == (tuple(shape), dtype), (
        f"{name} returns shape {tuple(tensor.shape)} and {tensor.dtype} where "
        f"{tuple(shape)} and {dtype} are needed; {hint}."
    )
    assert tensor.isfinite().all(), f"{name} returns NaN or infinity."


def copy_backbone(backbone, dtype):
    """A backbone of the same family around a copy of the pipeline."""
    with quiet():
        copied = type(backbone)(copy_to(backbone.pipeline, backbone.device, dtype))
    copied.image_size = backbone.image_size
    return copied


def assert_close(actual, expected, message, tolerance=1e-4):
    """Compare to within a tolerance, relative to the largest expected value."""
    actual, expected = (torch.as_tensor(x).double().cpu() for x in (actual, expected))
    assert actual.shape == expected.shape, (
        f"{message}. The shapes are {tuple(actual.shape)} and {tuple(expected.shape)}."
    )
    difference = (actual - expected).abs().max() / expected.abs().max()
    assert difference <= tolerance, (  # False for NaN
        f"{message}. The largest difference is {difference:.2g} of the largest value."
    )
