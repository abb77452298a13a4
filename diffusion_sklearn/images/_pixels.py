"""Images in any form -> (n, 3, size, size) float32 pixels in [-1, 1]."""

import os
import reprlib
from collections import deque
from collections.abc import Collection, Mapping, Sequence

import numpy as np
import torch
from PIL import Image, ImageOps

from diffusion_sklearn.images._read import (
    ACCEPTED,
    CHANNELS,
    ImageError,
    check_channels,
    check_image,
    file_content,
    read_image,
)

FILES = (str, bytes, bytearray, memoryview, os.PathLike)


def holds_rows(X):
    """Whether `X` is a table of flat rows rather than a collection of images.

    Parameters
    ----------
    X : object
        What the user passed.

    Returns
    -------
    rows : bool
        True for what scikit-learn's ``validate_data`` should look at: numeric arrays
        of one or two dimensions, lists of numbers, data frames, sparse matrices.
    """
    if isinstance(X, (Image.Image, torch.Tensor)):
        return False
    if isinstance(X, (list, tuple)):
        return len(X) > 0 and not any(map(_is_image_like, X))
    if hasattr(X, "toarray"):  # sparse
        return True
    if not hasattr(X, "__array__"):
        return False
    X = np.asarray(X)
    if X.ndim not in (1, 2) or X.shape == (0,):
        return False
    one_column = X.ndim == 1 or X.shape[1] == 1
    may_hold_images = X.dtype.kind in "OUST" and one_column
    return not (may_hold_images and any(map(_is_image_like, X.flat)))


def _is_image_like(item):
    if isinstance(item, (np.ndarray, torch.Tensor)):
        return item.ndim >= 2
    if isinstance(item, (list, tuple)):  # nested lists of pixels
        return len(item) > 0 and isinstance(item[0], (list, tuple))
    return isinstance(item, (*FILES, Image.Image, dict)) or hasattr(item, "read")


def rows_to_images(rows, image_shape):
    """Reshape flat rows to images.

    Parameters
    ----------
    rows : ndarray of shape (n, n_features)
        Integers in 0..255 or floats in [0, 1].
    image_shape : tuple of int
        (height, width) or (height, width, channels), one of them -1 if wanted. With a
        -1, rows of any length are read and values outside the range are clipped.

    Returns
    -------
    images : ndarray of shape (n, height, width, channels)

    Raises
    ------
    ValueError
        If `image_shape` is missing or does not fit the rows.
    """
    if image_shape is None:
        raise ValueError(
            f"X is a table of {rows.shape[1]} columns and image_shape=None; pass "
            "image_shape=(height, width) or (height, width, channels) to read its rows "
            "as images. If X is one image, pass X[None]; otherwise pass "
            f"{ACCEPTED}."
        )
    image_shape = tuple(image_shape)
    try:
        images = rows.reshape(len(rows), *image_shape)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"image_shape={image_shape!r} does not fit rows of {rows.shape[1]} values; "
            f"pass integers whose product is {rows.shape[1]}, one of them -1 if wanted."
        ) from error
    if images.ndim not in (3, 4) or images.shape[3:] not in ((), (1,), (3,), (4,)):
        raise ValueError(
            f"image_shape={image_shape!r} must be (height, width) or (height, width, "
            "channels) with 1, 3 or 4 channels."
        )
    if -1 in image_shape and images.dtype.kind in "if":
        images = np.clip(images, 0, 1 if images.dtype.kind == "f" else 255)
    return images[..., None] if images.ndim == 3 else images


def check_images(X):
    """Check every image, so that most bad ones are seen before hours of work.

    No file is decoded: a file that breaks off after its header raises when it is read.

    Parameters
    ----------
    X : list, ndarray, Tensor, Series or other collection
        The images. Open files are read here.

    Returns
    -------
    images : sequence
        Of the same length, each item readable by :func:`read_image`.

    Raises
    ------
    ValueError
        If `X` is no collection of images or is empty.
    ImageError
        If an image can't be read.
    """
    if isinstance(X, (*FILES, Image.Image)) or hasattr(X, "read"):
        raise ValueError(
            f"X={reprlib.repr(X)} is a single image; pass a list of images, here [X]."
        )
    if isinstance(X, (list, tuple)):
        images = X
    elif isinstance(X, torch.Tensor):
        images = X.detach().cpu()
        _check_batch(images.shape, channels_first=True)
    elif hasattr(X, "__array__"):
        images = X if isinstance(X, np.ndarray) else np.asarray(X)
        if images.dtype.kind == "O" and images.ndim > 2:
            # NumPy opens PIL images of equal size that are made an object array.
            images = np.array(images.tolist())
        if images.dtype.kind in "OUST" and images.ndim > 0:
            images = list(images.ravel())
        else:
            _check_batch(images.shape, channels_first=False)
    elif isinstance(X, Sequence) and not isinstance(X, deque):
        images = X  # a column of the library datasets decodes when it is indexed
    elif isinstance(X, Collection) and not isinstance(X, (Mapping, set, frozenset)):
        images = list(X)
    else:
        raise ValueError(
            f"X={reprlib.repr(X)} is of type {type(X).__name__}; pass {ACCEPTED}."
        )
    if len(images) == 0:
        raise ValueError("X is empty: 0 images; pass at least one.")
    if isinstance(images, (list, tuple)):
        images = [
            file_content(image, f"X[{index}]") if hasattr(image, "read") else image
            for index, image in enumerate(images)
        ]
    for index in range(len(images)):
        try:
            image = images[index]
        except Exception as error:  # a column decodes, and a broken file may raise
            raise ImageError(f"X[{index}] can't be read. ({error})") from error
        check_image(image, index)
    return images


def _check_batch(shape, channels_first):
    shape = tuple(shape)
    if len(shape) not in (3, 4) and shape != (0,):
        raise ValueError(f"X has shape {shape}, of rank {len(shape)}; pass {ACCEPTED}.")
    if len(shape) == 4:
        check_channels("X", shape, channels_first)
    elif shape[2:] and (
        shape[2] in CHANNELS or (channels_first and shape[0] in CHANNELS[1:])
    ):
        single = "X[None]"
        if channels_first and shape[0] not in CHANNELS:
            single = "X.movedim(-1, 0)[None]"
        gray = "X[:, None]" if channels_first else "X[..., None]"
        raise ValueError(
            f"X has shape {shape} and looks like a single image; pass {single}, or, "
            f"if it holds gray images, {gray}."
        )


def to_pixels(images, size, first=0):
    """Read images and bring them to the model's size.

    Parameters
    ----------
    images : sequence
        Each item in any form that :func:`read_image` takes.
    size : int
        Side of the result in pixels.
    first : int, default=0
        Index of the first image, for error messages.

    Returns
    -------
    pixels : ndarray of shape (n, 3, size, size), float32
        In [-1, 1].

    Raises
    ------
    ImageError
        If an image can't be read.
    """
    pixels = np.empty((len(images), 3, size, size), np.float32)
    for index, image in enumerate(images):
        square = read_square(image, size, first + index)
        scale = 127.5 if square.dtype == np.uint8 else np.float32(0.5)
        square = np.atleast_3d(square / scale - 1)
        pixels[index] = np.moveaxis(square, -1, 0)  # gray fills all three
    return pixels


def read_square(image, size, index):
    """Decode one image and bring it to the model's size.

    Parameters
    ----------
    image : object
        As for :func:`read_image`.
    size : int
        Side of the result in pixels.
    index : int
        Its place in X, for error messages.

    Returns
    -------
    square : ndarray of shape (size, size) or (size, size, 3)
        uint8, or float32 in [0, 1]; itself an image, and left as it is by this
        function.

    Raises
    ------
    ImageError
        If it can't be read.
    """
    array = read_image(image, index)  # (h, w) or (h, w, 3)
    if array.dtype == np.uint8:
        return np.asarray(fit_square(Image.fromarray(array), size))
    planes = [
        fit_square(Image.fromarray(np.ascontiguousarray(plane)), size)
        for plane in np.moveaxis(np.atleast_3d(array), -1, 0)
    ]
    square = np.clip(np.stack(planes, axis=-1), 0, 1)
    return square[..., 0] if array.ndim == 2 else square


def fit_square(image, size):
    """Resize the short side to `size` and crop the centre, with Pillow's bicubic.

    Parameters
    ----------
    image : PIL.Image.Image
        Of mode "RGB", "L" or "F".
    size : int
        Side of the result in pixels.

    Returns
    -------
    square : PIL.Image.Image of size (size, size)
    """
    return ImageOps.fit(image, (size, size), Image.Resampling.BICUBIC)
