"""Images and files inside a page of HTML."""

import base64
import io

import numpy as np
from PIL import Image


def data_uri(data, kind="image/png"):
    """Bytes as an address, for HTML.

    Parameters
    ----------
    data : bytes
    kind : str, default="image/png"
        Media type.

    Returns
    -------
    uri : str
    """
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def image_uri(pixels):
    """An image as an address, for HTML.

    Parameters
    ----------
    pixels : ndarray of shape (h, w) or (h, w, 3)
        uint8, or floats in [0, 1].

    Returns
    -------
    uri : str
    """
    if pixels.dtype != np.uint8:
        pixels = np.rint(pixels * 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    return data_uri(file.getvalue())
