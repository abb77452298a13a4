"""Images -> latents -> errors -> what is kept of them, group by group, here or away."""

import itertools
import logging
from contextlib import closing, nullcontext
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from joblib import effective_n_jobs

from diffusion_sklearn.backbones._batches import (
    BatchSize,
    in_batches,
    resolve_batch_size,
)
from diffusion_sklearn.backbones._loading import get_backbone
from diffusion_sklearn.engine._cpu import kept_memory
from diffusion_sklearn.engine._errors import LOSSES, VARIATIONAL, Plan, score_images
from diffusion_sklearn.engine._posterior import log_posterior
from diffusion_sklearn.engine._progress import ProgressBar
from diffusion_sklearn.engine._pruning import pruning_rounds
from diffusion_sklearn.engine._session import Session
from diffusion_sklearn.engine._store import ErrorStore
from diffusion_sklearn.engine._trials import Trials
from diffusion_sklearn.engine._workers import is_cluster, map_chunks, to_numpy
from diffusion_sklearn.images._pixels import to_pixels

MOST_IMAGES_AT_ONCE = 64
MOST_ERRORS = 2**23  # kept of a group of images, 64 MiB

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Scoring:
    """How images are to be scored: small, and sent to every worker.

    Attributes
    ----------
    spec : BackboneSpec or Backbone
        Leads to the model, loaded once a process.
    trials : Trials
        The (timestep, noise) pairs.
    weights : ndarray of shape (n_trials,)
        Weight of each trial's error.
    memory : ErrorStore or None
        The kept errors.
    pruning, loss, target, guidance_scale, image_size, batch_size : object
        As in the estimators.
    null : Tensor of shape (1, ...) or None
        The null condition, where there is guidance.
    """

    spec: object
    trials: Trials
    weights: np.ndarray
    pruning: object
    loss: str
    target: str
    guidance_scale: float
    null: object
    image_size: int | None
    batch_size: object
    memory: ErrorStore | None

    def make_plan(self, conditions, n_classes):
        """All that is the same for the images of a call, on the model's device.

        Parameters
        ----------
        conditions : Tensor of shape (n_classes * n_prompts, ...)
            Those of a class next to each other.
        n_classes : int
            Number of classes.

        Returns
        -------
        plan : Plan
        size : int
            Side of the images in pixels.

        Raises
        ------
        ValueError
            If the model can't take this loss or image size.
        """
        backbone = get_backbone(self.spec)
        check_variance(self.loss, backbone)
        size = self.image_size or backbone.image_size
        shape = backbone.latent_shape(size)
        noise = torch.from_numpy(self.trials.noise(shape))
        noise = noise.to(backbone.device, backbone.compute_dtype)
        conditions = conditions.to(backbone.device)
        batch_size = resolve_batch_size(
            self.batch_size, backbone, shape, conditions[:1]
        )
        logger.info("%d network evaluations a forward pass", batch_size.rows)
        plan = Plan(
            backbone=backbone,
            noise=noise,
            timesteps=torch.from_numpy(self.trials.timesteps).to(backbone.device),
            conditions=conditions,
            n_classes=n_classes,
            rounds=pruning_rounds(self.pruning, len(self.trials)),
            order=self.trials.order,
            weights=self.weights,
            loss=self.loss,
            target=self.target,
            guidance_scale=self.guidance_scale,
            null=None if self.null is None else self.null.to(backbone.device),
            batch_size=batch_size,
            encode_size=BatchSize(batch_size.rows),
        )
        return plan, size

    def session(self, plan):
        """The kept errors, open while in this context; None without a memory."""
        if self.memory is None:
            return nullcontext()
        return closing(Session(self.memory, plan, self.trials.seed))


def score(scoring, images, alive, conditions, reduce, n_jobs):
    """Score images, in this process or in joblib's workers.

    Parameters
    ----------
    scoring : Scoring
        How.
    images : sequence
        As :func:`~diffusion_sklearn.images._pixels.check_images` returns them.
    alive : ndarray of shape (n_images, n_classes), bool
        The classes to score each image with.
    conditions : Tensor of shape (n_classes * n_prompts, ...)
        Those of a class next to each other.
    reduce : callable
        What is kept of the errors of a group of images: called with `errors`
        (n_group, n_classes, n_trials) and `n_evaluations` (n_group,).
    n_jobs : int or None
        For joblib.

    Yields
    ------
    n_images, n_evaluations : int
        Of the next group of images.
    reduced : object
        What `reduce` returned.
    """
    n_workers = min(effective_n_jobs(n_jobs), len(images))
    if n_workers == 1 and not is_cluster():
        yield from score_groups(scoring, images, alive, 0, conditions, reduce)
        return
    # A worker loads the model itself, on the device that it is given.
    spec = getattr(scoring.spec, "spec", None) or scoring.spec
    yield from map_chunks(
        partial(_score_chunk, replace(scoring, spec=spec)),
        (images, alive),
        (to_numpy(conditions), reduce),
        n_workers,
        n_jobs,
    )


def with_progress(groups, n_images, verbose):
    """What is kept of each group, while a bar shows how far they are.

    Parameters
    ----------
    groups : iterator
        From :func:`score`.
    n_images : int
        How many there are in all.
    verbose : int
        0: no bar.

    Returns
    -------
    kept : list
    """
    kept = []
    with ProgressBar(n_images, verbose) as bar:
        for n_done, n_evaluations, reduced in groups:
            kept.append(reduced)
            bar.update(n_done, n_evaluations)
    return kept


def _score_chunk(scoring, images, alive, first, conditions, reduce):
    conditions = torch.from_numpy(conditions.copy())  # it may be a read-only map
    return list(score_groups(scoring, images, alive, first, conditions, reduce))


def score_groups(scoring, images, alive, first, conditions, reduce):
    """Score images a group at a time, each from its pixels to what is kept of it.

    Parameters
    ----------
    scoring, images, alive, conditions, reduce
        As in :func:`score`.
    first : int
        Place of the first image among all, for messages.

    Yields
    ------
    n_images, n_evaluations : int
        Of the group.
    reduced : object
        What `reduce` returned.
    """
    plan, size = scoring.make_plan(conditions, alive.shape[1])
    at_once = _images_at_once(plan)
    with scoring.session(plan) as session, kept_memory(plan.backbone.device):
        for start in range(0, len(images), at_once):
            group = slice(start, start + at_once)
            pixels = to_pixels(images[group], size, first + start)
            kept = ()
            if session is not None:
                kept = session.load(pixels), session.keep
            errors, n_evaluations = score_images(
                partial(encode, pixels, plan), alive[group], plan, *kept
            )
            reduced = reduce(errors, n_evaluations)
            yield len(pixels), int(n_evaluations.sum()), reduced


def _images_at_once(plan):
    """Images scored together, enough to fill a batch when two classes are left."""
    ends = [0] + [end for end, _ in plan.rounds]
    fewest = min(b - a for a, b in itertools.pairwise(ends))
    most = min(MOST_IMAGES_AT_ONCE, MOST_ERRORS // (len(plan.conditions) * ends[-1]))
    return max(1, min(most, -(-plan.batch_size.rows // (2 * fewest))))


def encode(pixels, plan):
    """Latents of images, in batches.

    Parameters
    ----------
    pixels : ndarray of shape (n, 3, size, size)
        In [-1, 1].
    plan : Plan
        With the model.

    Returns
    -------
    latents : Tensor of shape (n, c, h, w)
    """
    pixels = torch.from_numpy(pixels)

    def part(rows):
        return plan.backbone.encode(pixels[rows])

    return torch.cat(list(in_batches(part, len(pixels), plan.encode_size)))


def check_variance(loss, backbone):
    """Raise unless the model can tell this loss.

    Parameters
    ----------
    loss : str
        As in the estimators.
    backbone : Backbone
        The model.

    Raises
    ------
    ValueError
        If the loss needs a variance that the model does not learn.
    """
    if loss in VARIATIONAL and not backbone.learns_variance:
        raise ValueError(
            f"loss={loss!r} needs a model that learns its variance, such as DiT; pass "
            f"one of {', '.join(repr(name) for name in LOSSES)}."
        )


# What is kept of a group: as `reduce`, with the rest filled in by functools.partial.


def keep_answer(errors, n_evaluations, *, weights, **how):
    """Evaluations, (n_group,), and the log posterior, (n_group, n_classes)."""
    return n_evaluations, log_posterior(errors * weights, **how)


def keep_errors(errors, n_evaluations, **how):
    """Evaluations, the log posterior, and the errors as float32."""
    return *keep_answer(errors, n_evaluations, **how), errors.astype(np.float32)


def keep_mean(errors, n_evaluations, *, weights, n_elements):
    """Mean error over all trials, summed over the latent, (n_group, n_classes)."""
    return (errors * weights).mean(axis=2) * n_elements
