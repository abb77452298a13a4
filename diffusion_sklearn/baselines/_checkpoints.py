"""What classifiers around a checkpoint of transformers have in common."""

from pathlib import Path

import numpy as np
from PIL import Image
from safetensors import SafetensorError
from tqdm.auto import tqdm

from diffusion_sklearn.backbones._sources import resolve_name
from diffusion_sklearn.images._read import read_image

IMAGES_AT_ONCE = 64


def describe_checkpoint(clf, bundled, kinds, parts):
    """Describe the checkpoint of a classifier so that it can be found again.

    Parameters
    ----------
    clf : estimator
        With the parameters `model`, `device` and `dtype`.
    bundled : dict of str to str
        Bundled models, and what each is.
    kinds : str
        What `model` may be, for the message.
    parts : str
        What has to be saved with the model, for the message.

    Returns
    -------
    spec : tuple of (str, str or None, str, str)
        Name, revision, device and dtype.

    Raises
    ------
    TypeError
        If `model` is no name.
    """
    if not isinstance(clf.model, (str, Path)):
        raise TypeError(
            f"model is of type {type(clf.model).__name__}; pass {kinds}. Save a loaded "
            f"model first, with its {parts}, by save_pretrained(folder)."
        )
    name, revision = resolve_name(clf.model, bundled)
    return name, revision, str(clf.device), str(clf.dtype).removeprefix("torch.")


def read_part(cls, source, **how):
    """Read a part of a checkpoint, with an OSError for whatever can't be read.

    Parameters
    ----------
    cls : type
        Of transformers.
    source : str
        Folder or Hub id.
    **how : object
        For ``cls.from_pretrained``.

    Returns
    -------
    part : object
        Of `cls`.
    """
    try:
        return cls.from_pretrained(source, **how)
    except (ValueError, SafetensorError) as error:
        raise OSError(str(error)) from error


def to_picture(image, index):
    """One image of whatever kind as a PIL image.

    Parameters
    ----------
    image : PIL image, path, array or Tensor
        As the classifiers take them.
    index : int
        Its place, for the message if it can't be read.

    Returns
    -------
    picture : PIL.Image.Image
        RGB.
    """
    array = read_image(image, index)  # (h, w) or (h, w, 3)
    if array.dtype != np.uint8:
        array = np.rint(np.clip(array, 0, 1) * 255).astype(np.uint8)
    return Image.fromarray(array).convert("RGB")


def pixels_for(model, processor, images, first=0):
    """Images as a model takes them.

    Parameters
    ----------
    model : PreTrainedModel
        Says the device and the dtype.
    processor : BaseImageProcessor
        That of the model.
    images : sequence
        In any form that the classifiers take.
    first : int, default=0
        Index of the first image, for error messages.

    Returns
    -------
    pixels : Tensor of shape (len(images), 3, height, width)
    """
    pictures = [to_picture(image, first + k) for k, image in enumerate(images)]
    pixels = processor(pictures, return_tensors="pt").pixel_values
    return pixels.to(model.device, model.dtype)


def run_in_parts(compute, images, batch_size, verbose):
    """Run a model on some images after the other.

    Parameters
    ----------
    compute : callable
        Takes some images and the index of their first; returns an ndarray of shape
        (n_some, d).
    images : sequence
        All of them.
    batch_size : int or "auto"
        How many at once.
    verbose : int
        1: a progress bar.

    Returns
    -------
    outputs : ndarray of shape (len(images), d)
    """
    at_once = IMAGES_AT_ONCE if batch_size == "auto" else batch_size
    parts = []
    with tqdm(total=len(images), unit="image", disable=not verbose) as bar:
        for start in range(0, len(images), at_once):
            part = images[start : start + at_once]
            parts.append(compute(part, start))
            bar.update(len(part))
    return np.concatenate(parts)
