"""Which classes stay in the running, after how many trials."""

import itertools
from functools import partial

import numpy as np
from scipy.stats import t as student_t

RACE_FIRST, RACE_STEP = 10, 5


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
    if isinstance(pruning, float):
        if not 0.5 <= pruning < 1:
            raise ValueError(
                f"pruning={pruning!r} is no confidence; pass a float in [0.5, 1), "
                "for instance 0.99, or None to run every trial."
            )
        return
    try:
        stages = [(int(done), int(keep)) for done, keep in pruning]
        whole = all((d, k) == tuple(p) for (d, k), p in zip(stages, pruning, strict=1))
    except (TypeError, ValueError):
        stages, whole = [], False
    if not stages or not whole:
        raise ValueError(
            f"pruning={pruning!r} is not understood; pass None, a float such as 0.99, "
            "or stages ((trials, classes to keep), ...) such as ((25, 5),)."
        )
    done, keep = zip(*stages, strict=True)
    rising = all(a < b for a, b in zip((0, *done), done, strict=False))
    falling = all(a > b for a, b in itertools.pairwise(keep))
    if not rising or not falling or keep[-1] < 1:
        raise ValueError(
            f"pruning={pruning!r}: the numbers of trials must rise and the numbers of "
            "classes to keep must fall, down to 1 at the least."
        )
    if done[-1] > n_trials:
        raise ValueError(
            f"pruning={pruning!r} has a stage after {done[-1]} trials, more than "
            f"n_trials={n_trials}; raise n_trials or drop the stage."
        )


def stage_ends(pruning):
    """Numbers of trials after which a staged `pruning` drops classes."""
    if pruning is None or isinstance(pruning, float):
        return ()
    return tuple(int(done) for done, _ in pruning)


def pruning_rounds(pruning, n_trials):
    """Rounds of trials, each with the rule that says who stays after it.

    Parameters
    ----------
    pruning : None, float or sequence of (int, int)
        None: one round of all trials. Stages: Algorithm 2 of Li et al. (ICCV 2023).
        A float: a race at that confidence, looked at every few trials.
    n_trials : int
        The full number of trials.

    Returns
    -------
    rounds : list of (int, callable or None)
        Cumulative number of trials, and a rule ``(errors, alive) -> alive`` on arrays
        of shape (n_images, n_classes, n_done) and (n_images, n_classes).
    """
    if pruning is None:
        return [(n_trials, None)]
    if isinstance(pruning, float):
        looks = range(RACE_FIRST, n_trials, RACE_STEP)
        rule = partial(race, confidence=pruning)
        return [*((look, rule) for look in looks), (n_trials, rule)]
    rounds = [(int(done), partial(keep_best, n_keep=int(k))) for done, k in pruning]
    return rounds if rounds[-1][0] == n_trials else [*rounds, (n_trials, None)]


def keep_best(errors, alive, n_keep):
    """Keep the classes of lowest mean error (one stage of Algorithm 2).

    Parameters
    ----------
    errors : ndarray of shape (n_images, n_classes, n_done)
        Errors of the trials so far.
    alive : ndarray of shape (n_images, n_classes), bool
        Who has been evaluated in all of them.
    n_keep : int
        How many stay.

    Returns
    -------
    alive : ndarray of shape (n_images, n_classes), bool
    """
    mean = np.where(alive, errors.mean(axis=2), np.inf)  # (n, k)
    rank = mean.argsort(axis=1, kind="stable").argsort(axis=1)
    return alive & (rank < n_keep)


def race(errors, alive, confidence):
    """Drop the classes that are worse than the best at the given confidence.

    One-sided paired t-test on the differences from the class of lowest mean error so
    far, as in Clark and Jaini (NeurIPS 2023).

    Parameters
    ----------
    errors : ndarray of shape (n_images, n_classes, n_done)
        Errors of the trials so far.
    alive : ndarray of shape (n_images, n_classes), bool
        Who has been evaluated in all of them.
    confidence : float
        In [0.5, 1).

    Returns
    -------
    alive : ndarray of shape (n_images, n_classes), bool
    """
    n_done = errors.shape[2]
    mean = np.where(alive, errors.mean(axis=2), np.inf)  # (n, k)
    best = mean.argmin(axis=1)  # (n,)
    gap = errors - np.take_along_axis(errors, best[:, None, None], axis=1)  # (n, k, m)
    spread = gap.std(axis=2, ddof=1) / np.sqrt(n_done)  # (n, k)
    bound = student_t.ppf(confidence, n_done - 1) * spread
    return alive & ~(gap.mean(axis=2) > bound)
