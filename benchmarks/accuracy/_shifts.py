"""Photos as no model here has seen them: turned, noisy, blurred, of low contrast."""

import numpy as np
from scipy.ndimage import gaussian_filter, rotate


def turned(images, rng):
    """Each by 10 to 25 degrees to either side."""
    angles = rng.uniform(10, 25, len(images)) * rng.choice([-1, 1], len(images))
    pairs = zip(images, angles, strict=True)
    return [rotate(image, angle, reshape=False, order=1) for image, angle in pairs]


def noisy(images, rng):
    """With Gaussian noise of a standard deviation of 0.1 of the range of values."""
    return images + rng.normal(0, 0.1 * 255, images.shape)


def blurred(images, rng):
    """With a Gaussian of a standard deviation of 1.2 pixels."""
    return gaussian_filter(images, (0, 1.2, 1.2))


def pale(images, rng):
    """At 0.6 of the contrast, around the mean of each."""
    means = images.mean(axis=(1, 2), keepdims=True)  # (n, 1, 1)
    return means + 0.6 * (images - means)


SHIFTS = {"rotation": turned, "noise": noisy, "blur": blurred, "contrast": pale}


def shift(images, name):
    """Shift photos, and the same photos always in the same way.

    `images` is of shape (n, h, w), uint8, and so is what is returned.
    """
    shifted = SHIFTS[name](images.astype(np.float64), np.random.default_rng(0))
    return np.clip(np.rint(shifted), 0, 255).astype(np.uint8)
