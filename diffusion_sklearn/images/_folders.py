"""Image files in folders."""

from PIL import Image

NOT_PHOTOS = {".mpg", ".mpeg", ".h5", ".hdf", ".grib", ".bufr"}
"""Suffixes that Pillow knows of and can't read by itself."""


def images_below(folder):
    """Files with the suffix of an image, in a folder and those below it, sorted.

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
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in suffixes
        and not any(part[0] == "." for part in path.relative_to(folder).parts)
        and path.is_file()
    )


def read_class_folders(folder, exclude=None):
    """Find the images of a folder with a sub-folder for each class.

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
