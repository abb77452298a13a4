"""Accuracy intervals, calibration, effective robustness and Winoground scores."""

from functools import partial
from numbers import Integral

import numpy as np
from scipy.special import expit, logit
from scipy.stats import binomtest
from sklearn.utils import Bunch

__all__ = [
    "clopper_pearson",
    "effective_robustness",
    "expected_calibration_error",
    "winoground_scores",
]


def clopper_pearson(n_correct, n, confidence=0.95):
    """Exact confidence interval of an accuracy.

    Parameters
    ----------
    n_correct : int
        Number of successes.
    n : int
        Number of independent trials, at least 1.
    confidence : float, default=0.95
        Coverage, in (0, 1).

    Returns
    -------
    low, high : float
        Bounds of the proportion.

    Raises
    ------
    ValueError
        If the counts or the confidence are not possible.

    References
    ----------
    Clopper and Pearson (1934), "The use of confidence or fiducial limits illustrated in
    the case of the binomial", Biometrika 26.

    Examples
    --------
    >>> from diffusion_sklearn.metrics import clopper_pearson
    >>> low, high = clopper_pearson(9, 10)
    >>> round(low, 4), round(high, 4)
    (0.555, 0.9975)
    """
    if not isinstance(n, Integral) or n < 1:
        raise ValueError(f"n={n!r} must be an int of at least 1.")
    if not 0 <= n_correct <= n or n_correct != int(n_correct):
        raise ValueError(f"n_correct={n_correct!r} must be an int from 0 to n={n}.")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence={confidence!r} must lie between 0 and 1.")
    interval = binomtest(int(n_correct), int(n)).proportion_ci(confidence, "exact")
    return float(interval.low), float(interval.high)


def confidence_bins(confidence, n_bins):
    """Place predictions in bins of equal width, of which b holds (b / n, (b + 1) / n].

    Parameters
    ----------
    confidence : ndarray of shape (n,)
        Probability of each prediction.
    n_bins : int

    Returns
    -------
    bins : ndarray of shape (n,), int64
    """
    return np.clip(np.ceil(confidence * n_bins).astype(int) - 1, 0, n_bins - 1)


def expected_calibration_error(y_true, y_proba, *, classes=None, n_bins=15):
    r"""Mean difference between the confidence of predictions and their accuracy.

    .. math:: ECE = \sum_b \frac{n_b}{n}
        |\mathrm{accuracy}_b - \mathrm{confidence}_b|

    over bins b of equal width of the highest probability (Guo et al., 2017).

    Parameters
    ----------
    y_true : array-like of shape (n,)
        Labels.
    y_proba : array-like of shape (n, n_classes)
        Probabilities, as of ``predict_proba``.
    classes : array-like of shape (n_classes,), default=None
        Label of each column; None: the sorted labels of `y_true`.
    n_bins : int, default=15
        Number of bins of (0, 1].

    Returns
    -------
    error : float
        In [0, 1]; 0 for the best calibration.

    Raises
    ------
    ValueError
        If the shapes do not fit, a value is no probability, or a label is none of
        `classes`.

    References
    ----------
    Guo, Pleiss, Sun and Weinberger (2017), "On Calibration of Modern Neural Networks",
    ICML.

    Examples
    --------
    >>> from diffusion_sklearn.metrics import expected_calibration_error
    >>> proba = [[0.8, 0.2]] * 5  # confidence 0.8, accuracy 0.6
    >>> error = expected_calibration_error([0, 0, 0, 1, 1], proba)
    >>> round(error, 3)
    0.2
    """
    y_true, y_proba = np.asarray(y_true), np.asarray(y_proba, np.float64)
    classes = np.unique(y_true) if classes is None else np.asarray(classes)
    if y_proba.shape != (len(y_true), len(classes)) or not len(y_true):
        raise ValueError(
            f"y_proba has shape {y_proba.shape}; pass a row for each of the "
            f"{len(y_true)} labels of y_true and a column for each of the "
            f"{len(classes)} classes."
        )
    if not (np.abs(y_proba - 0.5) <= 0.5 + 1e-6).all():  # but for rounding
        raise ValueError(
            f"y_proba has values from {y_proba.min():.6g} to {y_proba.max():.6g}; pass "
            "probabilities from 0 to 1, as of predict_proba."
        )
    if not np.isin(y_true, classes).all():
        unknown_labels = np.setdiff1d(y_true, classes).tolist()
        raise ValueError(f"y_true has {unknown_labels!r}, which are not in classes.")
    if not isinstance(n_bins, Integral) or n_bins < 1:
        raise ValueError(f"n_bins={n_bins!r} must be an int of at least 1.")
    confidence = y_proba.max(axis=1)
    correct = classes[y_proba.argmax(axis=1)] == y_true
    bins = confidence_bins(confidence, n_bins)
    gaps = np.bincount(bins, weights=correct - confidence, minlength=n_bins)
    return float(np.abs(gaps).sum() / len(y_true))


def effective_robustness(
    accuracy, shifted_accuracy, baseline_accuracy, baseline_shifted, *, knot="best"
):
    r"""Accuracy on shifted data above what the baselines' accuracies predict.

    The prediction is a continuous line with one knot, fitted to the baselines by least
    squares in logit space:

    .. math:: \mathrm{logit}\, \hat s(a) = b_0 + b_1 \, \mathrm{logit}\, a
        + b_2 \max(0, \mathrm{logit}\, a - \mathrm{logit}\, a_{\mathrm{knot}})

    The effective robustness of a model of accuracy a and shifted accuracy s is
    :math:`s - \hat s(a)` (Taori et al., 2020; Li et al., ICCV 2023, figure 6, with the
    knot at the accuracy of the model that ImageNet-A was selected with).

    Parameters
    ----------
    accuracy : float or array-like of shape (n_models,)
        Accuracy in distribution, in (0, 1).
    shifted_accuracy : float or array-like of shape (n_models,)
        Accuracy on the shifted data, in [0, 1].
    baseline_accuracy, baseline_shifted : array-like of shape (n_baselines,)
        Both accuracies of the baselines, in (0, 1).
    knot : float, "best" or None, default="best"
        Accuracy at which the slope changes. "best": the accuracy of the baseline that
        gives the least squared error, with at least two baselines on either side.
        None: a straight line.

    Returns
    -------
    result : :class:`~sklearn.utils.Bunch`
        ``robustness`` and ``predicted``, float or ndarray of shape (n_models,);
        ``predict``, a function from accuracies to predicted shifted accuracies;
        ``line``, ndarray of shape (2 or 3, 2): accuracy and shifted accuracy at the
        ends of the line and at its knot, straight between them on logit axes; ``knot``,
        float or None.

    Raises
    ------
    ValueError
        If an accuracy has no logit, the shapes do not fit, or there are too few
        baselines.

    Notes
    -----
    Outside the range of the baselines' accuracies the line is extrapolated.

    References
    ----------
    Taori, Dave, Shankar, Carlini, Recht and Schmidt (2020), "Measuring Robustness to
    Natural Distribution Shifts in Image Classification", NeurIPS.

    Examples
    --------
    >>> from diffusion_sklearn.metrics import effective_robustness
    >>> baselines = [0.5, 0.6, 0.7, 0.8]
    >>> result = effective_robustness(0.7, 0.75, baselines, baselines, knot=None)
    >>> round(result.predicted, 3), round(result.robustness, 3)
    (0.7, 0.05)
    """
    accuracy = _check_proportions("accuracy", accuracy, open_ends=True)
    shifted = _check_proportions("shifted_accuracy", shifted_accuracy)
    baseline = _check_proportions("baseline_accuracy", baseline_accuracy, True)
    baseline_shifted = _check_proportions("baseline_shifted", baseline_shifted, True)
    for name, values, of, reference in (
        ("shifted_accuracy", shifted, "accuracy", accuracy),
        ("baseline_shifted", baseline_shifted, "baseline_accuracy", baseline),
    ):
        if values.shape != reference.shape:
            raise ValueError(
                f"{name} has shape {values.shape} and {of} {reference.shape}; pass one "
                "for each model."
            )
    x, y = logit(baseline), logit(baseline_shifted)  # (n_baselines,)
    unique_x = np.unique(x)
    if len(unique_x) < 2:
        raise ValueError(
            f"baseline_accuracy={baseline.tolist()!r} has {len(unique_x)} different "
            "values; a line needs two or more."
        )
    if isinstance(knot, str) and knot != "best":
        raise ValueError(
            f"knot={knot!r} is not understood; pass an accuracy, 'best' or None."
        )
    if knot == "best":
        knots = unique_x[2:-2]
        if len(knots) == 0:
            raise ValueError(
                f"baseline_accuracy has {len(unique_x)} different values; knot='best' "
                "needs 5 or more. Pass knot=None for a straight line, or an accuracy."
            )
    elif knot is None:
        knots = [np.inf]  # a straight line
    else:
        knots = [float(logit(_check_proportions("knot", knot, open_ends=True)))]
        if not unique_x[0] < knots[0] < unique_x[-1]:
            raise ValueError(
                f"knot={knot!r} must lie between the baselines' accuracies, "
                f"{baseline.min()} and {baseline.max()}."
            )
    terms = [_line_terms(x, x_knot) for x_knot in knots]
    slopes = [np.linalg.lstsq(term, y, rcond=None)[0] for term in terms]
    squares = [((t @ b - y) ** 2).sum() for t, b in zip(terms, slopes, strict=True)]
    best = int(np.argmin(squares))
    predict = partial(_predict_shifted, slopes=slopes[best], x_knot=knots[best])
    predicted = predict(accuracy)
    robustness = shifted - predicted
    corners = expit(unique_x[[0, -1]])
    if knot is not None:
        knot = float(expit(knots[best]))
        corners = np.insert(corners, 1, knot)
    return Bunch(
        robustness=robustness if robustness.ndim else float(robustness),
        predicted=predicted if predicted.ndim else float(predicted),
        predict=predict,
        line=np.stack([corners, predict(corners)], axis=1),
        knot=knot,
    )


def _line_terms(x, x_knot):
    """Terms of a line with a knot, the last of them 0 for a straight line."""
    return np.stack([np.ones_like(x), x, np.maximum(0, x - x_knot)], axis=-1)


def _predict_shifted(accuracy, slopes, x_knot):
    accuracy = _check_proportions("accuracy", accuracy, open_ends=True)
    return expit(_line_terms(logit(accuracy), x_knot) @ slopes)


def _check_proportions(name, values, open_ends=False):
    values = np.asarray(values, np.float64)
    inside = (values > 0) & (values < 1) if open_ends else (values >= 0) & (values <= 1)
    if not inside.all():
        ends = "above 0 and below 1" if open_ends else "from 0 to 1"
        raise ValueError(
            f"{name} has {values[~inside].tolist()!r}; pass proportions {ends} (not "
            "percent). Leave a model with none or all correct out, or count half an "
            "image for it."
        )
    return values


def winoground_scores(score_matrix, tags=None, *, confidence=0.95):
    r"""Text, image and group score of examples of two images and two captions.

    With :math:`s(C_j, I_i)` the score of caption j on image i, an example counts for
    the text score (Li et al., ICCV 2023, equation 9) if the true caption scores higher
    on both images,

    .. math:: s(C_0, I_0) > s(C_1, I_0) \;\wedge\; s(C_1, I_1) > s(C_0, I_1),

    for the image score if the true image scores higher for both captions,

    .. math:: s(C_0, I_0) > s(C_0, I_1) \;\wedge\; s(C_1, I_1) > s(C_1, I_0),

    and for the group score if both hold. Ties do not count. Random scores give 1/4, 1/4
    and 1/6.

    Parameters
    ----------
    score_matrix : array-like of shape (n, 2, 2)
        ``score_matrix[k, i, j]``: how well caption j describes image i of example k, as
        ``score_pairs(images, captions)`` of the classifiers returns it.
    tags : array-like of shape (n,), default=None
        Kind of each example.
    confidence : float, default=0.95
        Coverage of the intervals, in (0, 1).

    Returns
    -------
    scores : :class:`~sklearn.utils.Bunch`
        ``n`` int; ``text``, ``image`` and ``group``, proportions of the examples;
        ``intervals``, a dict of (low, high) with the same three keys, exact
        (:func:`clopper_pearson`); ``tags``, a dict from each tag to such a Bunch,
        empty without `tags`.

    Raises
    ------
    ValueError
        If a shape is not possible or a score is NaN.

    References
    ----------
    Thrush et al. (2022), "Winoground: Probing vision and language models for
    visio-linguistic compositionality", CVPR.

    Examples
    --------
    >>> from diffusion_sklearn.metrics import winoground_scores
    >>> example = [[2, 1], [3, 4]]  # image 1 scores higher for both captions
    >>> scores = winoground_scores([example])
    >>> scores.text, scores.image, scores.group
    (1.0, 0.0, 0.0)
    """
    scores = np.asarray(score_matrix, np.float64)
    if scores.ndim != 3 or scores.shape[1:] != (2, 2) or len(scores) == 0:
        raise ValueError(
            f"score_matrix has shape {scores.shape}; pass (n, 2, 2): the score of each "
            "of 2 images (rows) with each of 2 captions (columns), for n examples."
        )
    if np.isnan(scores).any():
        example = int(np.isnan(scores).any(axis=(1, 2)).argmax())
        raise ValueError(f"score_matrix has NaN, first in example {example}.")
    true = scores[:, [0, 1], [0, 1]]  # (n, 2), s(C_i, I_i)
    other_caption = scores[:, [0, 1], [1, 0]]  # (n, 2), on the same image
    other_image = scores[:, [1, 0], [0, 1]]  # (n, 2), for the same caption
    text = (true > other_caption).all(axis=1)
    image = (true > other_image).all(axis=1)
    correct = {"text": text, "image": image, "group": text & image}
    by_tag = {}
    if tags is not None:
        from diffusion_sklearn.classifiers._labels import is_missing  # with torch

        tags = np.asarray(tags)
        if tags.shape != (len(scores),):
            raise ValueError(
                f"tags has shape {tags.shape}; pass one for each of the {len(scores)} "
                "examples of score_matrix."
            )
        missing = [k for k, tag in enumerate(tags.tolist()) if is_missing(tag)]
        if missing:
            raise ValueError(
                f"tags has None or NaN, first for example {missing[0]}; pass a tag for "
                "each example, such as 'none'."
            )
        for tag in np.unique(tags).tolist():
            part = {name: values[tags == tag] for name, values in correct.items()}
            by_tag[tag] = Bunch(**proportions(part, confidence), tags={})
    return Bunch(**proportions(correct, confidence), tags=by_tag)


def proportions(correct, confidence):
    """Proportions of several boolean arrays of one length, with exact intervals.

    Parameters
    ----------
    correct : dict of str to ndarray of shape (n,), bool
    confidence : float
        Coverage of the intervals, in (0, 1).

    Returns
    -------
    result : dict
        ``n`` int; the proportion by name; ``intervals``, a dict of (low, high) by name.
    """
    n = len(next(iter(correct.values())))
    intervals = {
        name: clopper_pearson(int(values.sum()), n, confidence)
        for name, values in correct.items()
    }
    means = {name: float(values.mean()) for name, values in correct.items()}
    return {"n": n, **means, "intervals": intervals}
