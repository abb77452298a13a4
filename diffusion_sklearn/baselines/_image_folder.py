"""A folder of drawn images, and of the settings that they were drawn with."""

import json
import os
from contextlib import contextmanager

from PIL import Image, PngImagePlugin

SETTINGS = "settings.json"
FOR_PEOPLE = ("model", "diffusers")  # the weights tell models apart, not their names


class ImageFolder:
    """Drawn images as PNG files, with a file that tells the settings of all.

    Parameters
    ----------
    folder : Path
        Made if it is not there.
    settings : dict
        Of plain values, as :meth:`Sampler.settings` returns.

    Raises
    ------
    ValueError
        If the folder has images of other settings.
    """

    def __init__(self, folder, settings):
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / SETTINGS
        if not path.exists():
            with _at_once(path) as part:
                part.write_text(json.dumps(settings, indent=2) + "\n", "utf-8")
            return
        try:
            there = dict(json.loads(path.read_text("utf-8")))
        except ValueError as error:
            raise ValueError(
                f"cache={str(folder)!r} has a {SETTINGS} that can't be read ({error}); "
                "delete the folder or pass another."
            ) from error
        others = [
            f"{name}={there.get(name)!r} (now {settings.get(name)!r})"
            for name in sorted({*there, *settings} - {*FOR_PEOPLE})
            if there.get(name) != settings.get(name)
        ]
        if others:
            raise ValueError(
                f"cache={str(folder)!r} has images that were drawn with other "
                f"settings, by model={there.get('model')!r} with {', '.join(others)}; "
                "pass another folder, delete this one, or go back to its settings."
            )

    def read(self, draw):
        """An image that is there.

        Parameters
        ----------
        draw : Draw
            Which one.

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
        """Keep an image; its file says what it is of.

        Parameters
        ----------
        draw : Draw
            Which one.
        image : PIL.Image.Image
            What was drawn.
        """
        path = self.folder / draw.file
        path.parent.mkdir(exist_ok=True)
        info = PngImagePlugin.PngInfo()
        info.add_itxt("condition", str(draw.condition))
        info.add_text("seed", str(draw.seed))
        with _at_once(path) as part:
            image.save(part, "PNG", pnginfo=info)


@contextmanager
def _at_once(path):
    """A path to write to, for a file that is there as a whole or not at all."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    yield part
    part.replace(path)
