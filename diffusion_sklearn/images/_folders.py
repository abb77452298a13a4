"""Image files in folders."""

import os
import warnings
from pathlib import Path

from PIL import Image

from diffusion_sklearn.images._read import NEEDS_HEIF

NOT_PHOTOS = {".mpg", ".mpeg", ".h5", ".hdf", ".grib", ".bufr"}
"""Suffixes that Pillow knows of and can't read by itself."""

HEIF = {".heic", ".heif", ".hif"}
OTHER_PHOTOS = HEIF | {
    *(".jxl", ".svg", ".exr", ".xcf"),
    *(".dng", ".raw", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".raf", ".rw2"),
}
"""Suffixes of images that Pillow reads only with a plugin, if at all."""

RESULTS = "evaluation.json"
"""In the output folder of the command ``evaluate``, which has pictures but no class."""


def images_below(folder):
    """Files with the suffix of an image, in a folder and those below it, sorted.

    Linked folders are entered, each folder once. A warning names files that look like
    images of a kind that can't be read, and folders that can't be opened.

    Parameters
    ----------
    folder : Path

    Returns
    -------
    paths : list of Path
        Without hidden ones.
    """
    formats = Image.registered_extensions()
    suffixes = {s for s, name in formats.items() if name in Image.OPEN} - NOT_PHOTOS
    paths, skipped = [], []
    for path in _files_below(folder, skipped):
        suffix = path.suffix.lower()
        if suffix in suffixes and path.is_file():
            paths.append(path)
        elif suffix in suffixes | OTHER_PHOTOS:  # also a link that leads nowhere
            skipped.append(path)
    if skipped:
        names = ", ".join(map(str, sorted(skipped)[:3]))
        heif = any(path.suffix.lower() in HEIF - suffixes for path in skipped)
        warnings.warn(
            f"{len(skipped)} below {folder} can't be read and are left out: {names}"
            f"{', ...' if len(skipped) > 3 else ''}; convert them to PNG or JPEG."
            + (f" {NEEDS_HEIF}." if heif else ""),
            UserWarning,
            stacklevel=2,
        )
    return sorted(paths)


def _files_below(folder, unreadable):
    """Yield files that are not hidden; folders behind links come last."""
    seen, roots, top = set(), [folder], Path(os.path.realpath(folder))
    for root in roots:  # grows
        for place, folders, files in os.walk(
            root, onerror=lambda error: unreadable.append(Path(error.filename))
        ):
            real = os.path.realpath(place)
            if real in seen or (real != str(top) and top.is_relative_to(real)):
                folders.clear()  # seen, or a link to what the folder is in
                continue
            seen.add(real)
            folders[:] = sorted(name for name in folders if name[0] != ".")
            inner = [Path(place, name) for name in folders]
            roots += [path for path in inner if path.is_symlink()]
            yield from (Path(place, name) for name in files if name[0] != ".")


def read_class_folders(folder, exclude=None):
    """Find the images of a folder with a sub-folder for each class.

    Output folders of ``evaluate`` are no classes.

    Parameters
    ----------
    folder : Path
    exclude : Path, default=None
        A sub-folder that is not a class.

    Returns
    -------
    paths : list of Path
    labels : list of str
        Name of the sub-folder of each image.
    classes : list of str
        Names of all sub-folders, sorted, including those without images.

    Raises
    ------
    ValueError
        If there are fewer than two sub-folders, or no images.
    """
    if not folder.is_dir():
        raise ValueError(f"folder={str(folder)!r} is no folder.")
    skipped = exclude and exclude.resolve()
    subfolders = sorted(
        path
        for path in folder.iterdir()
        if path.is_dir() and path.name[0] != "." and path.resolve() != skipped
        if not (path / RESULTS).exists()
    )
    if len(subfolders) < 2:
        raise ValueError(
            f"folder={str(folder)!r} has {len(subfolders)} sub-folders; it needs one "
            "for each class, two or more."
        )
    pairs = [(path, sub.name) for sub in subfolders for path in images_below(sub)]
    if not pairs:
        raise ValueError(f"folder={str(folder)!r} holds no images in its sub-folders.")
    paths, labels = zip(*pairs, strict=True)
    return list(paths), list(labels), [sub.name for sub in subfolders]
