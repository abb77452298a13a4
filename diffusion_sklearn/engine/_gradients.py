"""First-order scores: one backward pass compares all classes."""

import threading
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn

from diffusion_sklearn.backbones._batches import BatchSize, in_batches
from diffusion_sklearn.backbones._devices import to_device
from diffusion_sklearn.engine._allocator import kept_memory
from diffusion_sklearn.engine._errors import batch_losses, encode, predict_terms
from diffusion_sklearn.engine._losses import loss_terms
from diffusion_sklearn.engine._trials import thin
from diffusion_sklearn.images._pixels import to_pixels

N_GRADIENTS = 16
"""Gradients of an image."""

NOISE_LEVELS = (0.2, 0.9)
"""Timesteps whose gradients are taken, as fractions of all: they tell most."""

ROWS_OF_A_GRADIENT = 8
"""A row whose activations are kept for the backward pass takes as much memory."""

CHUNK = 512  # conditions multiplied at once

EVALUATIONS = 3
"""Of a gradient: a forward pass, and a backward pass that counts as two more."""


def check_gradients(backbone, null_condition):
    """Raise unless first-order scores can be computed.

    Parameters
    ----------
    backbone : Backbone
        The model.
    null_condition : str, int or None
        As in the estimators.

    Raises
    ------
    ValueError
        If the model has no null condition, or masks tokens of the prompts.
    """
    backbone.encode_null(null_condition)
    if backbone.masks_tokens:
        raise ValueError(
            f"prefilter='gradient' can't score prompts of {backbone.name}: its network "
            "ignores the tokens that the null condition lacks, so that they have no "
            "gradient there; pass a classifier as prefilter, or None."
        )


def gradient_trials(trials, weights, n_timesteps):
    """Trials whose gradients are taken.

    Of the trials at the middle noise levels, :data:`N_GRADIENTS` that are evenly spaced
    in the order of their timesteps. Where there are none, of all trials. A trial of
    weight 0 is none.

    Parameters
    ----------
    trials : Trials
        Those of `fit`.
    weights : ndarray of shape (n_trials,)
        Weight of each trial's error.
    n_timesteps : int
        T, the number of timesteps the model was trained with.

    Returns
    -------
    subset : ndarray of shape (n_gradients,), int64
        The same for all images.
    """
    low, high = (level * n_timesteps for level in NOISE_LEVELS)
    timesteps = trials.timesteps
    in_the_middle = (low <= timesteps) & (timesteps < high)
    for eligible in (in_the_middle & (weights > 0), weights > 0, weights >= 0):
        subset = np.flatnonzero(eligible)
        if len(subset):
            break
    subset = subset[np.argsort(timesteps[subset], kind="stable")]
    return thin(subset, N_GRADIENTS) if len(subset) > N_GRADIENTS else subset


def first_order_scores(plan, images, null, first=0):
    r"""First-order change of the error from the null condition to each class.

    For a trial j, the error :math:`e_j(c)` has a gradient :math:`g_j` at the null
    condition :math:`c_0`. For all classes at once,

    .. math:: e_j(c_k) - e_j(c_0) \approx s_{jk} = g_j^T (c_k - c_0)

    at the cost of one forward and one backward pass. Trials at high noise levels have
    gradients many times as large as others, beyond the range in which the error is
    linear. Therefore each trial is divided by its standard deviation over the classes,
    :math:`d_j`, and the score is a mean with the weights :math:`1 / d_j`:

    .. math:: s_k = \sum_j \frac{s_{jk}}{d_j} \Big/ \sum_j \frac{1}{d_j}

    Parameters
    ----------
    plan : Plan
        Its pruning is not used.
    images : sequence
        As :func:`~diffusion_sklearn.images._pixels.check_images` returns them.
    null : Tensor of shape (1, ...)
        The null condition.
    first : int, default=0
        Index of the first image, for messages.

    Returns
    -------
    scores : ndarray of shape (n_images, n_classes), float64
        In units of the weighted error; the lower, the more probable.
    n_evaluations : int
        Of each image: rows of forward passes, a backward pass counted as two more.

    Raises
    ------
    ValueError
        If the model has no embedding of its class ids.
    FloatingPointError
        If a gradient overflowed, as in float16.
    """
    trials = gradient_trials(plan.trials, plan.weights, plan.backbone.n_timesteps)
    rows = BatchSize(max(1, plan.rows.rows // ROWS_OF_A_GRADIENT))
    scores = np.empty((len(images), plan.n_classes))
    for start in range(0, len(images), plan.group_size):
        group = slice(start, start + plan.group_size)
        pixels = to_pixels(images[group], plan.image_size, first + start)
        with kept_memory(plan.backbone.device):
            of_trials = _scores_of_trials(
                plan, encode(plan, pixels), trials, null, rows
            )
        spread = of_trials.std(axis=2)  # (n, m)
        weights = np.divide(1, spread, out=np.zeros_like(spread), where=spread > 0)
        total = np.maximum(weights.sum(axis=1), np.finfo(float).tiny)
        scores[group] = np.einsum("nm,nmk->nk", weights, of_trials) / total[:, None]
    return scores, EVALUATIONS * len(trials)


@torch.inference_mode(False)
def _scores_of_trials(plan, latents, trials, null, rows):
    """Scores of each image, trial and class, (n_images, n_trials, n_classes)."""
    backbone, terms = plan.backbone, loss_terms(plan.loss)
    noises, timesteps, conditions, _ = plan.inputs
    image, trial = np.divmod(np.arange(len(latents) * len(trials)), len(trials))
    pairs = np.stack([image, trials[trial]])
    null = null.to(latents.device)

    def score_batch(batch):
        image, trial = to_device(pairs[:, batch], latents.device)
        clean, noise, t = latents[image], noises[trial], timesteps[trial]
        noised = backbone.add_noise(clean, noise, t)
        nulls = null.repeat(len(t), *[1] * (null.ndim - 1))
        with torch.enable_grad(), _leaves(backbone, nulls, conditions) as leaves:
            if backbone.kind == "text":
                nulls = leaves[0][0]
            outputs = predict_terms(backbone, terms, noised, t, nulls)
            losses = batch_losses(plan, terms, *outputs, noised, clean, noise, t)
            # The sum over elements: gradients of the mean may underflow in float16.
            loss = sum(loss.sum() for loss in losses)
        if not leaves:
            raise ValueError(
                f"{backbone.name} has no nn.Embedding of its class ids, of which "
                "prefilter='gradient' needs the gradient; pass a classifier as "
                "prefilter, or None."
            )
        gradients = torch.autograd.grad(loss, [leaf for leaf, _, _ in leaves])
        products = [
            _products(gradient.flatten(1).to(backbone.compute_dtype), table, origin)
            for gradient, (_, table, origin) in zip(gradients, leaves, strict=True)
        ]
        return sum(products)  # (b, n_conditions)

    batches = in_batches(score_batch, pairs.shape[1], rows)
    scores = torch.cat([batch.cpu() for batch in batches]).double().numpy()
    if not np.isfinite(scores).all():
        raise FloatingPointError(
            f"dtype={backbone.dtype} gave NaN or infinity as a gradient; pass "
            "dtype='float32' or 'bfloat16', or another prefilter."
        )
    # Conditions of a class are its prompts.
    scores = scores.reshape(len(latents), len(trials), plan.n_classes, -1).mean(axis=3)
    scale = plan.guidance_scale * plan.weights[trials] / plan.n_elements
    return scores * scale[:, None]


@contextmanager
def _leaves(backbone, nulls, conditions):
    """What the gradient is taken with respect to.

    Parameters
    ----------
    backbone : Backbone
        The model.
    nulls : Tensor of shape (b, ...)
        The null condition, for each row of the batch.
    conditions : Tensor of shape (n_conditions, ...)
        Those of the classes.

    Yields
    ------
    leaves : list of (Tensor, Tensor, Tensor)
        A leaf of the graph (b, ...), its values under each of the conditions, and
        under the null condition. Text embeddings are one leaf. Of class ids it is the
        output of each embedding table that sees them, known after the forward pass.
    """
    if backbone.kind == "text":
        leaf = nulls.to(backbone.compute_dtype, copy=True).requires_grad_()
        yield [(leaf, conditions, nulls[0])]
        return
    leaves, thread = [], threading.get_ident()

    def hook(module, inputs, output):
        # Other threads may use the network at the same time.
        if threading.get_ident() != thread or not torch.equal(inputs[0], nulls):
            return output
        leaf = output.detach().requires_grad_()
        table = module.weight.detach()
        leaves.append((leaf, table[conditions], table[nulls[0]]))
        return leaf

    tables = [m for m in backbone.network.modules() if isinstance(m, nn.Embedding)]
    hooks = [table.register_forward_hook(hook) for table in tables]
    try:
        yield leaves
    finally:
        for one in hooks:
            one.remove()


def _products(gradients, table, origin):
    """Inner products of gradients (b, d) and table - origin (n, ...), (b, n).

    In the gradients' dtype, without a copy of the whole table.
    """
    products = [
        gradients @ rows.flatten(1).to(gradients.dtype).T for rows in table.split(CHUNK)
    ]
    of_origin = gradients @ origin.flatten().to(gradients.dtype)
    return torch.cat(products, dim=1) - of_origin[:, None]
