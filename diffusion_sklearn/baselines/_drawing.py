"""Images that a diffusion pipeline draws of classes."""

import copy
import inspect
import json
import re
from contextlib import contextmanager
from dataclasses import dataclass

import diffusers
import numpy as np
import torch
from tqdm.auto import tqdm

from diffusion_sklearn.backbones._batches import in_batches
from diffusion_sklearn.backbones._digest import digest, digest_weights
from diffusion_sklearn.backbones._sources import quiet
from diffusion_sklearn.images._pixels import to_pixels


@dataclass(frozen=True)
class Draw:
    """An image to draw.

    Attributes
    ----------
    condition : str or int
        Its prompt or class id.
    seed : int
        Of its noise.
    file : str
        Where it is kept, relative to the folder.
    """

    condition: object
    seed: int
    file: str


def plan_draws(names, conditions, n_images, seed):
    """The images to draw of each class.

    Parameters
    ----------
    names : list of length n_classes
        What each class is called, or its class id.
    conditions : list of list
        Prompts of each class, one of which is drawn at random for each image; or its
        class id alone.
    n_images : int
        How many of each class.
    seed : int
        Seed, name and index decide an image, whatever other classes there are and
        however many images.

    Returns
    -------
    draws : list of Draw, of length n_classes * n_images
        Those of the first class first.
    """
    draws = []
    for name, choices in zip(names, conditions, strict=True):
        # A name may hold what a folder's may not.
        readable = re.sub(r"\W+", "-", str(name)).strip("-")[:40]
        folder = f"{readable}-{digest(str(name).encode())[:8]}"
        for index in range(n_images):
            own = int(digest(f"{seed}/{index}/{name}".encode())[:15], 16)
            choice = choices[np.random.default_rng(own).integers(len(choices))]
            draws.append(Draw(choice, own, f"{folder}/{index:05d}.png"))
    return draws


class Sampler:
    """A pipeline that draws, beside the backbone that it shares its weights with.

    Parameters
    ----------
    backbone : Backbone
        Of a pipeline that takes prompts or class labels.
    num_inference_steps : int or None
        None: as many as the pipeline takes by itself.
    guidance_scale : float or None
        None: the pipeline's own.

    Raises
    ------
    ValueError
        If the pipeline can't be told what to draw.
    """

    def __init__(self, backbone, num_inference_steps, guidance_scale):
        self.backbone = backbone
        original = backbone.pipeline
        parameters = inspect.signature(type(original).__call__).parameters
        takes = [name for name in ("prompt", "class_labels") if name in parameters]
        if not takes or "image" in parameters:
            raise ValueError(
                f"A {type(original).__name__} does not draw an image of a prompt or "
                "class alone; pass as model a text-to-image pipeline, such as "
                "StableDiffusionPipeline(**pipeline.components), or a DiTPipeline."
            )
        self.takes = takes[0]
        if num_inference_steps is None:
            num_inference_steps = parameters["num_inference_steps"].default
        if guidance_scale is None:
            guidance_scale = parameters["guidance_scale"].default
        self.num_inference_steps = int(num_inference_steps)
        self.guidance_scale = float(guidance_scale)
        self._options = {}
        if "height" in parameters:  # some draw 1,024 pixels whatever their network's
            side = backbone.image_size
            self._options.update(height=side, width=side)
        if "use_resolution_binning" in parameters:  # it knows a few sizes alone
            self._options["use_resolution_binning"] = False
        # Drawing changes the state of a scheduler, which others may be using.
        scheduler = original.scheduler
        self.pipeline = copy.copy(original)
        self.pipeline.scheduler = type(scheduler).from_config(scheduler.config)
        self.pipeline.set_progress_bar_config(disable=True)

    def draw(self, draws):
        """Draw some images.

        Parameters
        ----------
        draws : list of Draw
            What to draw.

        Returns
        -------
        images : list of PIL.Image.Image
        """
        # On the CPU the noise of a seed is the same whatever the device.
        generators = [torch.Generator().manual_seed(draw.seed) for draw in draws]
        conditions = [draw.condition for draw in draws]
        guided_class = self.takes == "class_labels" and self.guidance_scale > 1
        with quiet(), _own_null_class(self.backbone, guided_class):
            return self.pipeline(
                **{self.takes: conditions},
                generator=generators,
                num_inference_steps=self.num_inference_steps,
                guidance_scale=self.guidance_scale,
                **self._options,
            ).images

    def settings(self, prompt_template, seed):
        """All that decides what an image looks like, as plain values.

        Parameters
        ----------
        prompt_template : list of str or None
            The templates that prompts are drawn from.
        seed : int
            That of :func:`plan_draws`.

        Returns
        -------
        settings : dict
        """
        pipeline, scheduler = self.backbone.pipeline, self.pipeline.scheduler
        config = {k: v for k, v in scheduler.config.items() if not k.startswith("_")}
        settings = {
            "model": self.backbone.name,
            "weights": digest_weights(pipeline),
            "dtype": str(self.backbone.dtype).removeprefix("torch."),
            "pipeline": type(pipeline).__name__,
            "scheduler": {"class": type(scheduler).__name__, **config},
            "prompt_template": prompt_template,
            "num_inference_steps": self.num_inference_steps,
            "guidance_scale": self.guidance_scale,
            "seed": seed,
            "diffusers": diffusers.__version__,
        }
        return json.loads(json.dumps(settings, default=str))


@contextmanager
def _own_null_class(backbone, needed):
    """Where a DiTPipeline is guided, its null class is the model's own.

    It is 1000 in diffusers, which is right for ImageNet alone.
    """
    if not needed:
        yield
        return

    def replace(module, args, kwargs):
        labels = kwargs["class_labels"].clone()  # (2 b,): classes, then null classes
        labels[len(labels) // 2 :] = backbone.n_labels
        return args, {**kwargs, "class_labels": labels}

    hook = backbone.network.register_forward_pre_hook(replace, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()


def draw_images(sampler, draws, folder, image_size, batch_size, verbose):
    """Draw what is not in the folder yet.

    Parameters
    ----------
    sampler : Sampler
        What draws.
    draws : list of Draw
        What to draw.
    folder : ImageFolder or None
        Where images are looked for and kept.
    image_size : int
        Side of the result in pixels.
    batch_size : BatchSize
        Images in a call of the pipeline.
    verbose : int
        1: a progress bar.

    Returns
    -------
    images : ndarray of shape (len(draws), image_size, image_size, 3), uint8
    n_drawn : int
        How many were not there.
    """
    images = np.empty((len(draws), image_size, image_size, 3), np.uint8)
    missing = []
    for index, draw in enumerate(draws):
        found = None if folder is None else folder.read(draw)
        if found is None:
            missing.append(index)
        else:
            images[index] = squares([found], image_size)[0]

    def compute(rows):
        return sampler.draw([draws[index] for index in missing[rows]])

    done = 0
    bar = {"total": len(draws), "initial": len(draws) - len(missing), "unit": "image"}
    with tqdm(**bar, disable=not verbose) as bar:
        for batch in in_batches(compute, len(missing), batch_size):
            indices = missing[done : done + len(batch)]
            images[indices] = squares(batch, image_size)
            for index, image in zip(indices, batch, strict=True):
                if folder is not None:
                    folder.write(draws[index], image)
            done += len(batch)
            bar.update(len(batch))
    return images, len(missing)


def squares(images, image_size, first=0):
    """Bring images to one size.

    Parameters
    ----------
    images : sequence
        Anything that :func:`to_pixels` reads.
    image_size : int
        Side of the result in pixels.
    first : int, default=0
        Index of the first image, for error messages.

    Returns
    -------
    squares : ndarray of shape (len(images), image_size, image_size, 3), uint8
    """
    pixels = to_pixels(images, image_size, first)  # (n, 3, s, s)
    return np.rint((np.moveaxis(pixels, 1, -1) + 1) * 127.5).astype(np.uint8)
