"""Candidates among many classes: first-order scores, then a search."""

import math
import threading
from contextlib import contextmanager
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import nn

from diffusion_sklearn.backbones._batches import BatchSize, in_batches
from diffusion_sklearn.backbones._conditions import from_dict, to_dict
from diffusion_sklearn.backbones._devices import to_device
from diffusion_sklearn.engine._allocator import kept_memory
from diffusion_sklearn.engine._errors import (
    batch_losses,
    encode,
    evaluate,
    mean_over_prompts,
    with_prompts,
)
from diffusion_sklearn.engine._losses import loss_terms
from diffusion_sklearn.engine._trials import thin
from diffusion_sklearn.images._pixels import to_pixels

N_GRADIENTS = 8
"""Gradients of an image."""

NOISE_LEVELS = (0.2, 0.9)
"""Timesteps whose gradients are taken, as fractions of all: they tell most."""

ROWS_OF_A_GRADIENT = 8
"""A row whose activations are kept for the backward pass takes as much memory."""

MIN_ROUND = 20
"""Classes evaluated in a round of the search, or the number of candidates if more."""

ROUNDS_A_DOUBLING = 1.4
"""Rounds of the search, each time that the number of classes doubles."""

N_FEATURES = 256  # of a class, random projections of its embedding
CHUNK = 512  # conditions multiplied at once
_features_of = WeakKeyDictionary()  # plan -> features of its classes

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
    tensors = to_dict(backbone.encode_null(null_condition)).values()
    if backbone.kind == "text" and not all(x.is_floating_point() for x in tensors):
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
    subset = np.flatnonzero(in_the_middle & (weights > 0))
    if not len(subset):
        subset = np.flatnonzero(weights > 0)
    subset = subset[np.argsort(timesteps[subset], kind="stable")]
    return thin(subset, N_GRADIENTS) if len(subset) > N_GRADIENTS else subset


def predict_errors(plan, images, null, n_candidates, eligible, first=0):
    """Errors of all classes, predicted from a few evaluations.

    The first-order scores put the classes in an order. Then the best n of them, 20 or
    `n_candidates`, are evaluated on one trial, and a Bayesian linear regression on the
    class's embedding and its first-order score predicts the errors of the others; the
    best n of those are next. With K classes there are 1.4 log2(K / n) such rounds: none
    up to 20 classes, of which the first-order scores are returned.

    Parameters
    ----------
    plan : Plan
        Its pruning is not used.
    images : sequence
        As :func:`~diffusion_sklearn.images._pixels.check_images` returns them.
    null : Tensor of shape (1, ...) or Conditions
        The null condition.
    n_candidates : int
        Candidates that are wanted.
    eligible : ndarray of shape (n_classes,), bool
        The classes to choose from, more than `n_candidates`.
    first : int, default=0
        Index of the first image, for messages.

    Returns
    -------
    errors : ndarray of shape (n_images, n_classes), float64
        Weighted error, up to a constant for each image: that of one trial where it was
        evaluated, else its prediction.
    searched : ndarray of shape (n_images, n_classes), float64
        Error of that trial, without weight; NaN where it was not evaluated.
    n_evaluations : ndarray of shape (n_images,), int64
        Rows of forward passes; the backward pass of a gradient counts as two more.

    Raises
    ------
    ValueError
        If the model has no embedding of its class ids.
    FloatingPointError
        If a gradient overflowed, as in float16.
    """
    backbone = plan.backbone
    trials = gradient_trials(plan.trials, plan.weights, backbone.n_timesteps)
    rows = BatchSize(max(1, plan.rows.rows // ROWS_OF_A_GRADIENT))
    size = max(n_candidates, MIN_ROUND)
    n_rounds = math.ceil(ROUNDS_A_DOUBLING * math.log2(max(1, eligible.sum() / size)))
    n_rounds = min(n_rounds, eligible.sum() // size)
    errors = np.empty((len(images), plan.n_classes))
    searched = np.empty(errors.shape)
    n_evaluations = np.full(len(images), EVALUATIONS * len(trials))
    for start in range(0, len(images), plan.group_size):
        group = slice(start, start + plan.group_size)
        pixels = to_pixels(images[group], plan.image_size, first + start)
        with kept_memory(backbone.device):
            latents = encode(plan, pixels)
            of_trials, tables = _scores_of_trials(plan, latents, trials, null, rows)
            if n_rounds and plan not in _features_of:
                _features_of[plan] = _features(plan, tables)  # (k, f)
            scores = combine_trials(of_trials)
            features = _features_of.get(plan)
            errors[group], searched[group], n_rows = _search(
                plan, latents, scores, features, eligible, size, n_rounds
            )
        n_evaluations[group] += n_rows
    return errors, searched, n_evaluations


def combine_trials(scores):
    r"""First-order scores of the classes, from those of the trials.

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
    scores : ndarray of shape (n_images, n_trials, n_classes)
        s_jk.

    Returns
    -------
    scores : ndarray of shape (n_images, n_classes)
        In units of the error; the lower, the more probable.
    """
    spread = scores.std(axis=2)  # (n, m)
    weights = np.divide(1, spread, out=np.zeros_like(spread), where=spread > 0)
    total = np.maximum(weights.sum(axis=1), np.finfo(float).tiny)
    return np.einsum("nm,nmk->nk", weights, scores) / total[:, None]


def _features(plan, tables):
    """Random projections of the classes' embeddings, (n_classes, N_FEATURES)."""
    rng, features = np.random.default_rng(0), 0
    for table, origin in tables:
        shape = N_FEATURES, origin.numel()
        directions = rng.standard_normal(shape, np.float32) / np.sqrt(N_FEATURES)
        directions = torch.from_numpy(directions).to(table.device)
        features = features + _products(directions, table, origin)  # (f, n_conditions)
    features = features.T.double().cpu().numpy()
    features = mean_over_prompts(plan, np.arange(plan.n_classes), features)
    features -= features.mean(axis=0)
    scale = np.sqrt((features**2).sum(axis=1).mean())
    return features / max(scale, np.finfo(float).tiny)


def _search(plan, latents, scores, features, eligible, size, n_rounds):
    """What :func:`predict_errors` returns, for a group of images."""
    n = len(latents)
    predicted = scores.copy()
    evaluated = np.full(scores.shape, np.nan)
    n_rows = np.zeros(n, np.int64)
    spread = np.maximum(scores.std(axis=1, keepdims=True), np.finfo(float).tiny)
    scores = (scores - scores.mean(axis=1, keepdims=True)) / spread
    for _ in range(n_rounds):
        left = np.where(np.isnan(evaluated) & eligible, predicted, np.inf)
        k = left.argsort(axis=1, kind="stable")[:, :size].ravel()
        i = np.arange(n).repeat(size)
        triples = with_prompts(plan, i, np.full(len(i), plan.search_trial), k)
        values, n_more = evaluate(plan, latents, triples)
        n_rows += n_more
        evaluated[i, k] = mean_over_prompts(plan, k, values)
        for image, done in enumerate(~np.isnan(evaluated)):
            inputs = np.column_stack([scores[image], features])  # (k, 1 + f)
            predicted[image] = _regress(inputs, done, evaluated[image, done])
    errors = np.where(np.isnan(evaluated), predicted, evaluated)
    # First-order scores have weights already.
    scale = plan.weights[plan.search_trial] if n_rounds else 1
    return errors * scale, evaluated, n_rows


def _regress(inputs, done, values):
    """Bayesian linear regression, as scikit-learn's BayesianRidge, of few values.

    Its regularization is the one of highest evidence (MacKay, 1992).

    Parameters
    ----------
    inputs : ndarray of shape (n_classes, n_features)
    done : ndarray of shape (n_classes,), bool
        The classes with a value, n of them.
    values : ndarray of shape (n,)

    Returns
    -------
    predicted : ndarray of shape (n_classes,)
        Of all classes.
    """
    mean, inputs = values.mean(), inputs - inputs[done].mean(axis=0)
    variances, axes = np.linalg.eigh(inputs[done] @ inputs[done].T)  # (n,), (n, n)
    rotated = axes.T @ (values - mean)
    scale = max(variances.mean(), np.finfo(float).tiny)
    total = variances.clip(0) + scale * 2.0 ** np.arange(-12, 5)[:, None]
    noise = np.maximum((rotated**2 / total).mean(axis=1), np.finfo(float).tiny)
    evidence = -len(values) * np.log(noise) - np.log(total).sum(axis=1)
    coefficients = inputs[done].T @ (axes @ (rotated / total[evidence.argmax()]))
    return mean + inputs @ coefficients


@torch.inference_mode(False)
def _scores_of_trials(plan, latents, trials, null, rows):
    """Scores s_jk of each image, trial and class, and the tables of embeddings.

    Returns
    -------
    scores : ndarray of shape (n_images, n_trials, n_classes), float64
    tables : list of (Tensor, Tensor)
        Embeddings of the conditions, and that of the null condition.
    """
    backbone, terms = plan.backbone, loss_terms(plan.loss)
    noises, timesteps, conditions, _ = plan.inputs
    image, trial = np.divmod(np.arange(len(latents) * len(trials)), len(trials))
    pairs = np.stack([image, trials[trial]])
    null, tables = null.to(latents.device), []

    def score_batch(batch):
        image, trial = to_device(pairs[:, batch], latents.device)
        clean, noise, t = latents[image], noises[trial], timesteps[trial]
        noised = backbone.add_noise(clean, noise, t)
        nulls = null[[0] * len(t)]  # a copy, which is no inference tensor
        leaves_of = _leaves(backbone, nulls, conditions)
        with torch.enable_grad(), leaves_of as (nulls, leaves):
            if "vlb" in terms:
                outputs = backbone.predict_with_variance(noised, t, nulls)
            else:
                outputs = backbone.predict(noised, t, nulls), None
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
        tables[:] = [(table, origin) for _, table, origin in leaves]
        return sum(products)  # (b, n_conditions)

    batches = in_batches(score_batch, pairs.shape[1], rows)
    scores = torch.cat([batch.cpu() for batch in batches]).double().numpy()
    if not np.isfinite(scores).all():
        raise FloatingPointError(
            f"dtype={backbone.dtype} gave NaN or infinity as a gradient; pass "
            "dtype='float32' or 'bfloat16', or another prefilter."
        )
    scores = mean_over_prompts(plan, np.arange(plan.n_classes), scores.T).T
    scores = scores.reshape(len(latents), len(trials), plan.n_classes)
    scale = plan.guidance_scale * plan.weights[trials] / plan.n_elements
    return scores * scale[:, None], tables


@contextmanager
def _leaves(backbone, nulls, conditions):
    """What the gradient is taken with respect to.

    Parameters
    ----------
    backbone : Backbone
        The model.
    nulls : Tensor of shape (b, ...) or Conditions
        The null condition, for each row of the batch.
    conditions : Tensor of shape (n_conditions, ...) or Conditions
        Those of the classes.

    Yields
    ------
    nulls : Tensor of shape (b, ...) or Conditions
        What the network is run with.
    leaves : list of (Tensor, Tensor, Tensor)
        A leaf of the graph (b, ...), its values under each of the conditions, and
        under the null condition. Of text, a leaf for each tensor. Of class ids, the
        output of each embedding table that sees them, known after the forward pass.
    """
    if backbone.kind == "text":
        nulls, tables = to_dict(nulls), to_dict(conditions)
        leaves = {
            name: null.to(backbone.compute_dtype, copy=True).requires_grad_()
            for name, null in nulls.items()
        }
        triples = [(leaf, tables[k], nulls[k][0]) for k, leaf in leaves.items()]
        yield from_dict(leaves), triples
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
        yield nulls, leaves
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
