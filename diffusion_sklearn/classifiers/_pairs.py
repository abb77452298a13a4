"""Images and captions to be matched -> which caption is scored on which image."""

import os

import numpy as np
import torch
from PIL import Image

from diffusion_sklearn.images._read import CHANNELS


def read_pairs(images, captions, read_images):
    """Lay out examples of images and captions.

    Parameters
    ----------
    images : sequence
        Images; or, where `captions` is nested, one group of images for each of its
        rows: a list of lists, or an array of shape (n, m, height, width[, channels]).
    captions : array-like of str, of shape (k,) or (n, k)
        Captions for all images, or those of each group.
    read_images : callable
        Checks a collection of images.

    Returns
    -------
    images : sequence
        The images of all groups, one after the other, as `read_images` returns them.
    texts : list of str
        The different captions.
    columns : ndarray of shape (n_images, k), int64
        Places in `texts` of the captions that each image is scored with.
    shape : tuple of int
        Of the scores: (n_images, k), or (n, m, k).

    Raises
    ------
    ValueError
        If `captions` holds anything but str, or the groups do not fit.
    """
    try:
        table = np.array(captions, dtype=object)
    except ValueError:  # rows of different length, of some NumPy versions
        table = np.empty(0, object)
    ragged = any(isinstance(text, (list, tuple)) for text in table.flat)
    if table.ndim not in (1, 2) or table.size == 0 or ragged:
        raise ValueError(
            f"captions={captions!r} is no list of str; pass one, or a list of lists of "
            "equal length, one for each group of images."
        )
    invalid = [text for text in table.flat if not isinstance(text, str)]
    if invalid:
        raise ValueError(f"captions has {invalid[0]!r}; every caption must be a str.")
    texts = list(dict.fromkeys(table.flat))
    place = {text: k for k, text in enumerate(texts)}
    columns = np.vectorize(place.get, otypes=[np.int64])(table)
    if table.ndim == 1:
        images = read_images(images)
        columns = np.tile(columns, (len(images), 1))
        return images, texts, columns, columns.shape

    n_groups, n_captions = table.shape
    if len(images) != n_groups:
        raise ValueError(
            f"images has {len(images)} groups and captions {n_groups}; pass as many, "
            "or a flat list of captions to score each with every image."
        )
    n_axes = getattr(images, "ndim", 0)
    fewest = 5 if isinstance(images, torch.Tensor) else 4
    if 3 <= n_axes < fewest or (n_axes < 3 and any(map(_is_one_image, images))):
        raise ValueError(
            "captions is nested and images holds no groups; pass a group of images for "
            "each row of captions: a list of lists, or an array of shape (n, m, "
            "height, width[, channels])."
        )
    if n_axes > 3:
        per_group = images.shape[1]
        flat = images.reshape(-1, *images.shape[2:])
    else:
        groups = [list(group) for group in images]
        per_group = len(groups[0])
        if any(len(group) != per_group for group in groups):
            raise ValueError(
                "images has groups of different sizes; pass as many images in each."
            )
        flat = [image for group in groups for image in group]
    columns = columns.repeat(per_group, axis=0)
    return read_images(flat), texts, columns, (n_groups, per_group, n_captions)


def _is_one_image(group):
    """Whether what should be a group of images is a single one."""
    if isinstance(group, (Image.Image, str, os.PathLike)):
        return True
    shape = getattr(group, "shape", ())
    return len(shape) == 2 or (len(shape) == 3 and shape[2] in CHANNELS)
