"""Fraction of a test set that passes the filters of a training set."""

import numpy as np
from sklearn.utils import Bunch

from diffusion_sklearn.backbones._batches import BatchSize, in_batches
from diffusion_sklearn.baselines._checkpoints import to_picture
from diffusion_sklearn.metrics import proportions


def training_filter_report(
    images,
    *,
    resolution=512,
    aesthetic=None,
    min_aesthetic=4.5,
    nsfw=None,
    max_nsfw=0.1,
    confidence=0.95,
):
    """Proportion of images that pass the filters of a training set.

    The defaults are the filters of Stable Diffusion 2.0 (Li et al., ICCV 2023, table
    2). Filters without a scorer are left out.

    Parameters
    ----------
    images : sequence of n images
        PIL images, paths or arrays.
    resolution : int, default=512
        Minimum length of the short side in pixels.
    aesthetic : callable, default=None
        From a list of PIL images to their aesthetic scores, an array; such as
        :class:`ClipAestheticScorer`.
    min_aesthetic : float, default=4.5
        Minimum score.
    nsfw : callable, default=None
        From a list of PIL images to probabilities that they are unsafe; such as
        :class:`ClipSafetyScorer`.
    max_nsfw : float, default=0.1
        Maximum probability.
    confidence : float, default=0.95
        Coverage of the intervals, in (0, 1).

    Returns
    -------
    report : :class:`~sklearn.utils.Bunch`
        ``n`` int; ``shares``, a dict from "resolution", "aesthetic", "safe",
        "aesthetic+safe" and "resolution+aesthetic+safe" (those that have scorers) to
        proportions; ``intervals``, a dict of (low, high) with the same keys, exact
        (:func:`~diffusion_sklearn.metrics.clopper_pearson`); ``passes``, a dict of
        bool arrays of shape (n,) with the same keys; ``scores``, a dict of float
        arrays: "resolution" (the short side), "aesthetic", "safe" (the probability).

    Raises
    ------
    ValueError
        If there are no images, or a scorer gives no finite number for each.

    Examples
    --------
    >>> from diffusion_sklearn.datasets import load_fashion_photos
    >>> from diffusion_sklearn.datasets import training_filter_report
    >>> photos = load_fashion_photos().images[:100]  # of 28 pixels a side
    >>> report = training_filter_report(photos)
    >>> report.shares["resolution"], round(report.intervals["resolution"][1], 3)
    (0.0, 0.036)
    """
    if len(images) == 0:
        raise ValueError("images is empty; pass at least one.")
    scorers = {"resolution": _short_sides, "aesthetic": aesthetic, "safe": nsfw}
    scorers = {name: scorer for name, scorer in scorers.items() if scorer is not None}

    def score(rows):
        pictures = [to_picture(images[k], k) for k in range(rows.start, rows.stop)]
        return [_score(name, scorer, pictures) for name, scorer in scorers.items()]

    batches = zip(*in_batches(score, len(images), BatchSize(64)), strict=True)
    scores = dict(zip(scorers, map(np.concatenate, batches), strict=True))
    passes = {"resolution": scores["resolution"] >= resolution}
    if aesthetic is not None:
        passes["aesthetic"] = scores["aesthetic"] >= min_aesthetic
    if nsfw is not None:
        passes["safe"] = scores["safe"] <= max_nsfw
    for names in (list(passes)[1:], list(passes)):
        if len(names) > 1:
            passes["+".join(names)] = np.all([passes[name] for name in names], axis=0)
    result = proportions(passes, confidence)
    n, intervals = result.pop("n"), result.pop("intervals")
    return Bunch(n=n, shares=result, intervals=intervals, passes=passes, scores=scores)


def _short_sides(pictures):
    return [min(picture.size) for picture in pictures]


def _score(name, scorer, pictures):
    scores = np.asarray(scorer(pictures), np.float64)
    if scores.shape != (len(pictures),) or not np.isfinite(scores).all():
        parameter = "nsfw" if name == "safe" else name
        raise ValueError(
            f"{parameter} gave an array of shape {scores.shape} for {len(pictures)} "
            "images, or numbers that are not finite; it must return one finite number "
            "for each."
        )
    return scores
