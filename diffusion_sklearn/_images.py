"""Whatever the user has -> (n, 3, size, size) float32 pixels in [-1, 1]."""

import os
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

ACCEPTED = (
    "a list of PIL images or paths, an array of shape (n, height, width[, channels]) "
    "of uint8 or of floats in [0, 1], or a torch tensor of shape "
    "(n, channels, height, width)"
)
TOLERANCE = 1e-3  # how far resized floats may overshoot [0, 1]


class ImageError(ValueError, OSError):
    """An image can't be read. The message names its index and path."""


def holds_rows(X):
    """Tell whether `X` is a table of flat rows rather than a collection of images.

    Parameters
    ----------
    X : object
        What the user passed.

    Returns
    -------
    rows : bool
        True for what scikit-learn's ``validate_data`` should look at: numeric arrays
        of up to two dimensions, lists of numbers, data frames, sparse matrices.
    """
    if isinstance(X, (Image.Image, str, Path, torch.Tensor)):
        return False
    if isinstance(X, (list, tuple)):
        return len(X) > 0 and not _is_image_like(X[0])
    if not isinstance(X, np.ndarray):
        if hasattr(X, "toarray"):  # sparse
            return True
        X = np.asarray(X)
    if X.ndim > 2:
        return False
    if X.dtype.kind in "OUS":
        one_column = X.ndim <= 1 or X.shape[1] == 1
        return not (one_column and X.size and _is_image_like(X.flat[0]))
    return True


def _is_image_like(item):
    if isinstance(item, (np.ndarray, torch.Tensor)):
        return item.ndim >= 2
    return isinstance(item, (Image.Image, str, bytes, os.PathLike))


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
    images : ndarray of shape (n, height, width[, channels])

    Raises
    ------
    ValueError
        If `image_shape` is missing or does not fit the rows.
    """
    if image_shape is None:
        raise ValueError(
            f"X is a table of {rows.shape[1]} columns and image_shape=None; pass "
            "image_shape=(height, width) or (height, width, channels) to read its rows "
            f"as images, or pass {ACCEPTED}."
        )
    try:
        images = rows.reshape(len(rows), *image_shape)
    except ValueError as error:
        raise ValueError(
            f"image_shape={tuple(image_shape)!r} does not fit rows of "
            f"{rows.shape[1]} values; their product must be {rows.shape[1]}."
        ) from error
    if -1 in image_shape:
        images = np.clip(images, 0, 1 if images.dtype.kind == "f" else 255)
    return images


def check_images(X):
    """Read every image once, so that a bad one is found before hours of work.

    Parameters
    ----------
    X : list, ndarray, Tensor or Series
        The images.

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
    if isinstance(X, (Image.Image, str, Path)):
        raise ValueError(
            f"X is a single {type(X).__name__}; pass a list of images, here [X]."
        )
    if isinstance(X, torch.Tensor):
        _check_rank(X.shape, channels_first=True)
        images = X.detach()
    elif isinstance(X, np.ndarray) and X.dtype.kind not in "OUS":
        _check_rank(X.shape, channels_first=False)
        images = X
    elif isinstance(X, (list, tuple)):
        images = X
    elif hasattr(X, "__array__"):  # object arrays, pandas and polars
        array = np.asarray(X)
        images = list(array.ravel()) if array.dtype.kind in "OUS" else array
    else:
        raise ValueError(f"X is of type {type(X).__name__}; pass {ACCEPTED}.")
    if len(images) == 0:
        raise ValueError("X is empty: 0 images; pass at least one.")
    for index, image in enumerate(images):
        read_image(image, index)
    return images


def _check_rank(shape, channels_first):
    if len(shape) == 4 and not channels_first and shape[3] not in (1, 3, 4):
        hint = ""
        if shape[1] in (1, 3, 4):
            hint = " It looks channels first: pass X.transpose(0, 2, 3, 1)."
        raise ValueError(
            f"X has shape {tuple(shape)}: the last axis of an array of images must be "
            f"1, 3 or 4 channels.{hint}"
        )
    if len(shape) == 4 and channels_first and shape[1] not in (1, 3, 4):
        hint = ""
        if shape[3] in (1, 3, 4):
            hint = " It looks channels last: pass X.permute(0, 3, 1, 2)."
        raise ValueError(
            f"X has shape {tuple(shape)}: the second axis of a tensor of images must "
            f"be 1, 3 or 4 channels.{hint}"
        )
    if len(shape) not in (3, 4):
        raise ValueError(
            f"X has shape {tuple(shape)}, of rank {len(shape)}; pass {ACCEPTED}."
        )


def to_pixels(images, size, first=0):
    """Read images and bring them to the model's size.

    Parameters
    ----------
    images : sequence
        PIL images, paths, arrays (height, width[, channels]) or tensors
        (channels, height, width).
    size : int
        Side of the result in pixels.
    first : int, default=0
        Index of the first image, for error messages.

    Returns
    -------
    pixels : ndarray of shape (n, 3, size, size), float32
        In [-1, 1].
    """
    pixels = np.empty((len(images), 3, size, size), np.float32)
    for index, image in enumerate(images):
        array = read_image(image, first + index)  # (h, w) or (h, w, 3)
        if array.dtype == np.uint8:
            square = np.asarray(fit_square(Image.fromarray(array), size)) / 127.5 - 1
        else:
            planes = array[..., None] if array.ndim == 2 else array
            planes = [
                fit_square(Image.fromarray(np.ascontiguousarray(plane)), size)
                for plane in np.moveaxis(planes, -1, 0)
            ]
            square = np.clip(np.stack(planes, axis=-1) * 2 - 1, -1, 1)
        square = square[..., None] if square.ndim == 2 else square
        pixels[index] = np.moveaxis(square, -1, 0)  # gray fills all three
    return pixels


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
    width, height = image.size
    short = min(width, height)
    left, top = (width - short) / 2, (height - short) / 2
    box = (left, top, left + short, top + short)
    return image.resize((size, size), Image.Resampling.BICUBIC, box=box)


def read_image(image, index):
    """Decode one image as a viewer would show it.

    Orientation from EXIF, palettes, transparency (on white), grayscale, 16 bit and
    CMYK are resolved; an animation gives its first frame.

    Parameters
    ----------
    image : PIL.Image.Image, str, Path, ndarray or Tensor
        The image.
    index : int
        Its place in X, for error messages.

    Returns
    -------
    array : ndarray of shape (height, width) or (height, width, 3)
        uint8, or float32 in [0, 1].

    Raises
    ------
    ImageError
        If it can't be read or holds impossible values.
    """
    if isinstance(image, torch.Tensor):
        image = image.detach().cpu()
        image = image.float() if image.is_floating_point() else image
        image = np.moveaxis(image.numpy(), 0, -1) if image.ndim == 3 else image.numpy()
    if isinstance(image, np.ndarray):
        return _read_array(image, index)
    if isinstance(image, Image.Image):
        return _read_pil(image, f"X[{index}]")
    if isinstance(image, (str, os.PathLike)):
        where = f"X[{index}] ({os.fspath(image)!r})"
        try:
            with Image.open(image) as opened:
                return _read_pil(opened, where)
        except ImageError:
            raise
        except FileNotFoundError as error:
            raise ImageError(
                f"{where}: there is no such file; check the path."
            ) from error
        except UnidentifiedImageError as error:
            raise ImageError(
                f"{where} is no image that Pillow can read; remove it or convert it to "
                "PNG or JPEG."
            ) from error
        except OSError as error:
            raise ImageError(
                f"{where} can't be read ({error}); remove it or replace the file."
            ) from error
    raise ImageError(f"X[{index}] is of type {type(image).__name__}; pass {ACCEPTED}.")


def _read_pil(image, where):
    """Decode a PIL image of any mode."""
    try:
        image = ImageOps.exif_transpose(image)
        image.load()
    except (OSError, SyntaxError) as error:
        raise ImageError(
            f"{where} can't be decoded ({error}); the file may be truncated: replace "
            "or remove it."
        ) from error
    if image.mode.startswith("I"):
        return _read_deep(image, where)
    if image.mode == "F":
        return _in_unit_range(np.asarray(image, np.float32), where)
    if image.mode in ("1", "L"):
        image = image.convert("L")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image).convert("RGB")
    elif image.mode != "L":
        image = image.convert("RGB")
    return np.asarray(image)


def _read_deep(image, where):
    """Integer modes, "I;16" and its kin: 16 bits a pixel."""
    levels = np.asarray(image).astype(np.int64)
    if levels.size and (levels.min() < 0 or levels.max() > 65535):
        raise ImageError(
            f"{where} has mode {image.mode!r} and values from {levels.min()} to "
            f"{levels.max()}, outside of 16 bits; convert it to 8 bit first."
        )
    return (levels / 65535).astype(np.float32)


def _read_array(array, index):
    where = f"X[{index}]"
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (3, 4)):
        raise ImageError(
            f"{where} has shape {array.shape}; an image array must be (height, width) "
            "or (height, width, channels) with 1, 3 or 4 channels."
        )
    if 0 in array.shape:
        raise ImageError(f"{where} has shape {array.shape}: it has no pixels.")
    kind = array.dtype.kind
    if array.dtype == np.uint16:
        array = (array / 65535).astype(np.float32)
    elif kind == "b":
        array = array.astype(np.uint8) * np.uint8(255)
    elif kind in "iu":
        if array.min() < 0 or array.max() > 255:
            raise ImageError(
                f"{where} has integers from {array.min()} to {array.max()}; pass "
                "uint8 from 0 to 255, uint16, or floats in [0, 1]."
            )
        array = array.astype(np.uint8)
    elif kind == "f":
        array = _in_unit_range(array, where)
    else:
        raise ImageError(f"{where} has dtype {array.dtype}; pass uint8 or floats.")
    if array.ndim == 3 and array.shape[2] == 4:
        array = _on_white(array)
    return np.ascontiguousarray(array)


def _in_unit_range(array, where):
    low, high = array.min(), array.max()
    if not np.isfinite(low) or not np.isfinite(high):
        raise ImageError(
            f"{where} contains NaN or infinity; remove it or repair its pixels."
        )
    if low < -TOLERANCE or high > 1 + TOLERANCE:
        raise ImageError(
            f"{where} has floats from {low:.4g} to {high:.4g}, outside of [0, 1]; "
            "scale them, for instance X / 255 or (X + 1) / 2, or pass uint8."
        )
    return np.clip(array, 0, 1).astype(np.float32)


def _on_white(array):
    """Lay (height, width, 4) over white."""
    top = np.iinfo(np.uint8).max if array.dtype == np.uint8 else 1
    color, alpha = array[..., :3].astype(np.float32), array[..., 3:] / np.float32(top)
    flat = color * alpha + top * (1 - alpha)
    return np.rint(flat).astype(np.uint8) if top == 255 else flat.astype(np.float32)
