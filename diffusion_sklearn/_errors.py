"""The Monte Carlo loop: (image, trial, condition) triples -> denoising errors."""

from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F

from diffusion_sklearn._cpu import FastKernels
from diffusion_sklearn._device import BatchSize, in_batches
from diffusion_sklearn._sharing import computed_once
from diffusion_sklearn._variational import variational_terms

LOSSES = {
    "l1": F.l1_loss,
    "l2": F.mse_loss,
    "huber": F.huber_loss,
}
VARIATIONAL = ("vlb", "l2+vlb")
"""Losses of a model that learns its variance."""


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
        Network evaluations that each image took.
    log_proba : ndarray of shape (n_images, n_classes), float64
        Log posterior that follows from the errors.
    classes : ndarray of shape (n_classes,)
        Label of each class.
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
        From :func:`diffusion_sklearn._pruning.pruning_rounds`.
    order : ndarray of shape (n_trials,), int64
        Order in which the trials are run.
    weights : ndarray of shape (n_trials,)
        Weight of each trial's error.
    loss : str
        One of :data:`LOSSES` or :data:`VARIATIONAL`.
    target : str
        The space of the error.
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
    batch_size: BatchSize
    encode_size: BatchSize


def denoising_losses(latents, triples, plan):
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

    Yields
    ------
    losses : Tensor of shape (batch, c, h, w), float32 or float64
        Loss of each element of the latent, for the next triples.
    """
    backbone = plan.backbone

    def losses_of(rows):
        batch = triples[rows]
        begin(batch)
        image, trial, condition = torch.from_numpy(batch.T).to(latents.device)
        clean, eps, t = latents[image], plan.noise[trial], plan.timesteps[trial]
        noised = backbone.add_noise(clean, eps, t)  # (b, c, h, w)
        asked = noised, t, plan.conditions[condition]
        with torch.inference_mode(), kernels:
            if plan.loss in VARIATIONAL:
                predicted, share = backbone.predict_with_variance(*asked)
            else:
                predicted = backbone.predict(*asked)
        if plan.loss != "vlb":
            pair = backbone.in_space(plan.target, predicted, noised, clean, eps, t)
            losses = LOSSES[plan.loss.removesuffix("+vlb")](*pair, reduction="none")
        if plan.loss in VARIATIONAL:
            terms = variational_terms(
                predicted, share, clean, noised, t, backbone.alphas_cumprod
            )
            losses = terms if plan.loss == "vlb" else losses + terms
        return losses

    # A compiled network is one piece: it has its own kernels, and no parts.
    plain = backbone.is_compiled or str(latents.device) != "cpu"
    kernels = nullcontext() if plain else FastKernels()
    parts = {} if backbone.is_compiled else backbone.shared_parts()
    with computed_once(parts, latents.device) as begin:
        advice = "Pass batch_size={} to start with that."
        yield from in_batches(losses_of, len(triples), plan.batch_size, advice)


def mean_errors(latents, triples, plan):
    """Mean of :func:`denoising_losses` over the latent's elements.

    Parameters
    ----------
    latents, triples, plan
        As there.

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
    batches = denoising_losses(latents, triples, plan)
    errors = [losses.mean(dim=(1, 2, 3)) for losses in batches]
    errors = torch.cat(errors) if errors else torch.zeros(0)
    errors = errors.cpu().numpy().astype(np.float64)
    wrong = triples[~np.isfinite(errors), 1]
    if len(wrong):
        timesteps = np.unique(plan.timesteps.cpu().numpy()[wrong]).tolist()
        raise FloatingPointError(
            f"dtype={plan.backbone.dtype} gave NaN or infinity at timesteps "
            f"{timesteps[:10]}; pass dtype='float32' or 'bfloat16', another target, or "
            "other timesteps."
        )
    return errors


def score_images(latents, alive, known, plan):
    """Errors of a group of images for every class, dropping classes on the way.

    Parameters
    ----------
    latents : Tensor of shape (n_images, c, h, w)
        Clean latents.
    alive : ndarray of shape (n_images, n_classes), bool
        The classes that are in the running at the start.
    known : ndarray of shape (n_images, n_classes, n_trials) or None
        Errors that need no evaluation; NaN where unknown.
    plan : Plan
        Everything that is the same for all images.

    Returns
    -------
    errors : ndarray of shape (n_images, n_classes, n_trials), float64
        Mean error over the latent's elements and over a class's prompts; NaN where a
        class was pruned.
    n_evaluations : ndarray of shape (n_images,), int64
        Network evaluations that each image took.
    """
    n_images, n_trials = len(latents), len(plan.timesteps)
    n_prompts = len(plan.conditions) // plan.n_classes
    errors = np.full((n_images, plan.n_classes, n_trials), np.nan)
    n_evaluations = np.zeros(n_images, np.int64)
    timesteps = plan.timesteps.cpu().numpy()
    done = 0
    for end, rules in plan.rounds:
        fresh, so_far = plan.order[done:end], plan.order[:end]
        # The classes of a trial stand next to each other, to share what they can.
        image, j, k = np.nonzero(alive[:, None, :] & np.ones((len(fresh), 1), bool))
        trial = fresh[j]
        if known is not None:
            errors[image, k, trial] = known[image, k, trial]
            missing = np.isnan(errors[image, k, trial])
            image, k, trial = image[missing], k[missing], trial[missing]
        triples = np.stack([image, trial, k * n_prompts], axis=1)
        triples = triples.repeat(n_prompts, axis=0)
        triples[:, 2] += np.tile(np.arange(n_prompts), len(image))
        found = mean_errors(latents, triples, plan)
        errors[image, k, trial] = found.reshape(-1, n_prompts).mean(axis=1)
        n_evaluations += np.bincount(triples[:, 0], minlength=n_images)
        done = end
        for rule in rules:
            weighted = errors[:, :, so_far] * plan.weights[so_far]
            alive = rule(weighted, alive, timesteps[so_far])
            alive = alive & (alive.sum(axis=1, keepdims=True) > 1)  # else it is decided
        if not alive.any():
            break
    return errors, n_evaluations


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
    batches = denoising_losses(latents, triples, plan)
    losses = torch.cat([losses.mean(dim=1) for losses in batches])  # (2 p m, h, w)
    mean_a, mean_b = losses.view(2, -1, *losses.shape[1:]).mean(dim=1)
    return (mean_b - mean_a).float()
