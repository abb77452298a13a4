"""The Monte Carlo loop: images -> denoising errors of every class and trial."""

from dataclasses import dataclass

import numpy as np
import torch

from diffusion_sklearn.backbones._batches import in_batches
from diffusion_sklearn.backbones._conditions import repeat
from diffusion_sklearn.backbones._devices import to_device
from diffusion_sklearn.engine._allocator import kept_memory
from diffusion_sklearn.engine._kernels import fast_kernels
from diffusion_sklearn.engine._losses import (
    LOSSES,
    TERMS,
    loss_terms,
    variational_terms,
)
from diffusion_sklearn.images._pixels import to_pixels

ADVICE = "Pass batch_size={} to start with that."


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
        Rows that went through the network for each image, guidance included. A backward
        pass of ``prefilter="gradient"`` counts as two more.
    log_proba : ndarray of shape (n_images, n_classes), float64
        Log posterior that follows from the errors, and from the prefilter if there is
        one.
    classes : ndarray of shape (n_classes,)
        Label of each class.

    Examples
    --------
    >>> from diffusion_sklearn import ConditionalDiffusionClassifier, DenoisingErrors
    >>> from diffusion_sklearn.datasets import load_fashion_photos
    >>> clf = ConditionalDiffusionClassifier(
    ...     model="fashion-dit", n_trials=10, pruning=None
    ... ).fit(classes=["bag", "sandal", "trouser"])
    >>> result = clf.denoising_errors(load_fashion_photos().images[2:4])
    >>> isinstance(result, DenoisingErrors), result.errors.shape
    (True, (2, 3, 10))
    >>> result.n_evaluations.tolist()  # of each image: 3 classes times 10 trials
    [30, 30]
    >>> result.classes[result.errors.mean(axis=2).argmin(axis=1)].tolist()
    ['trouser', 'trouser']
    """

    errors: np.ndarray
    timesteps: np.ndarray
    n_evaluations: np.ndarray
    log_proba: np.ndarray
    classes: np.ndarray


def iter_errors(plan, images, offsets=None, cache=None, first=0, searched=None):
    """Errors of images, one group of them at a time.

    Parameters
    ----------
    plan : Plan
        Everything that is the same for all images.
    images : sequence
        As :func:`~diffusion_sklearn.images._pixels.check_images` returns them.
    offsets : ndarray of shape (n_images, n_classes), float64, default=None
        Added to the mean errors where classes are compared, such as what follows from
        unequal priors; infinity: the class is not evaluated. None: 0.
    cache : ErrorCache, default=None
        Errors computed before, and where to put new ones.
    first : int, default=0
        Index of the first image.
    searched : ndarray of shape (n_images, n_classes), default=None
        Errors of ``plan.search_trial``, NaN where they are to be evaluated; None: all
        are.

    Yields
    ------
    place : slice
        Indices of the group's images.
    errors : ndarray of shape (n_group, n_classes, n_trials), float64
        Mean error over the latent's elements and over a class's prompts, a term of
        equation 7 of Li et al. (ICCV 2023); NaN where a class was pruned.
    n_evaluations : ndarray of shape (n_group,), int64
        Rows that went through the network for each image.
    """
    if offsets is None:
        offsets = np.zeros((len(images), plan.n_classes))
    for start in range(0, len(images), plan.group_size):
        group = slice(start, start + plan.group_size)
        pixels = to_pixels(images[group], plan.image_size, first + start)
        with kept_memory(plan.backbone.device):
            of_group = None if searched is None else searched[group]
            *_, last = iter_looks(plan, pixels, offsets[group], cache, of_group)
        errors, n_evaluations = last
        place = slice(first + start, first + start + len(errors))
        yield place, errors, n_evaluations


def iter_looks(plan, pixels, offsets, cache, searched):
    """Errors of a group of images after every look, dropping classes on the way.

    Parameters
    ----------
    plan : Plan
        Everything that is the same for all images.
    pixels : ndarray of shape (n_group, 3, size, size)
        The images, in [-1, 1].
    offsets, cache, searched
        As in :func:`iter_errors`.

    Yields
    ------
    errors : ndarray of shape (n_group, n_classes, n_trials), float64
        NaN for trials to come and for those of a class that was dropped. The same array
        at every look.
    n_evaluations : ndarray of shape (n_group,), int64
        So far.
    """
    active = np.isfinite(offsets)
    errors = np.full((*active.shape, len(plan.trials)), np.nan)  # (n, k, m)
    n_evaluations = np.zeros(len(active), np.int64)
    cached = None if cache is None else cache.get(pixels)  # (n, conditions, m)
    latents, start = None, 0
    for end, rules in plan.rounds:
        if not active.any():
            break
        trials = plan.order[start:end]
        if searched is not None and plan.search_trial in trials:
            errors[:, :, plan.search_trial] = np.where(active, searched, np.nan)
        # The classes of an image and trial are neighbours: (n, m, k).
        wanted = active[:, None] & np.isnan(errors[:, :, trials]).swapaxes(1, 2)
        i, j, k = np.nonzero(wanted)
        triples = with_prompts(plan, i, trials[j], k)  # (n_rows, 3)
        values = np.full(len(triples), np.nan)
        if cached is not None:
            values = cached[triples[:, 0], triples[:, 2], triples[:, 1]]
        missing = np.isnan(values)
        if missing.any():
            latents = encode(plan, pixels) if latents is None else latents
            values[missing], n_rows = evaluate(plan, latents, triples[missing], cache)
            n_evaluations += n_rows
        errors[i, k, trials[j]] = mean_over_prompts(plan, k, values)

        so_far = plan.order[:end]
        weighted = errors[:, :, so_far] * plan.weights[so_far]
        for rule in rules:
            timesteps = plan.trials.timesteps[so_far]
            active = rule(weighted, active, timesteps, offsets=offsets)
            # An image with one class left is decided.
            active = active & (active.sum(axis=1, keepdims=True) > 1)
        start = end
        yield errors, n_evaluations


def with_prompts(plan, image, trial, k):
    """(image, trial, condition) of each evaluation, one for each prompt of a class.

    Parameters
    ----------
    plan : Plan
        With the number of prompts of each class.
    image, trial, k : ndarray of shape (n,), int64
        Index of the image, the trial and the class.

    Returns
    -------
    triples : ndarray of shape (n_rows, 3), int64
    """
    counts = plan.n_prompts[k]
    triples = np.stack([image, trial, plan.first_conditions[k]], axis=1)
    triples = triples.repeat(counts, axis=0)
    triples[:, 2] += np.arange(len(triples)) - (np.cumsum(counts) - counts).repeat(
        counts
    )
    return triples


def mean_over_prompts(plan, k, values):
    """Mean of the values of each class's prompts, the reverse of :func:`with_prompts`.

    Parameters
    ----------
    plan : Plan
        With the number of prompts of each class.
    k : ndarray of shape (n,), int64
        Index of the class.
    values : ndarray of shape (n_rows, ...)
        One for each row of the triples.

    Returns
    -------
    means : ndarray of shape (n, ...)
    """
    counts = plan.n_prompts[k]
    sums = np.add.reduceat(values, np.cumsum(counts) - counts, axis=0)
    return sums / counts.reshape(-1, *[1] * (values.ndim - 1))


def encode(plan, pixels):
    """Latents of images, in batches.

    Parameters
    ----------
    plan : Plan
        With the model.
    pixels : ndarray of shape (n, 3, size, size)
        In [-1, 1].

    Returns
    -------
    latents : Tensor of shape (n, c, h, w)
    """
    pixels = torch.from_numpy(pixels)

    def encode_batch(rows):
        return plan.backbone.encode(pixels[rows])

    return torch.cat(list(in_batches(encode_batch, len(pixels), plan.encode_rows)))


def evaluate(plan, latents, triples, cache=None, mean_over=(1, 2, 3)):
    """Run the network, batch by batch, and compare its predictions with their targets.

    A batch mixes images, trials and conditions freely, so that few classes still fill
    a forward pass.

    Parameters
    ----------
    plan : Plan
        Everything that is the same for all images.
    latents : Tensor of shape (n_images, c, h, w)
        Clean latents.
    triples : ndarray of shape (n, 3), int64
        (image, trial, condition) of each evaluation.
    cache : ErrorCache, default=None
        Where to put all terms of each batch, as soon as it is done.
    mean_over : int or tuple of int, default=(1, 2, 3)
        Axes of the losses, (batch, c, h, w), to take the mean over.

    Returns
    -------
    errors : ndarray of shape (n, ...), float64
        One for each triple.
    n_rows : ndarray of shape (n_images,), int64
        Rows that went through the network for each image.

    Raises
    ------
    FloatingPointError
        If the network's output overflowed, as float16 may.
    """
    backbone = plan.backbone
    noises, timesteps, conditions, null = plan.inputs
    wanted = loss_terms(plan.loss)
    terms = wanted
    if cache is not None:
        terms = TERMS if backbone.learns_variance else tuple(LOSSES)
    kernels = fast_kernels(backbone)
    n_rows = np.zeros(len(latents), np.int64)
    last_pair = {}  # (image, trial) -> its prediction with the null condition

    def evaluate_batch(rows):
        batch = triples[rows]
        image, trial, condition = to_device(batch.T, latents.device)
        clean, noise, t = latents[image], noises[trial], timesteps[trial]
        noised = backbone.add_noise(clean, noise, t)  # (b, c, h, w)
        with torch.inference_mode(), kernels:
            if "vlb" in terms:
                predicted, log_variance_fraction = backbone.predict_with_variance(
                    noised, t, conditions[condition]
                )
            else:
                predicted = backbone.predict(noised, t, conditions[condition])
                log_variance_fraction = None
            n_rows[:] += np.bincount(batch[:, 0], minlength=len(n_rows))
            if null is not None:
                without = unconditional(batch, noised, t)
                predicted = without + plan.guidance_scale * (predicted - without)
            losses = batch_losses(
                plan, terms, predicted, log_variance_fraction, noised, clean, noise, t
            )
        return torch.stack([loss.mean(dim=mean_over) for loss in losses], dim=1)

    def unconditional(batch, noised, t):
        """Predictions with the null condition, once for an image and trial."""
        pairs, index, inverse = np.unique(
            batch[:, :2], axis=0, return_index=True, return_inverse=True
        )
        inverse = inverse.ravel()
        # The first pair may have begun in the batch before.
        done = np.zeros(len(pairs), bool)
        done[inverse[0]] = tuple(batch[0, :2]) in last_pair
        predicted = noised.new_empty(len(pairs), *noised.shape[1:])
        if done.any():
            predicted[inverse[0]] = last_pair[tuple(batch[0, :2])]
        if not done.all():
            index = index[~done]
            rows = to_device(index, t.device)
            predicted[to_device(~done, t.device)] = backbone.predict(
                noised[rows], t[rows], repeat(null, len(index))
            )
            n_rows[:] += np.bincount(batch[index, 0], minlength=len(n_rows))
        last_pair.clear()
        last_pair[tuple(batch[-1, :2])] = predicted[inverse[-1]]
        return predicted[to_device(inverse, t.device)]

    batches, start = [], 0
    for batch in in_batches(evaluate_batch, len(triples), plan.rows, ADVICE):
        batches.append(batch)  # (b, n_terms, ...)
        if cache is not None:
            cache.put(triples[start : start + len(batch)], terms, batch.cpu().numpy())
        start += len(batch)
    losses = torch.cat(batches).cpu().numpy().astype(np.float64)
    errors = losses[:, [terms.index(term) for term in wanted]].sum(axis=1)
    overflowed = triples[~np.isfinite(errors.reshape(len(errors), -1)).all(axis=1), 1]
    if len(overflowed):
        at = np.unique(plan.trials.timesteps[overflowed]).tolist()
        raise FloatingPointError(
            f"dtype={backbone.dtype} gave NaN or infinity at timesteps {at[:10]}; pass "
            "dtype='float32' or 'bfloat16', another target, or other timesteps."
        )
    return errors, n_rows


def batch_losses(
    plan, terms, predicted, log_variance_fraction, noised, clean, noise, timesteps
):
    """Terms of the loss of a batch, element by element.

    Parameters
    ----------
    plan : Plan
        With the model and the space of the error.
    terms : sequence of str
        Of :data:`~diffusion_sklearn.engine._losses.TERMS`.
    predicted, log_variance_fraction : Tensor of shape (b, c, h, w)
        As ``Backbone.predict_with_variance`` returns them; the second may be None if no
        term needs it.
    noised, clean, noise : Tensor of shape (b, c, h, w)
        What they were made from.
    timesteps : Tensor of shape (b,), int64
        The noise level of each.

    Returns
    -------
    losses : list of Tensor of shape (b, c, h, w)
        One for each term.
    """
    backbone = plan.backbone
    pair = backbone.prediction_and_target(
        plan.target, predicted, noised, clean, noise, timesteps
    )
    return [
        LOSSES[term](*pair, reduction="none")
        if term in LOSSES
        else variational_terms(
            predicted,
            log_variance_fraction,
            clean,
            noised,
            timesteps,
            backbone.noise_schedule.alphas_cumprod,
        )
        for term in terms
    ]


def error_difference(plan, pixels, a, b):
    """Where class `a` explains an image better than class `b`.

    Parameters
    ----------
    plan : Plan
        Its pruning and weights are not used.
    pixels : ndarray of shape (1, 3, size, size)
        The image, in [-1, 1].
    a, b : int
        Index of each class.

    Returns
    -------
    difference : ndarray of shape (h, w), float64
        Error of `b` minus error of `a` at each position of the latent, a mean over
        channels, prompts and trials.
    """
    n = len(plan.trials)
    trial, k = np.tile(np.arange(n), 2), np.repeat([a, b], n)
    triples = with_prompts(plan, np.zeros_like(trial), trial, k)
    errors, _ = evaluate(plan, encode(plan, pixels), triples, mean_over=1)
    errors = mean_over_prompts(plan, k, errors)
    mean_a, mean_b = errors.reshape(2, n, *errors.shape[1:]).mean(axis=1)
    return mean_b - mean_a
