"""A folder of drawn images with the settings of the sampler."""

import json
import os
from contextlib import contextmanager

from PIL import Image, PngImagePlugin

SETTINGS = "settings.json"
NOT_COMPARED = ("model", "diffusers")  # models are compared by their weights


class ImageFolder:
    """Drawn images as PNG files, with a file of their common settings.

    Parameters
    ----------
    folder : Path
        Created if it does not exist.
    settings : dict
        Plain values, from :meth:`Sampler.settings`.

    Raises
    ------
    ValueError
        If the folder holds images of other settings.
    """

    def __init__(self, folder, settings):
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / SETTINGS
        if not path.exists():
            with _atomic(path) as part:
                part.write_text(json.dumps(settings, indent=2) + "\n", "utf-8")
            return
        try:
            stored = dict(json.loads(path.read_text("utf-8")))
        except ValueError as error:
            raise ValueError(
                f"cache={str(folder)!r} has a {SETTINGS} that can't be read ({error}); "
                "delete the folder or pass another."
            ) from error
        differences = [
            f"{name}={stored.get(name)!r} (now {settings.get(name)!r})"
            for name in sorted({*stored, *settings} - {*NOT_COMPARED})
            if stored.get(name) != settings.get(name)
        ]
        if differences:
            raise ValueError(
                f"cache={str(folder)!r} has images that were drawn with other settings,"
                f" by model={stored.get('model')!r} with {', '.join(differences)}; "
                "pass another folder, delete this one, or go back to its settings."
            )

    def read(self, draw):
        """Read an image.

        Parameters
        ----------
        draw : Draw

        Returns
        -------
        image : PIL.Image.Image or None
            None if it is missing or broken.
        """
        try:
            with Image.open(self.folder / draw.file) as image:
                return image.convert("RGB")
        except Exception:  # a broken file may raise anything
            return None

    def write(self, draw, image):
        """Write an image, with its condition and seed as metadata.

        Parameters
        ----------
        draw : Draw
        image : PIL.Image.Image
        """
        path = self.folder / draw.file
        path.parent.mkdir(exist_ok=True)
        info = PngImagePlugin.PngInfo()
        info.add_itxt("condition", str(draw.condition))
        info.add_text("seed", str(draw.seed))
        with _atomic(path) as part:
            image.save(part, "PNG", pnginfo=info)


@contextmanager
def _atomic(path):
    """A temporary path; the file is renamed to `path` when complete."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    yield part
    part.replace(path)
