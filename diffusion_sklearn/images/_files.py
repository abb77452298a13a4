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
