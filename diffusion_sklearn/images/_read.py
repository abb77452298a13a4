"""One image of any kind -> an array of gray or RGB pixels."""

import io
import os
import reprlib
import warnings
from functools import lru_cache

import numpy as np
import torch
from PIL import Image, ImageCms, UnidentifiedImageError

try:
    import pillow_heif
except ImportError:
    pass
else:
    pillow_heif.register_heif_opener()

ACCEPTED = (
    "a list of PIL images or paths (or bytes or open files), an array of shape "
    "(n, height, width[, channels]) of uint8 or of floats in [0, 1], or a "
    "torch tensor of shape (n, channels, height, width)"
)
CHANNELS = (1, 3, 4)
TOLERANCE = 1e-3  # how far resized floats may overshoot [0, 1]
# What undoes each EXIF orientation. Pillow's exif_transpose also rewrites the EXIF
# and fails where that is damaged, though the pixels are fine.
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
EXIF_ORIENTATION = 0x0112
NEEDS_HEIF = (
    "HEIC and HEIF need the package pillow-heif: pip install 'diffusion-sklearn[heif]'"
)
HEIF_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}
PROFILE_MODES = {"RGB ": "RGB", "GRAY": "L", "CMYK": "CMYK"}
HINTS = (  # the first that fits what reading a file has raised
    (FileNotFoundError, "does not exist; check the path"),
    (IsADirectoryError, "is a folder; pass the paths of the files in it"),
    (UnidentifiedImageError, "is no image; remove it or convert it to PNG or JPEG"),
    (
        Image.DecompressionBombError,
        "is too large; shrink it, or raise PIL.Image.MAX_IMAGE_PIXELS if you trust it",
    ),
    (Exception, "can't be opened; replace or remove it"),
)


class ImageError(ValueError, OSError):
    """An image can't be read. The message names its index and path.

    It is a ValueError and an OSError, so that either ``except`` catches it.

    Examples
    --------
    >>> from diffusion_sklearn import ConditionalDiffusionClassifier, ImageError
    >>> clf = ConditionalDiffusionClassifier(model="fashion-dit")
    >>> clf = clf.fit(classes=["bag", "sandal"])
    >>> try:
    ...     clf.predict(["no-such-photo.png"])
    ... except ImageError as error:
    ...     print(str(error).partition(". (")[0])
    X[0] (no-such-photo.png) does not exist; check the path
    """


def read_image(image, index):
    """Decode one image as a viewer would show it.

    Orientation from EXIF, ICC profiles, palettes, transparency (on white), grayscale,
    16 bit and CMYK are resolved; a file with an animation gives its first frame.

    Parameters
    ----------
    image : PIL.Image.Image, path, bytes, file, dict, ndarray, Tensor or nested list
        The image. Bytes are the content of a file; a dict has ``"bytes"`` or
        ``"path"``, as a row of the library ``datasets``.
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
    where = f"X[{index}]"
    if isinstance(image, (list, tuple)):
        try:
            image = np.asarray(image)
        except ValueError as error:
            raise ImageError(
                f"{where}={reprlib.repr(image)} is a nested list of uneven lengths; "
                "pass an array of shape (height, width[, channels])."
            ) from error
    if isinstance(image, (np.ndarray, torch.Tensor)):
        return _read_array(_channels_last(image, where), where)
    if isinstance(image, Image.Image):
        path = getattr(image, "filename", "")
        return _read_pil(image, f"{where} ({path})" if path else where)
    return _read_file(*_file_of(image, where), _read_pil)


def check_image(image, index):
    """Check one image without decoding its file, so that most bad ones are seen early.

    Parameters
    ----------
    image : object
        As for :func:`read_image`. Of a file the header is read; an array is checked as
        a whole.
    index : int
        Its place in X, for error messages.

    Raises
    ------
    ImageError
        If it can't be read or holds impossible values.
    """
    if isinstance(image, (np.ndarray, torch.Tensor, list, tuple)):
        read_image(image, index)
    elif not isinstance(image, Image.Image):
        _read_file(*_file_of(image, f"X[{index}]"), lambda image, _: None)


def file_content(file, where):
    """Bytes of an open file, from its start.

    Parameters
    ----------
    file : file-like
        Opened for reading bytes.
    where : str
        Its place in X, for error messages.

    Returns
    -------
    content : bytes

    Raises
    ------
    ImageError
        If it can't be read, or was opened as text.
    """
    try:
        if file.seekable():
            file.seek(0)
        content = file.read()
    except Exception as error:  # files of other libraries may raise anything
        raise ImageError(
            f"{where}={file!r} can't be read; open it again, or pass its path. "
            f"({error})"
        ) from error
    if isinstance(content, str):
        raise ImageError(
            f"{where}={file!r} was opened as text; open it with mode 'rb'."
        )
    return content


def _file_of(image, where):
    """Path of an image, or a file of its bytes, and `where` with a name."""
    if isinstance(image, dict) and {"bytes", "path"} & image.keys():
        data, path = image.get("bytes"), image.get("path")
        image = path if data is None else data
        where += f" ({path})" if path and data is not None else ""
    if hasattr(image, "read"):
        return io.BytesIO(file_content(image, where)), where
    if isinstance(image, (bytes, bytearray, memoryview)):
        return io.BytesIO(image), f"{where}={reprlib.repr(bytes(image))}"
    if isinstance(image, (str, os.PathLike)):
        return image, f"{where} ({os.fsdecode(image)})"
    raise ImageError(
        f"{where}={reprlib.repr(image)} is of type {type(image).__name__}; pass as X "
        f"{ACCEPTED}."
    )


def _read_file(file, where, read):
    try:
        with Image.open(file) as image:
            return read(image, where)
    except ImageError:
        raise
    except Exception as error:  # a broken file may raise anything
        hint = next(hint for kind, hint in HINTS if isinstance(error, kind))
        if isinstance(error, UnidentifiedImageError) and _is_heif(file):
            hint = f"can't be read: {NEEDS_HEIF}"
        elif isinstance(error, UnidentifiedImageError) and isinstance(file, io.BytesIO):
            hint = "is of bytes that are no image; pass a path as str (os.fsdecode)"
        raise ImageError(f"{where} {hint}. ({error})") from error


def _is_heif(file):
    if isinstance(file, io.BytesIO):
        head = file.getvalue()[:12]
    else:
        with open(file, "rb") as opened:
            head = opened.read(12)
    return head[4:8] == b"ftyp" and head[8:] in HEIF_BRANDS


def _read_pil(image, where):
    try:
        image.load()
        orientation = image.getexif().get(EXIF_ORIENTATION)
    except Exception as error:  # a broken file may raise anything
        raise ImageError(
            f"{where} can't be decoded; replace or remove its file if it is broken, "
            f"open it again if it was closed. ({error})"
        ) from error
    if orientation in UPRIGHT:
        image = image.transpose(UPRIGHT[orientation])
    if 0 in image.size:
        raise ImageError(f"{where} has size {image.size} and no pixels; remove it.")
    try:
        if image.mode == "La":  # of which Pillow knows one conversion
            image = image.convert("LA")
        elif image.mode == "LAB":
            lab, srgb = map(ImageCms.createProfile, ("LAB", "sRGB"))
            image = ImageCms.profileToProfile(image, lab, srgb, outputMode="RGB")
        if image.mode != "F" and image.info.get("icc_profile"):
            image = _to_srgb(image, where)
        if image.mode.startswith("I"):
            return _read_deep(image, where)
        if image.mode == "F":
            array = np.asarray(image)
        elif image.has_transparency_data:
            array = np.asarray(image.convert("RGBA"))
        else:
            is_gray = image.mode in ("1", "L")
            array = np.asarray(image.convert("L" if is_gray else "RGB"))
    except ImageError:
        raise
    except ValueError as error:
        raise ImageError(
            f"{where} has mode {image.mode!r}, which can't be read; convert it to "
            f"'RGB', 'RGBA' or 'L' first. ({error})"
        ) from error
    return _read_array(array, where)


def _to_srgb(image, where):
    """Apply the ICC profile of an image; one for other kinds of pixels is ignored."""
    try:
        mode, transform = _srgb_transform(image.info["icc_profile"])
    except Exception as error:  # a broken profile may raise anything
        warnings.warn(
            f"{where} has an ICC profile that can't be read ({error}); its pixels are "
            "taken as sRGB.",
            UserWarning,
            stacklevel=2,
        )
        return image
    is_gray = image.mode in ("1", "L", "LA") or image.mode.startswith("I")
    if mode is None or (mode == "CMYK") != (image.mode == "CMYK"):
        return image
    if mode == "L" and not is_gray:
        return image
    if image.mode.startswith("I"):
        levels = _read_deep(image, where) * 255
        image = Image.fromarray(np.rint(levels).astype(np.uint8))
    alpha = None
    if image.has_transparency_data:
        alpha = image.convert("RGBA").getchannel("A")
    image = transform.apply(image.convert(mode))
    if alpha is not None:
        image.putalpha(alpha)
    return image


@lru_cache(maxsize=8)
def _srgb_transform(profile):
    """Mode of the pixels that a profile is for (None: another), and the transform."""
    source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    mode = PROFILE_MODES.get(source.profile.xcolor_space)
    if mode is None:
        return None, None
    srgb = ImageCms.createProfile("sRGB")
    return mode, ImageCms.buildTransform(source, srgb, mode, "RGB")


def _read_deep(image, where):
    """Integer modes, "I;16" and its kin: 16 bits a pixel -> floats in [0, 1]."""
    levels = np.asarray(image)
    if levels.min() < 0 or levels.max() > 65535:
        raise ImageError(
            f"{where} has mode {image.mode!r} and values from {levels.min()} to "
            f"{levels.max()}, outside of 16 bits; convert it to 8 bit first."
        )
    clear = levels == image.info.get("transparency")
    return np.where(clear, np.float32(1), _from_16_bits(levels, where))


def _from_16_bits(levels, where):
    if 0 < levels.max() <= 255:
        warnings.warn(
            f"{where} has 16 bits a pixel and no value above 255, so it is nearly "
            "black. If its values are those of 8 bits, pass it as uint8.",
            UserWarning,
            stacklevel=2,
        )
    return (levels / 65535).astype(np.float32)


def _channels_last(image, where):
    """Check the shape of an array or tensor -> (height, width[, channels])."""
    is_tensor = isinstance(image, torch.Tensor)
    shape = tuple(image.shape)
    if len(shape) not in (2, 3):
        raise ImageError(
            f"{where} has shape {shape}, of rank {len(shape)}; an image must be of "
            "shape (height, width) or, with 1, 3 or 4 channels, (height, width, "
            "channels) as an array and (channels, height, width) as a tensor."
        )
    if len(shape) == 3:
        check_channels(where, shape, channels_first=is_tensor)
    if np.ma.is_masked(image):
        raise ImageError(f"{where} has masked pixels; give them values with filled().")
    if not is_tensor:
        return np.asarray(image)
    image = image.detach().cpu()
    image = image.float().numpy() if image.is_floating_point() else image.numpy()
    return np.moveaxis(image, 0, -1) if image.ndim == 3 else image


def _read_array(array, where):
    """Bring (height, width[, channels]) of any dtype to what `read_image` returns."""
    kind = array.dtype.kind
    if 0 in array.shape:
        raise ImageError(
            f"{where} has shape {array.shape} and no pixels; remove it or replace it."
        )
    if kind == "b":
        array = array.astype(np.uint8) * np.uint8(255)
    elif kind == "u" and array.dtype.itemsize == 2:
        array = _from_16_bits(array, where)
    elif kind in "iu":
        array = _within(array, 255, where).astype(np.uint8)
    elif kind == "f":
        array = _within(array.astype(np.float32), 1, where)
    else:
        raise ImageError(
            f"{where} has dtype {array.dtype}; pass uint8 or floats in [0, 1]."
        )
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    elif array.ndim == 3 and array.shape[2] == 4:
        array = _on_white(array)
    return array


def _within(array, top, where):
    """Clip to [0, top] what overshoots it a little; raise where it does by more."""
    low, high = array.min(), array.max()
    if not np.isfinite(low) or not np.isfinite(high):
        raise ImageError(
            f"{where} contains NaN or infinity; remove it or repair its pixels."
        )
    slack = TOLERANCE if top == 1 else 0
    if low < -slack or high > top + slack:
        raise ImageError(
            f"{where} has values from {low:.6g} to {high:.6g}; {array.dtype} must be "
            f"in [0, {top}]: scale it, for instance X / 255 or (X + 1) / 2, or "
            "pass uint8. Standardised values can't be read as pixels."
        )
    return np.clip(array, 0, top)


def _on_white(array):
    """Lay (height, width, 4) over white."""
    top = np.float32(255 if array.dtype == np.uint8 else 1)
    color, alpha = array[..., :3], array[..., 3:] / top
    flat = color * alpha + top * (1 - alpha)
    return np.rint(flat).astype(np.uint8) if top == 255 else flat


def check_channels(where, shape, channels_first):
    """Raise unless an axis holds 1, 3 or 4 channels.

    Parameters
    ----------
    where : str
        What the shape is of, for the message.
    shape : tuple of int
        (..., height, width, channels), or (..., channels, height, width).
    channels_first : bool
        Which of the two.

    Raises
    ------
    ImageError
        With a hint if the channels are at the other place.
    """
    if shape[-3 if channels_first else -1] in CHANNELS:
        return
    fix = ""
    if channels_first and shape[-1] in CHANNELS:
        fix = f" It looks channels last: pass {where}.movedim(-1, -3)."
    elif not channels_first and shape[-3] in CHANNELS:
        fix = f" It looks channels first: pass np.moveaxis({where}, -3, -1)."
    raise ImageError(
        f"{where} has shape {shape}; its "
        f"{'third from last' if channels_first else 'last'} axis must hold 1, 3 or 4 "
        f"channels.{fix}"
    )
