import io
import tracemalloc
from collections import UserList, deque

import datasets
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image, ImageCms
from scipy.sparse import csr_array

from diffusion_sklearn import ConditionalDiffusionClassifier, ImageError
from diffusion_sklearn.images import _read
from diffusion_sklearn.images._pixels import (
    check_images,
    holds_rows,
    rows_to_images,
    to_pixels,
)

# Four corners of a square, each a block of 8 x 8 pixels of one colour.
RED, GREEN, BLUE, GRAY = (250, 20, 10), (30, 200, 40), (0, 60, 240), (128, 128, 128)
CORNERS = np.kron([[0, 1], [2, 3]], np.ones((8, 8), int))  # (16, 16)
PICTURE = np.array([RED, GREEN, BLUE, GRAY], np.uint8)[CORNERS]  # (16, 16, 3)
LUMA = np.array([0, 90, 180, 255], np.uint8)[CORNERS]  # (16, 16)


def levels(X, size=16):
    """Pixels of all images on the scale of 0 to 255 -> (n, size, size, 3)."""
    pixels = to_pixels(check_images(X), size)
    assert pixels.shape == (len(X), 3, size, size)
    assert pixels.dtype == np.float32
    assert pixels.min() >= -1 and pixels.max() <= 1
    return np.moveaxis((pixels + 1) * 127.5, 1, -1)


def assert_shows(X, expected, atol=0.51):
    expected = np.asarray(expected, float)
    if expected.ndim == 2:
        expected = np.repeat(expected[..., None], 3, axis=-1)
    for shown in levels(X, len(expected)):
        np.testing.assert_allclose(shown, expected, atol=atol)


def bad(X, *says, kind=ImageError):
    with pytest.raises(kind) as caught:
        levels(X)
    for words in says:
        assert words in str(caught.value)


@pytest.fixture
def png(tmp_path):
    Image.fromarray(PICTURE).save(tmp_path / "picture.png")
    return tmp_path / "picture.png"


def test_gray_modes():
    assert_shows([Image.fromarray(LUMA)], LUMA)
    assert_shows([Image.fromarray(LUMA > 100)], (LUMA > 100) * 255)  # mode 1
    deep = LUMA.astype(np.uint16) * 257
    for image in (deep, deep.astype(np.int32), (LUMA / 255).astype(np.float32)):
        image = Image.fromarray(image)
        assert image.mode in ("I;16", "I", "F")
        assert_shows([image], LUMA)


@pytest.mark.parametrize(
    "mode, atol",
    [("RGB", 0.51), ("RGBX", 0.51), ("CMYK", 1), ("YCbCr", 3), ("HSV", 5)],
)
def test_color_modes(mode, atol):
    assert_shows([Image.fromarray(PICTURE).convert(mode)], PICTURE, atol)


def test_palette():
    image = Image.fromarray(CORNERS.astype(np.uint8), "P")
    image.putpalette([*RED, *GREEN, *BLUE, *GRAY])
    assert_shows([image], PICTURE)
    image.info["transparency"] = 1
    clear = np.where((CORNERS == 1)[..., None], 255, PICTURE)
    assert_shows([image], clear)
    file = io.BytesIO()
    image.save(file, "PNG", transparency=bytes([255, 0, 255, 255]))
    assert_shows([Image.open(file)], clear)


def test_alpha_is_laid_on_white():
    alpha = np.array([255, 0, 51, 255], np.uint8)[CORNERS][..., None]
    over_white = PICTURE * (alpha / 255) + 255 * (1 - alpha / 255)
    rgba = np.concatenate([PICTURE, alpha], axis=-1)
    tensor = torch.from_numpy(rgba / 255).permute(2, 0, 1)
    for image in (Image.fromarray(rgba), rgba, rgba / 255, tensor):
        assert_shows([image], over_white)
    gray = np.stack([LUMA, alpha[..., 0]], axis=-1)
    over_white = LUMA * (alpha[..., 0] / 255) + 255 - alpha[..., 0]
    assert_shows([Image.fromarray(gray, "LA")], over_white)


def test_gray_png_with_transparent_level(tmp_path):
    for dtype, factor in ((np.uint8, 1), (np.uint16, 257)):
        path = tmp_path / f"{factor}.png"
        image = Image.fromarray(LUMA.astype(dtype) * dtype(factor))
        image.save(path, transparency=90 * factor)
        assert_shows([path], np.where(LUMA == 90, 255, LUMA))


@pytest.mark.parametrize(
    "orientation, stored",
    [
        (1, PICTURE),
        (2, PICTURE[:, ::-1]),
        (3, PICTURE[::-1, ::-1]),
        (4, PICTURE[::-1]),
        (5, PICTURE.swapaxes(0, 1)),
        (6, np.rot90(PICTURE)),  # a viewer turns it clockwise
        (7, np.rot90(PICTURE, 2).swapaxes(0, 1)),
        (8, np.rot90(PICTURE, -1)),
        (99, PICTURE),
    ],
)
def test_exif_orientation(orientation, stored, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = orientation
    for name in ("a.jpg", "a.png"):
        options = {"quality": 100, "subsampling": 0} if name == "a.jpg" else {}
        image = Image.fromarray(np.ascontiguousarray(stored))
        image.save(tmp_path / name, exif=exif, **options)
        assert_shows([tmp_path / name], PICTURE, atol=4)


def test_animation_gives_first_frame(tmp_path):
    frames = [Image.new("RGB", (8, 8), color) for color in (RED, GREEN, BLUE)]
    path = tmp_path / "a.gif"
    frames[0].save(path, save_all=True, append_images=frames[1:])
    with Image.open(path) as opened:
        assert_shows([path, opened], np.full((8, 8, 3), RED), atol=4)


def test_cmyk_jpeg(tmp_path):
    image = Image.new("CMYK", (8, 8), (0, 255, 255, 0))  # magenta and yellow ink
    image.save(tmp_path / "a.jpg", quality=100)
    assert_shows([tmp_path / "a.jpg"], np.full((8, 8, 3), (255, 0, 0)), atol=3)


@pytest.mark.parametrize("suffix", ["jpg", "png"])
@pytest.mark.parametrize("kept", [0.0, 0.02, 0.5])
def test_truncated_file(suffix, kept, tmp_path, png):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    path = tmp_path / f"half.{suffix}"
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[: int(kept * path.stat().st_size)])
    bad([png, path], "X[1]", str(path), "remove")


def test_files_that_are_no_images(tmp_path, png, monkeypatch):
    text = tmp_path / "notes.txt"
    text.write_text("not an image")
    bad([png, png, text], f"X[2] ({text})", "is no image", "PNG or JPEG")
    bad([tmp_path / "none.png"], f"X[0] ({tmp_path / 'none.png'})", "check the path")
    bad([str(tmp_path)], f"X[0] ({tmp_path})", "is a folder; pass the paths")
    bad(["a\0.png"], "X[0]", "can't be opened")
    header = png.read_bytes()[:45]  # the chunk that follows has a bad name and length
    png.write_bytes(header)
    bad([png], "X[0]", str(png))
    Image.fromarray(PICTURE).save(png)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    bad([png], "X[0]", str(png), "too large", "MAX_IMAGE_PIXELS")


def test_closed_and_empty_images(png):
    image = Image.open(png)
    image.close()
    bad([image], f"X[0] ({png})", "open it again")
    bad([PICTURE, Image.new("RGB", (0, 5))], "X[1]", "no pixels")
    deep = Image.fromarray(np.array([[0, 70_000]], np.int32))
    bad([deep], "X[0]", "'I'", "70000", "8 bit")


def test_odd_sizes():
    assert_shows([np.full((1, 1, 3), RED, np.uint8)], np.full((5, 5, 3), RED))
    tracemalloc.start()
    for shape in ((20_000, 1, 3), (1, 20_000, 3)):
        image = np.full(shape, 255, np.uint8)
        image.reshape(-1, 3)[10_000:] = RED
        image.reshape(-1, 3)[9_900:10_100] = GREEN
        assert_shows([image], np.full((16, 16, 3), GREEN))  # the centre
        assert_shows([image / 255], np.full((16, 16, 3), GREEN))
    assert tracemalloc.get_traced_memory()[1] < 10e6
    tracemalloc.stop()


def test_array_shapes_and_dtypes():
    gray, color = np.stack([LUMA, LUMA]), PICTURE[None]
    assert_shows(gray, LUMA)
    assert_shows(gray[..., None], LUMA)
    for dtype in (np.uint8, np.int64, np.int16, ">i4"):
        assert_shows(color.astype(dtype), PICTURE)
    for dtype in (np.uint16, ">u2"):
        assert_shows((color.astype(int) * 257).astype(dtype), PICTURE)
    for dtype, atol in ((">f4", 0.51), (np.float64, 0.51), (np.float16, 0.6)):
        assert_shows((color / 255).astype(dtype), PICTURE, atol)
    assert_shows(gray > 100, (LUMA > 100) * 255)
    assert_shows(gray / 255 * 1.0005, LUMA)  # within rounding of [0, 1]


def test_tensor_shapes_and_dtypes():
    gray = torch.from_numpy(np.stack([LUMA, LUMA]))
    color = torch.from_numpy(PICTURE[None]).permute(0, 3, 1, 2)
    assert_shows(gray, LUMA)
    assert_shows(gray[:, None], LUMA)
    assert_shows(color, PICTURE)
    assert_shows(list(color), PICTURE)
    assert_shows((color / 255).requires_grad_(), PICTURE)
    assert_shows(list((color / 255).requires_grad_()), PICTURE)
    assert_shows((color / 255).bfloat16(), PICTURE, atol=1)
    assert_shows((color / 255).half(), PICTURE)


@pytest.mark.parametrize(
    "X, says",
    [
        (np.full((2, 9, 9, 3), 127.0), ["X[0]", "127", "[0, 1]", "X / 255"]),
        (np.full((2, 9, 9, 3), -0.5), ["X[0]", "-0.5", "[0, 1]", "(X + 1) / 2"]),
        (np.full((2, 9, 9), np.nan), ["X[0]", "NaN"]),
        (torch.full((1, 3, 9, 9), np.inf), ["X[0]", "infinity"]),
        (np.full((2, 9, 9, 3), 256), ["X[0]", "256", "[0, 255]"]),
        (np.full((2, 9, 9, 3), -1), ["X[0]", "-1", "[0, 255]"]),
        (np.zeros((2, 9, 9), complex), ["X[0]", "complex128", "uint8"]),
        (np.ma.masked_equal(np.eye(9)[None], 1), ["X[0]", "masked", "filled"]),
        (np.zeros((2, 0, 9)), ["X[0]", "(0, 9)", "no pixels"]),
        (np.zeros((2, 3, 9, 9)), ["X has shape (2, 3, 9, 9)", "np.moveaxis(X, -3"]),
        (torch.zeros(2, 9, 9, 3), ["X has shape (2, 9, 9, 3)", "X.movedim(-1, -3)"]),
        ([np.zeros((3, 9, 9))], ["X[0] has shape (3, 9, 9)", "np.moveaxis(X[0]"]),
        ([torch.zeros(9, 9, 3)], ["X[0] has shape (9, 9, 3)", "X[0].movedim"]),
        (np.zeros((2, 9, 9, 2)), ["X has shape (2, 9, 9, 2)", "1, 3 or 4"]),
        (np.zeros(5), ["X has shape (5,)", "(n, height, width"]),
        (np.zeros((1, 1, 9, 9, 3)), ["X has shape (1, 1, 9, 9, 3)", "rank 5"]),
        (torch.zeros(9, 9), ["X has shape (9, 9)", "(n, channels"]),
        (np.array(1.0), ["X has shape ()"]),
        ([LUMA, LUMA[0]], ["X[1] has shape (16,)", "(height, width)"]),
        (PICTURE, ["X has shape (16, 16, 3)", "single image", "X[None]"]),
        ([LUMA, None], ["X[1]", "None", "NoneType", "PIL images or paths"]),
        (pd.Series([np.nan, "a.png"]), ["X[0]", "nan", "float"]),
        ([LUMA, b"abc"], ["X[1]", "b'abc'", "bytes"]),
        ([], ["X is empty", "at least one"]),
        (np.array([]), ["X is empty"]),
        (np.zeros((0, 9, 9, 3)), ["X is empty"]),
        (torch.zeros(0, 3, 9, 9), ["X is empty"]),
        (pd.Series([], dtype=object), ["X is empty"]),
        (Image.fromarray(LUMA), ["X=", "single image", "[X]"]),
        ("a.png", ["X='a.png'", "single image", "[X]"]),
        ((image for image in [LUMA]), ["X=", "generator", "pass a list"]),
        ({"a": 1}, ["X={'a': 1}", "dict", "pass a list"]),
        (None, ["X=None", "pass a list"]),
    ],
)
def test_errors_name_parameter_value_and_fix(X, says):
    assert not holds_rows(X) or np.shape(X) == (5,)
    bad(X, *says, kind=ValueError)


def test_containers_give_what_each_image_gives_alone(png):
    tensor = torch.from_numpy(PICTURE).permute(2, 0, 1)
    mixed = [str(png), png, PICTURE, Image.open(png), tensor, PICTURE / 255, LUMA]
    for X in (mixed[:-1], tuple(mixed[:-1])):
        assert_shows(X, PICTURE)
    alone = [levels([image])[0] for image in mixed]
    np.testing.assert_array_equal(levels(mixed), alone)

    filled = np.empty(len(mixed), object)
    filled[:] = mixed
    np.testing.assert_array_equal(levels(filled), alone)
    np.testing.assert_array_equal(levels(pd.Series(filled)), alone)


@pytest.mark.parametrize("dtype", [object, "string", "str", "category"])
def test_paths_in_series_frames_and_arrays(dtype, png):
    series = pd.Series([str(png)] * 2, index=[7, 3], dtype=dtype)
    for X in (series, series.to_frame(), np.array(series.astype(str).tolist())):
        assert not holds_rows(X)
        assert_shows(X, PICTURE)


def test_images_that_numpy_opens():
    X = np.array([Image.fromarray(PICTURE)] * 2, dtype=object)
    assert_shows(X, PICTURE)


def test_resize_equals_pillow_resize_then_crop():
    noise = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)
    wide = Image.fromarray(noise)
    expected = wide.resize((48, 32), Image.Resampling.BICUBIC).crop((8, 0, 40, 32))
    assert_shows([wide, noise], expected, atol=1.01)
    assert_shows([noise / 255], expected, atol=2)
    assert_shows([wide.rotate(90, expand=True)], np.rot90(expected), atol=1.01)


# Containers --------------------------------------------------------------------------


def test_collections_of_images(png):
    paths = [str(png), str(png)]
    by_name = dict(zip("ab", paths, strict=True))
    for X in (deque(paths), by_name.values(), UserList(paths)):
        assert not holds_rows(X)
        assert_shows(X, PICTURE)
    bad(set(paths), "X={", "of type set; pass a list", kind=ValueError)
    bad(by_name, "of type dict; pass a list", kind=ValueError)


@pytest.mark.parametrize("decode", [True, False])
def test_column_of_hugging_face_datasets(png, decode, classifier):
    rows = datasets.Dataset.from_dict({"image": [str(png)] * 3, "label": [0, 1, 0]})
    rows = rows.cast_column("image", datasets.Image(decode=decode))
    assert_shows(rows["image"], PICTURE)
    assert_shows(rows["image"][:2], PICTURE)
    expected = classifier.predict_proba([png] * 3)
    np.testing.assert_array_equal(classifier.predict_proba(rows["image"]), expected)
    if decode:
        assert_shows(rows.with_format("numpy")["image"], PICTURE)
    bad(rows, "X=Dataset", "of type Dataset; pass a list", kind=ValueError)
    png.write_bytes(b"broken")
    bad(rows["image"], "X[0]")


def test_bytes_and_open_files(png, tmp_path):
    data = png.read_bytes()
    with png.open("rb") as file:
        file.seek(7)
        for image in (data, bytearray(data), memoryview(data), io.BytesIO(data), file):
            assert_shows([image, image], PICTURE)
            assert_shows(pd.Series([image]), PICTURE)
            assert_shows(UserList([image]), PICTURE)
        bad(file, "X=", "single image", "[X]", kind=ValueError)
    bad(data, "X=b", "single image", "[X]", kind=ValueError)
    bad([png, file], "X[1]", "open it again")  # it was closed
    bad([io.StringIO("a")], "X[0]", "text", "'rb'")
    bad([b"one.png"], "X[0]=b'one.png'", "os.fsdecode")


def test_rows_of_hugging_face_datasets(png):
    data = png.read_bytes()
    for row in ({"bytes": data, "path": None}, {"bytes": None, "path": str(png)}):
        assert_shows([row], PICTURE)
        assert_shows(pd.DataFrame({"image": [row]})["image"], PICTURE)
    broken = {"bytes": data[:60], "path": "ant.png"}
    bad([broken], "X[0] (ant.png)")
    bad([{"bytes": None, "path": None}], "X[0]", "None")
    bad([{"image": data}], "X[0]={'image'", "dict")


def test_nested_lists():
    assert_shows([PICTURE.tolist()], PICTURE)
    assert_shows([(LUMA / 255).tolist(), LUMA.tolist()], LUMA)
    bad([[[1, 2], [3]]], "X[0]=", "uneven")
    assert holds_rows([[1, 2], [3, 4]])


# The same pixels ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "X, fix",
    [
        (PICTURE, r"pass X\[None\], or, .* X\[..., None\]"),
        (LUMA[..., None], r"pass X\[None\]"),
        (np.zeros((8, 8, 3)), r"pass X\[None\]"),
        (np.zeros((8, 8, 4)), r"pass X\[None\]"),
        (LUMA, r"pass X\[None\]|holds no"),
        (torch.zeros(3, 16, 16), r"pass X\[None\], or, .* X\[:, None\]"),
        (torch.zeros(4, 16, 16), r"pass X\[None\]"),
        (torch.zeros(16, 16, 3), r"pass X.movedim\(-1, 0\)\[None\]"),
        (torch.zeros(16, 16), "rank 2"),
    ],
)
def test_a_single_image_without_its_batch_axis(X, fix, classifier):
    with pytest.raises(ValueError, match=f"(?s)X .*{fix}"):
        classifier.predict(X)


def test_16_bit_data_of_8_bit_values():
    deep = LUMA.astype(np.uint16)
    for X in (
        deep[None],
        torch.from_numpy(deep)[None],
        [Image.fromarray(deep)],
        [Image.fromarray(LUMA.astype(np.int32))],
    ):
        with pytest.warns(UserWarning, match=r"X\[0\] has 16 bits .*nearly black"):
            levels(X)
    levels([deep * 0, deep + 1])  # black, and one level more than 8 bits have


def swapped_profile():
    """sRGB's profile with its red and green primaries exchanged."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return (
        profile.replace(b"rXYZ", b"tXYZ")
        .replace(b"gXYZ", b"rXYZ")
        .replace(b"tXYZ", b"gXYZ")
    )


def test_icc_profiles_are_applied(tmp_path):
    profile, path = swapped_profile(), tmp_path / "a.png"
    expected = PICTURE[..., [1, 0, 2]]
    Image.fromarray(PICTURE).save(path, icc_profile=profile)
    assert_shows([path, Image.open(path), path.read_bytes()], expected, atol=2)
    alpha = np.full_like(PICTURE[..., :1], 255)
    alpha[:8] = 0
    Image.fromarray(np.concatenate([PICTURE, alpha], -1)).save(
        path, icc_profile=profile
    )
    expected = np.where(alpha == 0, 255, expected)
    assert_shows([path], expected, atol=2)


def test_icc_profiles_of_other_pixels(tmp_path):
    """Gray of an RGB profile is gray; a profile of other channels is ignored."""
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for k, image in enumerate(
        (LUMA, LUMA.astype(np.uint16) * 257, LUMA > 100, np.stack([LUMA] * 3, -1))
    ):
        Image.fromarray(image).save(tmp_path / f"{k}.png", icc_profile=srgb)
        shown = (LUMA > 100) * 255 if k == 2 else LUMA
        assert_shows([tmp_path / f"{k}.png"], shown, atol=2)
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    for mode in ("RGB", "CMYK"):
        image = Image.fromarray(PICTURE).convert(mode)
        image.info["icc_profile"] = lab if mode == "RGB" else srgb
        assert_shows([image], PICTURE, atol=1)


def test_a_broken_icc_profile_is_told():
    image = Image.fromarray(PICTURE)
    image.info["icc_profile"] = b"no profile"
    with pytest.warns(UserWarning, match=r"X\[0\] has an ICC profile that can't be"):
        assert_shows([image], PICTURE)


def test_rare_modes(tmp_path):
    assert_shows([Image.fromarray(LUMA).convert("LA").convert("La")], LUMA)
    rgb, lab = map(ImageCms.createProfile, ("sRGB", "LAB"))
    pale = PICTURE // 4 + 96  # bytes of Lab are coarse for saturated colours
    image = ImageCms.profileToProfile(Image.fromarray(pale), rgb, lab, outputMode="LAB")
    assert_shows([image], pale, atol=2)


@pytest.mark.parametrize("as_bytes", [False, True])
def test_heic(tmp_path, monkeypatch, as_bytes):
    path = tmp_path / "a.heic"
    path.write_bytes(b"\0\0\0\x18ftypheic" + bytes(50))
    with pytest.raises(ImageError, match=r"X\[0\].*pip install .*\[heif\]"):
        # Whether pillow-heif is there or not, this file is broken.
        monkeypatch.setattr(Image, "open", unidentified)
        levels([path.read_bytes() if as_bytes else path])


def unidentified(file):
    raise Image.UnidentifiedImageError("cannot identify image file")


def test_heic_with_the_plugin(tmp_path):
    heif = pytest.importorskip("pillow_heif")
    assert _read.pillow_heif is heif
    Image.fromarray(PICTURE).save(tmp_path / "a.heic", quality=-1)
    assert_shows([tmp_path / "a.heic"], PICTURE, atol=12)


def test_inputs_are_read_only():
    for X in (PICTURE[None], PICTURE[None] / 255, LUMA[None] / 257 > 0.5):
        X = X.copy()
        before = X.copy()
        X.flags.writeable = False
        levels(X)
        np.testing.assert_array_equal(X, before)


def test_rows():
    flat = np.stack([PICTURE.ravel()] * 2)
    for shape in ((16, 16, 3), [16, -1, 3], (16, 16, -1)):
        assert_shows(rows_to_images(flat, shape), PICTURE)
        assert_shows(rows_to_images(flat / 255, np.array(shape)), PICTURE)
    assert_shows(rows_to_images(LUMA.reshape(1, -1), (16, 16)), LUMA)
    for rows in (
        np.array([[-0.5, 0, 1, 7]]),
        np.array([[-5, 0, 255, 300]]),
        np.array([[0, 0, 255, 255]], np.uint8),
        np.array([[0, 0, 65535, 65535]], np.uint16),
        np.array([[False, False, True, True]]),
    ):  # with a -1, values are clipped
        assert_shows(rows_to_images(rows, (2, -1)), [[0, 0], [255, 255]])
    bad(rows_to_images(np.array([[-0.5, 0, 1, 7]]), (2, 2)), "X[0]", "from -0.5 to 7")


@pytest.mark.parametrize("shape", [(5, 5), (-1, -1), (2.5, 4), (12,), (2, 3, 2), (0,)])
def test_image_shape_that_does_not_fit(shape):
    with pytest.raises(ValueError, match=r"image_shape=\("):
        rows_to_images(np.zeros((2, 12)), shape)


class Wrapped:
    def __init__(self, X):
        self.X = X

    def __array__(self, dtype=None, copy=None):
        return np.asarray(self.X, dtype)


def test_what_holds_rows():
    rows = np.zeros((3, 2))
    frame = pd.DataFrame({"a": [1, 2], "b": [0.5, 1]})
    for X in (rows, rows.tolist(), tuple(rows), rows.astype(object), frame, rows[0]):
        assert holds_rows(X)
        assert holds_rows(Wrapped(X))
    assert holds_rows(csr_array(rows))
    assert holds_rows(frame.assign(b=["c.png", "d.png"]))
    assert not holds_rows(Wrapped(PICTURE[None]))
    assert_shows(check_images(Wrapped(PICTURE[None])), PICTURE)


@pytest.fixture
def classifier(dit_folder):
    clf = ConditionalDiffusionClassifier(model=dit_folder, n_trials=2, pruning=None)
    return clf.fit(classes=["ant", "bee"])


def test_classifier_reads_any_of_them(classifier, png):
    expected = classifier.predict_log_proba([PICTURE])
    series = pd.Series([str(png)] * 2, index=[7, 3])
    tensor = torch.from_numpy(PICTURE[None]).permute(0, 3, 1, 2)
    for X in ([png, PICTURE], PICTURE[None] / 255, series, tensor):
        log_proba = classifier.predict_log_proba(X)
        assert len(log_proba) == len(X)
        np.testing.assert_allclose(log_proba - expected, 0, atol=5e-3)
    rows = classifier.set_params(image_shape=PICTURE.shape)
    rows = rows.predict_log_proba(PICTURE.reshape(1, -1))
    np.testing.assert_allclose(rows, expected, atol=1e-4)


def test_classifier_finds_a_bad_image_first(classifier, monkeypatch):
    def never(*args):
        raise AssertionError("the network was evaluated")

    monkeypatch.setattr(type(classifier.backbone_), "predict", never)
    monkeypatch.setattr(type(classifier.backbone_), "encode", never)
    X = [LUMA] * 100 + ["missing.png"]
    with pytest.raises(ImageError, match=r"X\[100\] \(missing.png\)"):
        classifier.predict(X)
    with pytest.raises(ValueError, match="X is a table of 16 columns and image_shape"):
        classifier.predict(LUMA / 255)
