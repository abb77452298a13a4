"""How much of a test set the filters of a training set would have let through."""

import numpy as np
from sklearn.utils import Bunch

from diffusion_sklearn.baselines._checkpoints import to_picture
from diffusion_sklearn.metrics import clopper_pearson

AT_ONCE = 64  # images that a scorer sees


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
    """Share of images that would remain after the filters of a training set.

    The defaults are the filters of Stable Diffusion 2.0 (Li et al., ICCV 2023, table
    2). A filter without its scorer is left out.

    Parameters
    ----------
    images : sequence of n images
        PIL images, paths or arrays.
    resolution : int, default=512
        An image passes if its short side has so many pixels or more.
    aesthetic : callable, default=None
        From a list of PIL images to their aesthetic scores, an array; such as
        :class:`ClipAestheticScorer`.
    min_aesthetic : float, default=4.5
        An image passes with this score or a higher one.
    nsfw : callable, default=None
        From a list of PIL images to probabilities that they are unsafe; such as
        :class:`ClipSafetyScorer`.
    max_nsfw : float, default=0.1
        An image passes with this probability or a lower one.
    confidence : float, default=0.95
        Coverage of the intervals, in (0, 1).

    Returns
    -------
    report : :class:`~sklearn.utils.Bunch`
        ``n`` int; ``shares``, a dict from "resolution", "aesthetic", "safe",
        "aesthetic+safe" and "resolution+aesthetic+safe" (as far as there are scorers)
        to proportions; ``intervals``, a dict of (low, high) with the same keys, exact
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
    parts = {name: [] for name in scorers}
    for start in range(0, len(images), AT_ONCE):
        stop = min(start + AT_ONCE, len(images))
        pictures = [to_picture(images[k], k) for k in range(start, stop)]
        for name, scorer in scorers.items():
            parts[name].append(_scores(name, scorer, pictures))
    scores = {name: np.concatenate(values) for name, values in parts.items()}
    passes = {"resolution": scores["resolution"] >= resolution}
    if aesthetic is not None:
        passes["aesthetic"] = scores["aesthetic"] >= min_aesthetic
    if nsfw is not None:
        passes["safe"] = scores["safe"] <= max_nsfw
    for some in (list(passes)[1:], list(passes)):
        if len(some) > 1:
            passes["+".join(some)] = np.all([passes[name] for name in some], axis=0)
    n = len(images)
    return Bunch(
        n=n,
        shares={name: float(ok.mean()) for name, ok in passes.items()},
        intervals={
            name: clopper_pearson(int(ok.sum()), n, confidence)
            for name, ok in passes.items()
        },
        passes=passes,
        scores=scores,
    )


def _short_sides(pictures):
    return [min(picture.size) for picture in pictures]


def _scores(name, scorer, pictures):
    values = np.asarray(scorer(pictures), np.float64)
    if values.shape != (len(pictures),) or not np.isfinite(values).all():
        name = {"safe": "nsfw"}.get(name, name)
        raise ValueError(
            f"{name} gave an array of shape {values.shape} for {len(pictures)} images, "
            "or numbers that are not finite; it must return one finite number for each."
        )
    return values
