"""Images of classes, drawn by a diffusion pipeline."""

import copy
import inspect
import json
import re
from contextlib import nullcontext
from dataclasses import dataclass

import diffusers
import numpy as np
import torch
from tqdm.auto import tqdm

from diffusion_sklearn.backbones._batches import in_batches
from diffusion_sklearn.backbones._checksums import digest
from diffusion_sklearn.backbones._fingerprint import unseen
from diffusion_sklearn.backbones._modes import evaluation_mode
from diffusion_sklearn.backbones._sources import quiet
from diffusion_sklearn.backbones._text import encoders_in_place
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
        Its path in the image folder.
    """

    condition: object
    seed: int
    file: str


def plan_draws(names, conditions, n_images, seed):
    """Choose condition, seed and file of every image.

    Parameters
    ----------
    names : list of length n_classes
        Name or class id of each class.
    conditions : list of list
        Prompts of each class, one of which is drawn at random for each image; or its
        class id.
    n_images : int
        Number of images of each class.
    seed : int
        An image depends on this seed, its class and its index only.

    Returns
    -------
    draws : list of Draw, of length n_classes * n_images
        Those of the first class first.
    """
    draws = []
    for name, choices in zip(names, conditions, strict=True):
        # A class name may have characters that a folder name may not.
        readable = re.sub(r"\W+", "-", str(name)).strip("-")[:40]
        folder = f"{readable}-{digest(str(name).encode())[:8]}"
        for index in range(n_images):
            image_seed = int(digest(f"{seed}/{index}/{name}".encode())[:15], 16)
            rng = np.random.default_rng(image_seed)
            condition = choices[rng.integers(len(choices))]
            draws.append(Draw(condition, image_seed, f"{folder}/{index:05d}.png"))
    return draws


class Sampler:
    """A pipeline that draws images with the weights of a backbone.

    Parameters
    ----------
    backbone : Backbone
        Of a pipeline that takes prompts or class labels.
    num_inference_steps : int or None
        None: the default of the pipeline.
    guidance_scale : float or None
        None: the default of the pipeline.

    Raises
    ------
    ValueError
        If the pipeline takes neither prompts nor class labels.
    """

    def __init__(self, backbone, num_inference_steps, guidance_scale):
        self.backbone = backbone
        original = backbone.pipeline
        parameters = inspect.signature(type(original).__call__).parameters
        names = [name for name in ("prompt", "class_labels") if name in parameters]
        if not names or "image" in parameters:
            raise ValueError(
                f"A {type(original).__name__} does not draw an image of a prompt or "
                "class alone; pass as model a text-to-image pipeline, such as "
                "StableDiffusionPipeline(**pipeline.components), or a DiTPipeline."
            )
        self.condition_name = names[0]
        if num_inference_steps is None:
            num_inference_steps = parameters["num_inference_steps"].default
        if guidance_scale is None:
            guidance_scale = parameters["guidance_scale"].default
        self.num_inference_steps = int(num_inference_steps)
        self.guidance_scale = float(guidance_scale)
        side = backbone.image_size  # some pipelines draw 1,024 pixels by default
        options = {"height": side, "width": side, "use_resolution_binning": False}
        self._options = {k: v for k, v in options.items() if k in parameters}
        # Drawing changes the state of a scheduler, which may be in use elsewhere.
        scheduler = original.scheduler
        self.pipeline = copy.copy(original)
        self.pipeline.scheduler = type(scheduler).from_config(scheduler.config)
        self.pipeline.set_progress_bar_config(disable=True)

    def draw(self, draws):
        """Draw some images.

        Parameters
        ----------
        draws : list of Draw
            The images to draw.

        Returns
        -------
        images : list of PIL.Image.Image
        """
        # Generators on the CPU give the same noise for every device.
        generators = [torch.Generator().manual_seed(draw.seed) for draw in draws]
        conditions = [draw.condition for draw in draws]
        context = nullcontext()
        if self.condition_name == "class_labels" and self.guidance_scale > 1:
            context = _null_class_of_model(self.backbone)
        parts = self.pipeline.components.values()
        modules = [part for part in parts if isinstance(part, torch.nn.Module)]
        in_place = encoders_in_place(self.backbone)
        with quiet(), context, in_place, evaluation_mode(*modules):
            return self.pipeline(
                **{self.condition_name: conditions},
                generator=generators,
                num_inference_steps=self.num_inference_steps,
                guidance_scale=self.guidance_scale,
                **self._options,
            ).images

    def settings(self, prompt_template, seed):
        """All settings that an image depends on, as plain values.

        Parameters
        ----------
        prompt_template : list of str or None
            The prompt templates.
        seed : int
            As in :func:`plan_draws`.

        Returns
        -------
        settings : dict

        Raises
        ------
        ValueError
            If the fingerprint of the model does not cover what was added to it.
        """
        hidden = unseen(self.backbone.pipeline)
        if hidden:
            raise ValueError(
                f"The model has {hidden}: images in cache= that were drawn with it and "
                "without it could not be distinguished. Remove it, or pass cache=None."
            )
        pipeline, scheduler = self.backbone.pipeline, self.pipeline.scheduler
        config = {k: v for k, v in scheduler.config.items() if not k.startswith("_")}
        settings = {
            "model": self.backbone.name,
            "fingerprint": digest(repr(self.backbone.fingerprint()).encode()),
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


def _null_class_of_model(backbone):
    """A context in which a DiTPipeline is guided with the null class of its model.

    In diffusers the null class is always 1000, that of ImageNet.
    """

    def replace(module, args, kwargs):
        labels = kwargs["class_labels"].clone()  # (2 b,): classes, then null classes
        labels[len(labels) // 2 :] = backbone.n_labels
        return args, {**kwargs, "class_labels": labels}

    return backbone.network.register_forward_pre_hook(replace, with_kwargs=True)


def draw_images(sampler, draws, folder, image_size, batch_size, verbose):
    """Draw the images that are not in the folder yet.

    Parameters
    ----------
    sampler : Sampler
    draws : list of Draw
        All images.
    folder : ImageFolder or None
        Images are read from it and written to it.
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
        Number of images that were not in the folder.
    """
    images = np.empty((len(draws), image_size, image_size, 3), np.uint8)
    missing = []
    for index, draw in enumerate(draws):
        stored = None if folder is None else folder.read(draw)
        if stored is None:
            missing.append(index)
        else:
            images[index] = squares([stored], image_size)[0]

    def draw_batch(rows):
        batch = [draws[index] for index in missing[rows]]
        return missing[rows], batch, sampler.draw(batch)

    with tqdm(total=len(draws), unit="image", disable=not verbose) as bar:
        bar.update(len(draws) - len(missing))
        for indices, batch, drawn in in_batches(draw_batch, len(missing), batch_size):
            images[indices] = squares(drawn, image_size)
            for draw, image in zip(batch, drawn, strict=True):
                if folder is not None:
                    folder.write(draw, image)
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
