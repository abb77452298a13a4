"""Pruning: which classes are dropped, after how many trials."""

import itertools
import math
from functools import partial

import numpy as np
from scipy.stats import t as student_t

FIRST_LOOK, GROWTH = 4, 1.2
"""The first look of a race is after so many trials, each next after a fifth more. A
race by prediction looks from the first trial on."""

UNUSUAL_FIRST_LOOK = 6
"""First look of a race by prediction at an image of unusually large errors."""


def check_pruning(pruning, n_trials):
    """Raise unless `pruning` is None, a confidence or stages that fit `n_trials`.

    Parameters
    ----------
    pruning : None, float or sequence of (int, int)
        As in the estimators.
    n_trials : int
        The full number of trials.

    Raises
    ------
    ValueError
        With the value and what to pass instead.
    """
    if pruning is None:
        return
    confidence, stages = split_pruning(pruning)
    if confidence is not None and not 0.5 <= confidence < 1:
        raise ValueError(
            f"pruning={pruning!r}: {confidence!r} is no confidence; pass a float in "
            "[0.5, 1), for instance 0.99, or None to run every trial."
        )
    if isinstance(pruning, float):
        return
    try:
        integers = [(int(done), int(n_keep)) for done, n_keep in stages]
        valid = all(a == tuple(b) for a, b in zip(integers, stages, strict=True))
    except (TypeError, ValueError):
        valid = False
    if not stages or not valid:
        raise ValueError(
            f"pruning={pruning!r} is not understood; pass None, a float such as 0.99, "
            "stages ((trials, classes to keep), ...) such as ((25, 5),), or stages "
            "and a float, such as ((25, 5), 0.99)."
        )
    done, n_keep = zip(*stages, strict=True)
    rising = all(a < b for a, b in itertools.pairwise((0, *done)))
    falling = all(a > b for a, b in itertools.pairwise(n_keep))
    if not rising or not falling or n_keep[-1] < 1:
        raise ValueError(
            f"pruning={pruning!r}: the numbers of trials must rise and the numbers of "
            "classes to keep must fall, down to 1 at the least."
        )
    if done[-1] > n_trials:
        raise ValueError(
            f"pruning={pruning!r} has a stage after {done[-1]} trials, more than "
            f"n_trials={n_trials}; raise n_trials or drop the stage."
        )


def split_pruning(pruning):
    """The confidence of the race in a `pruning`, and its stages.

    Parameters
    ----------
    pruning : None, float or sequence
        As in the estimators.

    Returns
    -------
    confidence : float or None
        None: no race.
    stages : tuple
        (trials, classes to keep) pairs, if it is well-formed.
    """
    if pruning is None or isinstance(pruning, float):
        return pruning, ()
    if not isinstance(pruning, (list, tuple)):
        return None, ()
    if len(pruning) > 1 and isinstance(pruning[-1], float):
        return pruning[-1], tuple(pruning[:-1])
    return None, tuple(pruning)


def stage_ends(pruning):
    """Numbers of trials after which a `pruning` keeps a given number of classes."""
    return tuple(int(done) for done, _ in split_pruning(pruning)[1])


def evaluation_bounds(pruning, n_trials, n_classes, first_look=1):
    """Fewest and most pairs of a class and a trial that an image takes.

    Parameters
    ----------
    pruning : None, float or sequence
        As in the estimators.
    n_trials : int
        The full number of trials.
    n_classes : int
        At least 2.
    first_look : int, default=1
        Trials before a race first drops classes.

    Returns
    -------
    low, high : int
        The same unless there is a race, which may end at its first look or never.
    """
    confidence, stages = split_pruning(pruning)
    high, start, n_active = 0, 0, n_classes
    for end, n_keep in (*stages, (n_trials, 1)):
        high += (end - start) * n_active
        start, n_active = end, min(n_active, n_keep)
        if n_active == 1:  # decided
            break
    return (high if confidence is None else min(first_look * n_classes, high)), high


def race_looks(n_trials, first):
    """Numbers of trials after which a race tests its classes.

    Parameters
    ----------
    n_trials : int
        The full number of trials.
    first : int
        The first look.

    Returns
    -------
    looks : list of int
        Rising, each below `n_trials`.
    """
    looks, look = [], first
    while look < n_trials:
        looks.append(look)
        look = max(look + 1, math.ceil(GROWTH * look))
    return looks


def pruning_rounds(pruning, n_trials, predictor=None):
    """Rounds of trials, each with the rules that drop classes after it.

    Parameters
    ----------
    pruning : None, float or sequence
        None: one round of all trials. Stages: Algorithm 2 of Li et al. (ICCV 2023).
        A float: a race at that confidence. Stages and a float: a race, in which the
        stages drop classes too.
    n_trials : int
        The full number of trials.
    predictor : MeanPredictor, default=None
        The race is by prediction; None: by a test of means.

    Returns
    -------
    rounds : list of (int, list of callable)
        Cumulative number of trials, and rules
        ``(errors, active, timesteps, offsets=0) -> active`` on arrays of shape
        (n_images, n_classes, n_done), (n_images, n_classes), (n_done,) and (n_images,
        n_classes).
    """
    confidence, stages = split_pruning(pruning)
    n_kept_after = {int(done): int(n_keep) for done, n_keep in stages}
    looks, rounds = [], []
    if confidence is not None:
        looks = race_looks(n_trials, FIRST_LOOK if predictor is None else 1)
    alpha_fractions = 1 / np.sqrt(np.arange(1, len(looks) + 1))
    alpha_fractions /= alpha_fractions.sum()
    for end in sorted({*looks, *n_kept_after, n_trials}):
        rules = []
        if end in looks and predictor is not None:
            how = {"prediction": predictor.after(end), "alpha": 1 - confidence}
            if end < UNUSUAL_FIRST_LOOK and predictor.levels is not None:
                how["levels"] = predictor.levels[:, predictor.order[:end]]
            rules.append(partial(predicted_race, **how))
        elif end in looks:
            alpha = (1 - confidence) * alpha_fractions[looks.index(end)]
            rules.append(partial(race, alpha=alpha, n_trials=n_trials))
        if end in n_kept_after:
            rules.append(partial(keep_best, n_keep=n_kept_after[end]))
        rounds.append((end, rules))
    return rounds


def keep_best(errors, active, timesteps, n_keep, offsets=0.0):
    """Keep the classes of lowest mean error (one stage of Algorithm 2).

    Parameters
    ----------
    errors : ndarray of shape (n_images, n_classes, n_done)
        Errors of the trials so far.
    active : ndarray of shape (n_images, n_classes), bool
        Classes that were evaluated in all of them.
    timesteps : ndarray of shape (n_done,)
        Not used.
    n_keep : int
        Number of classes that stay.
    offsets : ndarray of shape (n_images, n_classes), default=0
        Added to the mean errors, such as what follows from unequal priors.

    Returns
    -------
    active : ndarray of shape (n_images, n_classes), bool
    """
    mean = np.where(active, errors.mean(axis=2) + offsets, np.inf)  # (n, k)
    rank = mean.argsort(axis=1, kind="stable").argsort(axis=1)
    return active & (rank < n_keep)


def race(errors, active, timesteps, alpha, n_trials, offsets=0.0):
    r"""Drop the classes that the full budget would hardly put first.

    A look at n of N trials compares each class k with the leader b, the class of
    lowest mean error so far, by their paired differences
    :math:`d_j = e_{kj} - e_{bj}`, and drops k where

    .. math:: \bar d_n > t_{\nu,\,1 - \alpha / (K - 1)}
        \; s \, \sqrt{\frac{1}{n} - \frac{1}{N}}

    The test is of the mean over all N trials, which are fixed beforehand, not of an
    expectation: hence the finite population correction, which is 0 at n = N.

    - The first n trials are spread evenly over the timesteps. So the trend of d over t
      adds nothing to the error of their mean, and must not be part of its spread: a
      variance here comes from differences between neighbouring timesteps,
      :math:`\sum_j w_j (d_{j+1} - d_j)^2 / 2 n` (von Neumann, 1941), where w is 1, and
      3/2 at both ends, so that the two trials there count as much together as any
      other two. It has about 2 (n - 1) / 3 degrees of freedom.
    - 4 trials say little about the spread of one class. So :math:`s^2` is pooled over
      the K active classes, as in a two-way analysis of variance: it is made of
      their residuals from the mean over these classes, which leaves K - 1 times as many
      degrees of freedom, :math:`\nu`. A class whose own :math:`d_j` have a variance of
      more than twice that is tested with half its own variance.
    - Many classes: alpha is divided by K - 1 (Bonferroni). Many looks: the estimators
      divide 1 - confidence among them, in proportion to 1 / sqrt(i) for the i-th,
      since most classes go early. Together the class that the full budget would choose
      is dropped with a probability of at most 1 - confidence, in so far as the means
      are normal, the spreads alike over classes and timesteps, and the classes
      dropped earlier were dropped rightly.
    - Where they are not alike: of 19 near-duplicates (a fifth of the noise their own)
      and one other class a little ahead of them, a race at 0.99 loses the one in 3 to
      6 % of images (by the pooled spread alone, 14 to 20 %). Noise 150 times as strong
      at one end of the timesteps as at the other makes 1 % into 2 %. How often it
      happens on real images is measured in ``benchmarks/accuracy/accuracy_vs_cost.py``;
      stages and ``pruning=None`` make no such assumption.

    Clark and Jaini (NeurIPS 2023) drop classes by a plain paired t-test, without these
    corrections; sampling without replacement is in Cochran's "Sampling Techniques",
    chapter 2.

    Parameters
    ----------
    errors : ndarray of shape (n_images, n_classes, n_done)
        Errors of the trials so far.
    active : ndarray of shape (n_images, n_classes), bool
        Classes that were evaluated in all of them.
    timesteps : ndarray of shape (n_done,)
        Timestep of each trial.
    alpha : float
        How often at most this look may drop the class that the full budget would
        choose.
    n_trials : int
        N, the full budget.
    offsets : ndarray of shape (n_images, n_classes), default=0
        Added to the mean errors, such as what follows from unequal priors.

    Returns
    -------
    active : ndarray of shape (n_images, n_classes), bool
    """
    n_done = errors.shape[2]
    mean = np.where(active, errors.mean(axis=2) + offsets, np.inf)  # (n, k)
    best = mean.argmin(axis=1)[:, None]  # (n, 1)
    others = active.copy()
    np.put_along_axis(others, best, False, axis=1)
    n_others = np.maximum(others.sum(axis=1, keepdims=True), 1)  # (n, 1)

    gap, residual = _differences(errors, active, best)
    # A difference of two classes has twice the variance of one.
    pooled = 2 * _variance(residual, timesteps).sum(axis=1, keepdims=True) / n_others
    spread = np.sqrt(np.maximum(pooled, _variance(gap, timesteps) / 2))  # (n, k)
    freedom = n_others * 2 * (n_done - 1) / 3
    bound = student_t.isf(alpha / n_others, freedom) * spread  # (n, k)
    bound *= np.sqrt(1 / n_done - 1 / n_trials)
    dropped = others & (mean > np.take_along_axis(mean, best, axis=1) + bound)
    # Trials of weight 0 say nothing, whatever the offsets.
    dropped &= gap.any(axis=(1, 2))[:, None]
    return active & ~dropped


def predicted_race(
    errors, active, timesteps, prediction, alpha, levels=None, offsets=0.0
):
    r"""Drop the classes that the full budget is predicted not to put first.

    The mean of each class over all N trials is predicted from the n that ran, with a
    remaining variance v (:class:`~diffusion_sklearn.engine._covariance.MeanPredictor`).
    A look compares each class k with the leader b, the class of lowest prediction, and
    drops k where

    .. math:: \hat m_k - \hat m_b > t_{\nu,\,1 - \alpha / (K_0 - 1)} \; s \sqrt{2 v}

    - The covariance gives v up to a scale, which is estimated from the image itself:
      with r the errors of an active class less their mean over these K classes,
      :math:`s^2 = \sum_k r_k' C^{-1} r_k / \nu` with :math:`\nu = (K - 1) n` degrees
      of freedom. So a race is longer for an image whose errors are unlike those that
      the covariance was learned from. A class whose own differences from the leader
      have a variance of more than twice that is tested with half its own variance.
    - The first trials do not yet tell that an image is unlike those that the covariance
      was learned from: noise, for instance, shows at small timesteps, which tell little
      of other images and come late. So nothing is dropped before the sixth trial where
      the errors are large: where the logarithm of their mean over the classes, averaged
      over the trials so far, is more than one standard deviation above its mean over
      the images learned from.
    - For normal errors with that covariance, a class k that is dropped comes before b
      at the full budget with a probability below :math:`\alpha / (K_0 - 1)`, given the
      errors so far, for :math:`K_0` classes at the start. Such a probability holds at
      whichever look it is used, so that the number of looks needs no correction. So the
      class that the full budget would choose is dropped in at most a share alpha of the
      images.
    - How often it happens on real images, clean and distorted, is measured in
      ``benchmarks/accuracy/race.py``.

    Parameters
    ----------
    errors : ndarray of shape (n_images, n_classes, n_done)
        Errors of the trials so far.
    active : ndarray of shape (n_images, n_classes), bool
        Classes that were evaluated in all of them.
    timesteps : ndarray of shape (n_done,)
        Not used.
    prediction : tuple
        From :meth:`~diffusion_sklearn.engine._covariance.MeanPredictor.after`.
    alpha : float
        How often at most the race may drop the class that the full budget would
        choose.
    levels : ndarray of shape (2, n_done), default=None
        What the logarithm of the mean error over the classes is for the images learned
        from, its mean and standard deviation; None: every image passes for a usual one.
    offsets : ndarray of shape (n_images, n_classes), default=0
        Added to the mean errors, such as what follows from unequal priors.

    Returns
    -------
    active : ndarray of shape (n_images, n_classes), bool
    """
    coefficients, variance, whiten = prediction
    n_used = np.count_nonzero(whiten.diagonal())  # not trials of weight 0
    if n_used == 0:
        return active
    mean = np.where(active, errors @ coefficients + offsets, np.inf)  # (n, k)
    best = mean.argmin(axis=1)[:, None]  # (n, 1)
    n_active = active.sum(axis=1, keepdims=True)  # (n, 1)
    n_others = np.maximum(n_active - 1, 1)
    n_first = np.isfinite(errors[:, :, 0]).sum(axis=1, keepdims=True)

    gap, residual = _differences(errors, active, best)
    freedom = n_others * n_used
    pooled = ((residual @ whiten) ** 2).sum(axis=(1, 2))[:, None] / freedom
    own = ((gap @ whiten) ** 2).sum(axis=2) / n_used  # of a difference
    spread = np.sqrt(variance * np.maximum(2 * pooled, own / 2))  # (n, k)
    bound = student_t.isf(alpha / np.maximum(n_first - 1, 1), freedom) * spread
    dropped = mean > np.take_along_axis(mean, best, axis=1) + bound
    if levels is not None:
        dropped &= ~_is_unusual(errors, active, levels)[:, None]
    return active & ~dropped


def _is_unusual(errors, active, levels):
    """Whether the errors of an image are larger than usual, (n_images,)."""
    used = np.isfinite(levels[0])  # not trials of weight 0
    level, spread = levels[:, used]
    total = np.where(active[:, :, None], errors[:, :, used], 0).sum(axis=1)
    n_active = np.maximum(active.sum(axis=1), 1)[:, None]
    excess = np.log(np.maximum(total / n_active, np.finfo(float).tiny)) - level
    return excess.sum(axis=1) > spread.sum()


def _differences(errors, active, best):
    """Differences from the leader, and residuals from their mean over active classes.

    Both (n_images, n_classes, n_done), 0 where a class is not active; `best` is of
    shape (n_images, 1).
    """
    gap = errors - np.take_along_axis(errors, best[..., None], axis=1)
    gap = np.where(active[:, :, None], gap, 0)
    n_active = np.maximum(active.sum(axis=1), 1)[:, None, None]
    class_mean = gap.sum(axis=1, keepdims=True) / n_active
    return gap, np.where(active[:, :, None], gap - class_mean, 0)


def _variance(values, timesteps):
    """Variance of trials around any trend over their timesteps.

    Parameters
    ----------
    values : ndarray of shape (n_images, n_classes, n_done)
        Of at least two trials.
    timesteps : ndarray of shape (n_done,)
        Of the trials.

    Returns
    -------
    variance : ndarray of shape (n_images, n_classes)
    """
    n_done = len(timesteps)
    steps = np.diff(values[:, :, np.argsort(timesteps, kind="stable")], axis=2)
    edge_weight = np.ones(n_done - 1)
    edge_weight[0] += 0.5  # the trial at an end has one neighbour, others have two
    edge_weight[-1] += 0.5
    return (edge_weight * steps**2).sum(axis=2) / (2 * n_done)
