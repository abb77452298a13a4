"""Shifts of photos: rotation, noise, blur and low contrast."""

import numpy as np
from scipy.ndimage import gaussian_filter, rotate


def turned(images, rng):
    """Rotate each image by 10 to 25 degrees to either side."""
    angles = rng.uniform(10, 25, len(images)) * rng.choice([-1, 1], len(images))
    pairs = zip(images, angles, strict=True)
    return [rotate(image, angle, reshape=False, order=1) for image, angle in pairs]


def noisy(images, rng):
    """Add Gaussian noise with a standard deviation of 0.1 of the range."""
    return images + rng.normal(0, 0.1 * 255, images.shape)


def blurred(images, rng):
    """Blur with a Gaussian of a standard deviation of 1.2 pixels."""
    return gaussian_filter(images, (0, 1.2, 1.2))


def pale(images, rng):
    """Reduce the contrast to 0.6 around the mean of each image."""
    means = images.mean(axis=(1, 2), keepdims=True)  # (n, 1, 1)
    return means + 0.6 * (images - means)


SHIFTS = {"rotation": turned, "noise": noisy, "blur": blurred, "contrast": pale}


def shift(images, name):
    """Apply a shift; the same photos give the same result.

    `images` is of shape (n, h, w) or (n, h, w, channels), uint8, and so is what is
    returned. All channels of an image are shifted alike.
    """
    if images.ndim == 4:
        channels = [shift(channel, name) for channel in np.moveaxis(images, -1, 0)]
        return np.stack(channels, axis=-1)
    shifted = SHIFTS[name](images.astype(np.float64), np.random.default_rng(0))
    return np.clip(np.rint(shifted), 0, 255).astype(np.uint8)
