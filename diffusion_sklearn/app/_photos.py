"""Photos of the page: uploads, within limits, and examples that ship."""

import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from PIL import Image

from diffusion_sklearn.backbones._loading import load_backbone
from diffusion_sklearn.classifiers._prompts import read_prompts as read_prompts_file
from diffusion_sklearn.datasets import (
    Scene,
    load_fashion_photos,
    load_fashion_winoground,
    make_fashion_scenes,
)
from diffusion_sklearn.images._data_uri import image_uri
from diffusion_sklearn.images._pixels import read_square
from diffusion_sklearn.images._read import HINTS, ImageError

MAX_PHOTOS, MAX_FILES = 8, 200
MAX_BYTES, MAX_UNPACKED = 20 * 2**20, 100 * 2**20  # of a file, of a zip's content
SEPARATOR = ",,"  # of folders, in names that the script in head.html sends

_SCENES = (
    (Scene(("bag",), ("red",)), "blue bag, green bag, red bag, red sandal, red shirt"),
    (
        Scene(("dress",), ("yellow",)),
        "white dress, yellow coat, yellow dress, yellow shirt, yellow trouser",
    ),
    (
        Scene(("pullover", "bag"), ("yellow", "green"), "right of"),
        "green bag right of a yellow pullover, green pullover right of a yellow bag, "
        "yellow bag right of a green pullover, yellow pullover right of a green bag",
    ),
    (
        Scene(("sneaker", "coat"), ("blue", "white"), "below"),
        "blue coat below a white sneaker, blue sneaker below a white coat, "
        "white coat below a blue sneaker, white sneaker below a blue coat",
    ),
)
_PAIRS = (9, 14, 15)  # of load_fashion_winoground: attribute, relation, both swapped


@dataclass(frozen=True)
class Photo:
    """An image at the model's size, and where it came from.

    Parameters
    ----------
    name : str
        Its file, with the folders.
    square : ndarray of shape (size, size[, 3]) or None
        None if it can't be read.
    folder : str, default=""
        The folder that it is in.
    error : str, default=""
        Why it can't be read.
    caption : str, default=""
        Of an example.
    """

    name: str
    square: object
    folder: str = ""
    error: str = ""
    caption: str = ""

    @property
    def file(self):
        """Name of a file with the pixels."""
        return f"{PurePosixPath(self.name).stem}.png"

    @property
    def source(self):
        """The pixels as an address, for HTML."""
        return image_uri(self.square)


def read_photos(paths, model):
    """Read uploaded files, each an image.

    Parameters
    ----------
    paths : list of str
    model : str
        The page's model, whose size the images are brought to.

    Returns
    -------
    photos : list of Photo

    Raises
    ------
    ValueError
        If there are too many, or one can't be read.
    """
    if len(paths) > MAX_PHOTOS:
        raise ValueError(
            f"{len(paths)} photos: drop up to {MAX_PHOTOS}; the tab Folder takes more."
        )
    size = load_backbone(model).image_size
    photos = [_read(Path(path).name, _content(path), size) for path in paths]
    for photo in photos:
        if photo.error:
            raise ValueError(photo.error)
    return photos


def read_folder(paths, model):
    """Read a folder's files, whose names hold their folders, or a zip.

    Nothing of a zip is written to the disk.

    Parameters
    ----------
    paths : list of str
        The files, or one zip.
    model : str
        The page's model.

    Returns
    -------
    photos : list of Photo
        Those that can't be read hold an error.

    Raises
    ------
    ValueError
        If there are no images, too many, or too much data; or the zip is broken,
        encrypted or has names that lead out of it.
    """
    size = load_backbone(model).image_size
    if len(paths) == 1 and Path(paths[0]).suffix.lower() == ".zip":
        contents = _unzip(paths[0])
    else:
        _check_number(paths)
        contents = ((Path(p).name.replace(SEPARATOR, "/"), _content(p)) for p in paths)
    suffixes = Image.registered_extensions()
    photos = [
        _read(name, content, size)
        for name, content in contents
        if Path(name).suffix.lower() in suffixes
    ]
    if not photos:
        raise ValueError("No images: their names end in .png, .jpg, .webp ...")
    return sorted(photos, key=lambda photo: photo.name)


def read_prompts(path):
    """Read the prompts of the classes by name.

    Parameters
    ----------
    path : str
        A CSV with the columns prompt, classname and classidx.

    Returns
    -------
    prompts : dict of str to list of str

    Raises
    ------
    ValueError
        If it is no such file.
    """
    prompts = read_prompts_file(path)
    return {name: texts for name, texts in prompts.items() if isinstance(name, str)}


def _check_number(files):
    if len(files) > MAX_FILES:
        raise ValueError(
            f"{len(files)} files: the page takes {MAX_FILES}; use "
            "diffusion-sklearn classify FOLDER for more."
        )


def _content(path):
    data = Path(path).read_bytes()
    if len(data) > MAX_BYTES:
        raise ValueError(f"{Path(path).name} has more than {MAX_BYTES // 2**20} MB.")
    return data


def _unzip(path):
    """Yield names and contents of the files in a zip, within the limits."""
    try:
        with zipfile.ZipFile(path) as archive:
            files = [item for item in archive.infolist() if not item.is_dir()]
            _check_number(files)
            total = 0
            for item in files:
                parts = PurePosixPath(item.filename.replace("\\", "/"))
                if parts.is_absolute() or ".." in parts.parts or ":" in item.filename:
                    raise ValueError(
                        f"The zip has a file {item.filename!r}, outside of its folder."
                    )
                if any(part[0] in "._" for part in parts.parts):
                    continue
                with archive.open(item) as file:  # its stated size may be false
                    data = file.read(MAX_BYTES + 1)
                total += len(data)
                if len(data) > MAX_BYTES or total > MAX_UNPACKED:
                    raise ValueError(
                        f"The zip unpacks to too much: {MAX_BYTES // 2**20} MB a file, "
                        f"{MAX_UNPACKED // 2**20} MB in all."
                    )
                yield str(parts), data
    except (zipfile.BadZipFile, RuntimeError, NotImplementedError, EOFError) as error:
        raise ValueError(f"The zip can't be read; pack it anew. ({error})") from error


def _read(name, content, size):
    folder = PurePosixPath(name).parent.name
    try:
        square = read_square({"bytes": content, "path": name}, size, 0)
    except ImageError as error:
        hint = next(h for kind, h in HINTS if isinstance(error.__cause__, kind))
        return Photo(name, None, folder, f"{name} {hint}.")
    return Photo(name, square, folder)


def example_photos(model):
    """Photos that ship, with classes to choose from.

    Parameters
    ----------
    model : str
        The page's model.

    Returns
    -------
    examples : list of (Photo, str)
        With the classes, one a line.
    """
    if model == "fashion-scenes":
        scenes, classes = zip(*_SCENES, strict=True)
        images = make_fashion_scenes(
            len(scenes), split="test", scenes=scenes, random_state=2
        ).images
        names = [scene.caption for scene in scenes]
        classes = [text.replace(", ", "\n") for text in classes]
    else:
        photos = load_fashion_photos()
        images, names = photos.images[:4], photos.names[:4]
        classes = ["\n".join(photos.target_names)] * 4
    photos = [_example(i, n) for i, n in zip(images, names, strict=True)]
    return list(zip(photos, classes, strict=True))


def example_pairs():
    """Pairs of scenes that ship, each with two captions of the same words.

    Returns
    -------
    examples : list of (list of 2 Photo, list of 2 str)
    """
    data = load_fashion_winoground()
    return [
        (
            [
                _example(image, f"scene {k}")
                for k, image in enumerate(data.images[i], 1)
            ],
            data.captions[i].tolist(),
        )
        for i in _PAIRS
    ]


def example_folder(model):
    """Labelled photos that ship, as of a folder with a sub-folder for each class.

    Parameters
    ----------
    model : str
        The page's model.

    Returns
    -------
    photos : list of Photo
    """
    if model == "fashion-scenes":
        data = make_fashion_scenes(24, split="test", n_items=1)
        images, labels = data.images, [scene.items[0] for scene in data.scenes]
    else:
        data = load_fashion_photos()
        images, labels = data.images[:24], data.names[:24]
    return [
        Photo(f"{label}/{k}.png", image, str(label))
        for k, (image, label) in enumerate(zip(images, labels, strict=True))
    ]


def _example(image, name):
    return Photo(f"{name.replace(' ', '-')}.png", image, caption=str(name))
