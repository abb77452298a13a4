"""Images and labels of every kind: the answer of plain arrays, or a clear error.

``DIFFUSION_SKLEARN_FUZZ=20000 pytest tests/images/test_fuzz.py`` tries as many cases,
drawn at random; by default the same 500 are tried each time.
"""

import io
import os
import tempfile
import warnings
from collections import UserList, deque
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from diffusion_sklearn import ConditionalDiffusionClassifier
from diffusion_sklearn.images._pixels import (
    check_images,
    holds_rows,
    rows_to_images,
    to_pixels,
)

N_CASES = int(os.environ.get("DIFFUSION_SKLEARN_FUZZ", 0))
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
FOLDER = tempfile.TemporaryDirectory()  # removed at exit


def cases(fraction):
    return settings(
        max_examples=int(fraction * (N_CASES or 500)),
        derandomize=not N_CASES,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


def pil(array, mode=None):
    image = Image.fromarray(array)
    return image.convert(mode) if mode else image


def encoded(array, suffix="png", **options):
    file = io.BytesIO()
    pil(array).save(file, suffix, **options)
    return file.getvalue()


def on_disk(array):
    path = Path(FOLDER.name) / f"{hash(array.tobytes())}.png"
    pil(array).save(path)
    return path


def tensor(array):
    array = torch.from_numpy(np.ascontiguousarray(array))
    return array.movedim(-1, 0) if array.ndim == 3 else array


def palette(array):
    """At most 256 colours, each at its place in the palette."""
    flat = array.reshape(-1, array.shape[-1]) if array.ndim == 3 else array.ravel()
    colors, index = np.unique(flat, axis=0, return_inverse=True)
    image = Image.fromarray(index.reshape(array.shape[:2]).astype(np.uint8), "P")
    colors = colors if array.ndim == 3 else np.repeat(colors[:, None], 3, axis=1)
    image.putpalette(colors.astype(np.uint8).tobytes())
    return image


def clear(array):
    """An opaque alpha channel."""
    rgb = array if array.ndim == 3 else np.stack([array] * 3, axis=-1)
    alpha = np.full_like(rgb[..., :1], 255)
    return np.concatenate([rgb, alpha], axis=-1)


def with_profile(array):
    image = pil(array, "RGB")
    image.info["icc_profile"] = SRGB
    return image


BY_COPY = {  # form -> (how it is made, levels that it may differ by)
    **{
        f"array {kind}": (lambda a, kind=kind: a.astype(kind), 0)
        for kind in ("u1", "i2", "i4", "i8", "u4", "u8", ">i4", ">i8")
    },
    **{
        f"array {kind}": (lambda a, kind=kind: (a / 255).astype(kind), atol)
        for kind, atol in (("f2", 0.2), ("f4", 1e-3), ("f8", 1e-3), (">f4", 1e-3))
    },
    "array u2": (lambda a: a.astype("u2") * 257, 1e-3),
    "array fortran": (np.asfortranarray, 0),
    "array strided": (lambda a: np.repeat(a, 2, axis=1)[:, ::2], 0),
    "array read-only": (lambda a: np.frombuffer(a.tobytes(), "u1").reshape(a.shape), 0),
    "array rgba": (clear, 0),
    "array last 1": (lambda a: a[..., None] if a.ndim == 2 else a, 0),
    "nested list": (lambda a: a.tolist(), 0),
    "nested list of floats": (lambda a: (a / 255).tolist(), 1e-3),
    "tensor u1": (tensor, 0),
    "tensor i8": (lambda a: tensor(a).long(), 0),
    "tensor f4": (lambda a: tensor(a).float() / 255, 1e-3),
    "tensor f2": (lambda a: tensor(a).half() / 255, 0.2),
    "pil": (pil, 0),
    "pil RGB": (lambda a: pil(a, "RGB"), 0),
    "pil RGBA": (lambda a: pil(a, "RGBA"), 0),
    "pil RGBa": (lambda a: pil(a, "RGBA").convert("RGBa"), 0),
    "pil RGBX": (lambda a: pil(a, "RGB").convert("RGBX"), 0),
    "pil P": (palette, 0),
    "pil sRGB": (with_profile, 2),
    "pil broken profile": (lambda a: profiled(a, b"broken"), 0),
    "png": (encoded, 0),
    "bytearray": (lambda a: bytearray(encoded(a)), 0),
    "memoryview": (lambda a: memoryview(encoded(a)), 0),
    **{
        suffix: (lambda a, suffix=suffix: encoded(a, suffix, **lossless(suffix)), 0)
        for suffix in ("bmp", "tiff", "ppm", "webp", "tga", "sgi", "gif")
    },
    "file": (lambda a: io.BytesIO(encoded(a)), 0),
    "file at its end": (lambda a: at_end(encoded(a)), 0),
    "str": (lambda a: str(on_disk(a)), 0),
    "path": (on_disk, 0),
    "row": (lambda a: {"bytes": encoded(a), "path": None}, 0),
    "row of a path": (lambda a: {"bytes": None, "path": str(on_disk(a))}, 0),
}
GRAY = {
    "pil LA": (lambda a: pil(a, "LA"), 0),
    "pil La": (lambda a: pil(a, "LA").convert("La"), 0),
    "pil I;16": (lambda a: pil(a.astype("u2") * 257), 1e-3),
    "pil I": (lambda a: pil(a.astype("i4") * 257), 1e-3),
    "pil F": (lambda a: pil((a / 255).astype("f4")), 1e-3),
    "png 16": (lambda a: encoded(a.astype("u2") * 257), 1e-3),
}
CONTAINERS = {
    "list": list,
    "tuple": tuple,
    "deque": deque,
    "values": lambda items: dict(enumerate(items)).values(),
    "user list": UserList,
    "series": lambda items: pd.Series(items, index=range(5, 5 + len(items))),
    "frame": lambda items: pd.DataFrame({"image": pd.Series(items)}),
    "object array": lambda items: object_array(items),
}


def lossless(suffix):
    return {"lossless": True} if suffix == "webp" else {}


def at_end(data):
    file = io.BytesIO(data)
    file.seek(0, io.SEEK_END)
    return file


def profiled(array, profile):
    image = pil(array)
    image.info["icc_profile"] = profile
    return image


def object_array(items):
    array = np.empty(len(items), object)
    array[:] = items
    return array


@st.composite
def pictures(draw):
    """(n, h, w) or (n, h, w, 3) of uint8: few levels or many, all sizes."""
    n, height, width = (draw(st.integers(1, top)) for top in (3, 9, 9))
    channels = draw(st.sampled_from([(), (3,)]))
    top = draw(st.sampled_from([0, 1, 255, 255]))
    seed = draw(st.integers(0, 2**16))
    shape = (n, height, width, *channels)
    return np.random.default_rng(seed).integers(0, top, shape, np.uint8, True)


def pixels_of(X, size):
    """As the estimators read images."""
    assert not holds_rows(X)
    return to_pixels(check_images(X), size)


def plain(images):
    rgb = images if images.ndim == 4 else np.stack([images] * 3, axis=-1)
    side = min(images.shape[1:3])  # the model's size: pixels are cropped, not scaled
    return side, to_pixels(check_images(rgb), side)


def assert_same(pixels, expected, levels):
    # A crop at half a pixel is rounded where the pixels are bytes.
    atol = (levels + 0.51) / 127.5 if levels else 1e-6
    np.testing.assert_allclose(pixels, expected, rtol=0, atol=atol)


@cases(0.5)
@given(pictures(), st.sampled_from([*CONTAINERS]), st.data())
def test_every_kind_of_image_in_every_container(images, container, data):
    size, expected = plain(images)
    forms = BY_COPY if images.ndim == 4 else {**BY_COPY, **GRAY}
    names = [data.draw(st.sampled_from([*forms])) for _ in images]
    items = [forms[name][0](image) for name, image in zip(names, images, strict=True)]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*broken|.*ICC profile")
        X = CONTAINERS[container](items)
        pixels = pixels_of(X, size)
    assert_same(pixels, expected, max(forms[name][1] for name in names))


@cases(0.2)
@given(pictures(), st.sampled_from([n for n in BY_COPY if n[:5] in ("array", "tenso")]))
def test_arrays_and_rows(images, name):
    """One array or tensor of all images, and flat rows; or one image that is alone."""
    size, expected = plain(images)
    make, levels = BY_COPY[name]
    items = [make(image) for image in images]
    stack = torch.stack if isinstance(items[0], torch.Tensor) else np.stack
    X, layout = stack(items), items[0].ndim
    is_array = isinstance(X, np.ndarray)
    gray = images.ndim == 3
    looks_single = layout == 2 and (
        X.shape[2] in (1, 3, 4) or (not is_array and X.shape[0] in (3, 4))
    )
    if looks_single:  # n gray images, or one
        with pytest.raises(ValueError, match=r"X has shape .* pass X.*\[None\].*gray"):
            check_images(X)
        X = X[..., None] if is_array else X[:, None]
    assert_same(pixels_of(X, size), expected, levels)
    if layout == 3:  # one image without its batch axis
        with pytest.raises(ValueError, match=r"X has shape .* pass X.*\[None\]"):
            if is_array or X.shape[1] in (3, 4) or X.shape[3] in (1, 3, 4):
                check_images(X[0])
            else:
                raise ValueError("X has shape (1, h, w): pass X[None], the same images")
    if is_array and gray == (layout == 2):
        rows = X.reshape(len(X), -1)
        assert holds_rows(rows)
        assert_same(
            pixels_of(rows_to_images(rows, items[0].shape), size), expected, levels
        )


@cases(0.1)
@given(pictures(), st.sampled_from(["u2", ">u2", "I", "I;16"]))
def test_8_bit_values_in_16_bits(images, kind):
    """They are nearly black, which a warning says."""
    images = images[..., 0] if images.ndim == 4 else images
    deep = images.astype("i4" if kind == "I" else "u2")
    X = [pil(image) for image in deep] if kind[0] == "I" else deep[..., None]
    if images.any():
        with pytest.warns(UserWarning, match=r"X\[\d\] has 16 bits .* uint8"):
            to_pixels(check_images(X), 4)
    else:
        to_pixels(check_images(X), 4)


BAD = {
    "scaled by 255": lambda a: a.astype(float) + 2,
    "standardised": lambda a: a / 255.0 - 1.5,
    "NaN": lambda a: np.full(a.shape, np.nan),
    "negative": lambda a: a.astype(int) - 300,
    "too deep": lambda a: a.astype(int) + 256,
    "complex": lambda a: a + 1j,
    "two channels": lambda a: np.stack([a[..., 0], a[..., 0]], axis=-1),
    "a vector": lambda a: a.ravel()[:1],
    "None": lambda a: None,
    "a number": lambda a: 3.0,
    "broken file": lambda a: encoded(a)[:30],
    "text": lambda a: b"no image",
    "missing": lambda a: "no-such-file.png",
    "text file": lambda a: io.StringIO("text"),
    "closed file": lambda a: closed(),
    "empty row": lambda a: {"bytes": None, "path": None},
    "another dict": lambda a: {"image": a},
    "no pixels": lambda a: a[:0],
    "date": lambda a: np.datetime64("now"),
}


def closed():
    file = io.BytesIO(b"")
    file.close()
    return file


@cases(0.1)
@given(pictures(), st.sampled_from([*BAD]), st.sampled_from([*CONTAINERS]), st.data())
def test_errors_name_the_image(images, kind, container, data):
    images = images if images.ndim == 4 else np.stack([images] * 3, axis=-1)
    items = [*map(pil, images)]
    index = data.draw(st.integers(0, len(items)))
    items.insert(index, BAD[kind](images[0]))
    event(kind)
    with pytest.raises(ValueError, match=rf"(?s)X\[{index}\].*(;|pass|remove|check)"):
        to_pixels(check_images(CONTAINERS[container](items)), 4)


LABELS = {
    "list": list,
    "tuple": tuple,
    "deque": deque,
    "values": lambda y: dict(enumerate(y)).values(),
    "array": np.array,
    "object": lambda y: np.array(y, object),
    "series": lambda y: pd.Series(y, index=range(7, 7 + len(y))),
    "category": lambda y: pd.Series(y, dtype="category"),
    "column": lambda y: np.array(y)[:, None].ravel(),
}
STRINGS = {
    "string": lambda y: pd.Series(y, dtype="string"),
    "StringDType": lambda y: np.array(y, np.dtypes.StringDType()),
    "str_": lambda y: [np.str_(label) for label in y],
}
INTEGERS = {
    kind: lambda y, kind=kind: np.array(y, kind)
    for kind in ("i1", "u1", "i2", "i8", ">i4", "u8")
} | {"Int64": lambda y: pd.Series(y, dtype="Int64")}
IMAGE = np.random.default_rng(0).integers(0, 256, (1, 8, 8, 3), np.uint8)
TINY_NAMES = ["ant", "bee", "cat", "hound", "eel"]  # by class id
known = {}


@pytest.fixture(scope="module")
def clf(dit_folder):
    return ConditionalDiffusionClassifier(model=dit_folder, n_trials=2, pruning=None)


@cases(0.1)
@given(
    st.lists(st.integers(0, 4), min_size=1, max_size=8).filter(
        lambda ids: len(set(ids)) > 1
    ),
    st.booleans(),
    st.sampled_from([None, None, np.nan, pd.NA, "", " ", 2.5, b"ant"]),
    st.data(),
)
def test_labels_of_every_type(clf, ids, are_names, wrong, data):
    y = [TINY_NAMES[k] for k in ids] if are_names else ids
    kinds = LABELS | (STRINGS if are_names else INTEGERS)
    kind = data.draw(st.sampled_from([*kinds]))
    expected = sorted({TINY_NAMES[k] for k in ids}) if are_names else sorted(set(ids))
    event(kind)
    if wrong is not None and are_names and kind in ("list", "object", "series"):
        with pytest.raises((ValueError, TypeError), match=r"y has|y mixes|[Ll]abel"):
            clf.set_params(class_ids=None).fit(y=kinds[kind]([*y, wrong]))
        return
    clf.set_params(class_ids=None if are_names else "labels").fit(y=kinds[kind](y))
    assert clf.classes_.tolist() == expected
    assert clf.class_ids_.tolist() == [
        TINY_NAMES.index(label) if are_names else label for label in expected
    ]
    proba = dict(zip(clf.class_ids_, clf.predict_proba(IMAGE)[0], strict=True))
    first = known.setdefault(tuple(sorted(proba)), proba)
    np.testing.assert_allclose(
        [proba[k] for k in sorted(proba)], [first[k] for k in sorted(first)], rtol=1e-5
    )
