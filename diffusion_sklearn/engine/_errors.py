"""The Monte Carlo loop: (image, trial, condition) triples -> denoising errors."""

from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F

from diffusion_sklearn.backbones._batches import BatchSize, in_batches
from diffusion_sklearn.backbones._devices import to_device
from diffusion_sklearn.engine._cpu import FastKernels
from diffusion_sklearn.engine._sharing import computed_once
from diffusion_sklearn.engine._variational import variational_terms

LOSSES = {
    "l1": F.l1_loss,
    "l2": F.mse_loss,
    "huber": F.huber_loss,
}
VARIATIONAL = ("vlb", "l2+vlb")
"""Losses of a model that learns its variance."""
SMALL_PASS = 1 / 8
"""Share of a batch up to which a forward pass takes hardly longer than with less."""
TERMS = (*LOSSES, "vlb")
"""What a forward pass can tell; a loss is one of them, or the sum of two."""


@dataclass(frozen=True)
class DenoisingErrors:
    """Monte Carlo terms behind a prediction.

    Attributes
    ----------
    errors : ndarray of shape (n_images, n_classes, n_trials), float32
        Error of each (image, class, trial), as a mean over the latent's elements; NaN
        where the class was pruned.
    timesteps : ndarray of shape (n_trials,), int64
        Timestep of each trial.
    n_evaluations : ndarray of shape (n_images,), int64
        Network evaluations that each image took. Those made ahead of a look at the
        race, in a pass that had room, count if the look left their class in.
    log_proba : ndarray of shape (n_images, n_classes), float64
        Log posterior that follows from the errors, and from what the prefilter says,
        if there is one.
    classes : ndarray of shape (n_classes,)
        Label of each class.

    Examples
    --------
    >>> from diffusion_sklearn import ConditionalDiffusionClassifier, DenoisingErrors
    >>> from diffusion_sklearn.datasets import load_fashion_photos
    >>> clf = ConditionalDiffusionClassifier(
    ...     model="fashion-dit", n_trials=10, pruning=None
    ... ).fit(classes=["bag", "sandal", "trouser"])
    >>> found = clf.denoising_errors(load_fashion_photos().images[2:4])
    >>> isinstance(found, DenoisingErrors), found.errors.shape
    (True, (2, 3, 10))
    >>> found.n_evaluations.tolist()  # of each image: 3 classes times 10 trials
    [30, 30]
    >>> found.classes[found.errors.mean(axis=2).argmin(axis=1)].tolist()
    ['trouser', 'trouser']
    """

    errors: np.ndarray
    timesteps: np.ndarray
    n_evaluations: np.ndarray
    log_proba: np.ndarray
    classes: np.ndarray


@dataclass(frozen=True)
class Plan:
    """What is the same for all images of a call.

    Attributes
    ----------
    backbone : Backbone
        The diffusion model.
    noise : Tensor of shape (n_trials, c, h, w)
        Noise of each trial.
    timesteps : Tensor of shape (n_trials,), int64
        Timestep of each trial.
    conditions : Tensor of shape (n_classes * n_prompts, ...)
        Text embeddings or class ids, those of a class next to each other.
    n_classes : int
        Number of classes.
    rounds : list of (int, list of callable)
        From :func:`diffusion_sklearn.engine._pruning.pruning_rounds`.
    order : ndarray of shape (n_trials,), int64
        Order in which the trials are run.
    weights : ndarray of shape (n_trials,)
        Weight of each trial's error.
    loss : str
        One of :data:`LOSSES` or :data:`VARIATIONAL`.
    target : str
        The space of the error.
    guidance_scale : float
        How far predictions are led away from the null condition; 1: not at all.
    null : Tensor of shape (1, ...) or None
        The null condition, where there is guidance.
    batch_size : BatchSize
        Network evaluations a forward pass.
    encode_size : BatchSize
        Images that are encoded at once.
    """

    backbone: object
    noise: torch.Tensor
    timesteps: torch.Tensor
    conditions: torch.Tensor
    n_classes: int
    rounds: list
    order: np.ndarray
    weights: np.ndarray
    loss: str
    target: str
    guidance_scale: float
    null: torch.Tensor | None
    batch_size: BatchSize
    encode_size: BatchSize


def loss_terms(loss):
    """The terms that a `loss` is the sum of.

    Parameters
    ----------
    loss : str
        One of :data:`LOSSES` or :data:`VARIATIONAL`.

    Returns
    -------
    terms : list of str
        Of :data:`TERMS`.
    """
    return loss.split("+")


def denoising_losses(latents, triples, plan, terms):
    """Evaluate the network, batch by batch, and compare with what was added.

    A batch mixes images, trials and conditions freely, so that few classes still fill
    a forward pass.

    Parameters
    ----------
    latents : Tensor of shape (n_images, c, h, w)
        Clean latents.
    triples : ndarray of shape (n, 3), int64
        (image, trial, condition) of each evaluation wanted.
    plan : Plan
        Everything that is the same for all images.
    terms : sequence of str
        Of :data:`TERMS`.

    Yields
    ------
    losses : list of Tensor of shape (batch, c, h, w), float32 or float64
        Each term at each element of the latent, for the next triples.
    """
    backbone = plan.backbone

    def losses_of(rows):
        batch = triples[rows]
        begin(batch)
        image, trial, condition = to_device(batch.T, latents.device)
        clean, eps, t = latents[image], plan.noise[trial], plan.timesteps[trial]
        noised = backbone.add_noise(clean, eps, t)  # (b, c, h, w)
        asked = noised, t, plan.conditions[condition]
        found = {}
        with torch.inference_mode(), kernels:
            if "vlb" in terms:
                predicted, share = backbone.predict_with_variance(*asked)
            else:
                predicted = backbone.predict(*asked)
            if plan.null is not None:
                null = unconditional(batch, noised, t)
                predicted = null + plan.guidance_scale * (predicted - null)
            if "vlb" in terms:
                found["vlb"] = variational_terms(
                    predicted, share, clean, noised, t, backbone.process.alphas_cumprod
                )
        pair = backbone.in_space(plan.target, predicted, noised, clean, eps, t)
        for name in terms:
            if name in LOSSES:
                found[name] = LOSSES[name](*pair, reduction="none")
        return [found[name] for name in terms]

    def unconditional(batch, noised, t):
        """What is predicted without a condition, once for all classes of a trial."""
        pairs, first, back = np.unique(
            batch[:, :2], axis=0, return_index=True, return_inverse=True
        )
        begin(np.insert(pairs, 2, -1, axis=1))
        first, back = (to_device(i.ravel(), noised.device) for i in (first, back))
        nothing = plan.null.expand(len(first), *plan.null.shape[1:])
        return backbone.predict(noised[first], t[first], nothing)[back]

    # A compiled network is one piece: it has its own kernels, and no parts.
    plain = backbone.is_compiled or str(latents.device) != "cpu"
    kernels = nullcontext() if plain else FastKernels()
    parts = {} if backbone.is_compiled else backbone.shared_parts()
    with computed_once(parts, latents.device) as begin:
        advice = "Pass batch_size={} to start with that."
        yield from in_batches(losses_of, len(triples), plan.batch_size, advice)


def mean_errors(latents, triples, plan, keep=None):
    """Mean of :func:`denoising_losses` over the latent's elements.

    Parameters
    ----------
    latents, triples, plan
        As there.
    keep : callable, default=None
        Given all :data:`TERMS` of each batch, as soon as it is done, to keep them:
        ``keep(triples, terms)`` with terms of shape (batch, n_terms), NaN for those
        that the model has not.

    Returns
    -------
    errors : ndarray of shape (n,), float64
        One for each triple: a term of equation 7 of Li et al. (ICCV 2023), divided by
        the number of elements.

    Raises
    ------
    FloatingPointError
        If the network's output overflowed, as float16 may.
    """
    wanted = loss_terms(plan.loss)
    names = wanted
    if keep is not None:
        names = TERMS if plan.backbone.learns_variance else tuple(LOSSES)
    batches, start = [], 0
    for losses in denoising_losses(latents, triples, plan, names):
        means = torch.stack([part.mean(dim=(1, 2, 3)) for part in losses], dim=1)
        batches.append(means)  # (b, n_names)
        if keep is not None:
            table = np.full((len(means), len(TERMS)), np.nan)
            table[:, : len(names)] = means.cpu().numpy()
            keep(triples[start : start + len(means)], table)
        start += len(means)
    means = torch.cat(batches) if batches else torch.zeros(0, len(names))
    means = means.cpu().numpy().astype(np.float64)
    errors = means[:, [names.index(name) for name in wanted]].sum(axis=1)
    wrong = triples[~np.isfinite(errors), 1]
    if len(wrong):
        timesteps = np.unique(plan.timesteps.cpu().numpy()[wrong]).tolist()
        raise FloatingPointError(
            f"dtype={plan.backbone.dtype} gave NaN or infinity at timesteps "
            f"{timesteps[:10]}; pass dtype='float32' or 'bfloat16', another target, or "
            "other timesteps."
        )
    return errors


def score_images(encode, alive, plan, known=None, keep=None):
    """Errors of a group of images for every class, dropping classes on the way.

    Parameters
    ----------
    encode : callable
        Without arguments; returns the clean latents, Tensor of shape
        (n_images, c, h, w). Called if anything has to be computed.
    alive : ndarray of shape (n_images, n_classes), bool
        The classes that are in the running at the start.
    plan : Plan
        Everything that is the same for all images.
    known : ndarray of shape (n_images, n_classes * n_prompts, n_trials), default=None
        Errors that need no evaluation; NaN where unknown.
    keep : callable, default=None
        As for :func:`mean_errors`.

    Returns
    -------
    errors : ndarray of shape (n_images, n_classes, n_trials), float64
        Mean error over the latent's elements and over a class's prompts; NaN where a
        class was pruned.
    n_evaluations : ndarray of shape (n_images,), int64
        Network evaluations that each image took, without those made ahead for a class
        that a rule then dropped.
    """
    n_images, n_trials = len(alive), len(plan.timesteps)
    n_prompts = len(plan.conditions) // plan.n_classes
    errors = np.full((n_images, plan.n_classes, n_trials), np.nan)
    n_evaluations = np.zeros(n_images, np.int64)
    timesteps = plan.timesteps.cpu().numpy()
    latents, done, rounds = None, 0, plan.rounds
    while rounds and alive.any():
        n_rows = int(alive.sum()) * n_prompts
        if plan.null is not None:
            n_rows += int(alive.any(axis=1).sum())
        n_ahead = _rounds_of_a_pass(rounds, done, n_rows, plan)
        ahead, rounds = rounds[:n_ahead], rounds[n_ahead:]
        last = ahead[-1][0]
        fresh = plan.order[done:last]
        # The classes of a trial stand next to each other, to share what they can.
        image, j, k = np.nonzero(alive[:, None, :] & np.ones((len(fresh), 1), bool))
        trial = fresh[j]
        triples = np.stack([image, trial, k * n_prompts], axis=1)
        triples = triples.repeat(n_prompts, axis=0)
        triples[:, 2] += np.tile(np.arange(n_prompts), len(image))
        found = np.full(len(triples), np.nan)
        if known is not None:
            found = known[triples[:, 0], triples[:, 2], triples[:, 1]]
        missing = np.isnan(found)
        if missing.any():
            latents = encode() if latents is None else latents
            found[missing] = mean_errors(latents, triples[missing], plan, keep)
        errors[image, k, trial] = found.reshape(-1, n_prompts).mean(axis=1)
        for end, rules in ahead:
            so_far, later = plan.order[:end], plan.order[end:last]
            for rule in rules:
                weighted = errors[:, :, so_far] * plan.weights[so_far]
                alive = rule(weighted, alive, timesteps[so_far])
                alive = alive & (alive.sum(axis=1, keepdims=True) > 1)  # or decided
            # As if nobody had looked ahead: the answer depends on no batch.
            errors[:, :, later] = np.where(
                alive[:, :, None], errors[:, :, later], np.nan
            )
        missing &= ~np.isnan(errors[image, k, trial]).repeat(n_prompts)
        n_evaluations += _count(triples[missing], n_images, plan.null is not None)
        done = last
    return errors, n_evaluations


def _rounds_of_a_pass(rounds, done, n_rows, plan):
    """How many rounds to evaluate at once: few classes and images leave room.

    Parameters
    ----------
    rounds : list of (int, list of callable)
        Those to come.
    done : int
        Trials behind.
    n_rows : int
        Evaluations a trial takes.
    plan : Plan
        With the batch size.

    Returns
    -------
    n : int
        At least 1; more as long as they take no more than :data:`SMALL_PASS`.
    """
    fits = [
        n_rows * (end - done) <= SMALL_PASS * plan.batch_size.rows for end, _ in rounds
    ]
    return max(1, sum(fits))


def _count(triples, n_images, guided):
    """Network evaluations of each image; guidance takes one more a trial.

    A trial whose classes are in two batches has its second one twice, counted once.
    """
    count = np.bincount(triples[:, 0], minlength=n_images)
    if guided:
        pairs = np.unique(triples[:, :2], axis=0)
        count += np.bincount(pairs[:, 0], minlength=n_images)
    return count


def error_difference(latents, a, b, plan):
    """Where class `a` explains an image better than class `b`.

    Parameters
    ----------
    latents : Tensor of shape (1, c, h, w)
        The clean latent of one image.
    a, b : int
        Index of each class.
    plan : Plan
        As for :func:`score_images`; its rounds and weights play no part.

    Returns
    -------
    gap : Tensor of shape (h, w), float32
        Error of `b` minus error of `a` at each position of the latent, a mean over
        channels, prompts and trials.
    """
    n_prompts = len(plan.conditions) // plan.n_classes
    conditions = (np.array([[a], [b]]) * n_prompts + np.arange(n_prompts)).ravel()
    trial, k = np.meshgrid(np.arange(len(plan.timesteps)), conditions)
    triples = np.stack([np.zeros_like(trial), trial, k], axis=-1).reshape(-1, 3)
    batches = denoising_losses(latents, triples, plan, loss_terms(plan.loss))
    losses = torch.cat([sum(batch).mean(dim=1) for batch in batches])  # (2 p m, h, w)
    mean_a, mean_b = losses.view(2, -1, *losses.shape[1:]).mean(dim=1)
    return (mean_b - mean_a).float()
