"""Weight of the prefilter in a product of experts, fitted to a few labels."""

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax
from sklearn.model_selection import KFold
from sklearn.utils.validation import check_is_fitted

from diffusion_sklearn.classifiers._evaluate import all_errors, log_joint
from diffusion_sklearn.classifiers._log_prior import check_truth, fitted_offsets
from diffusion_sklearn.classifiers._prefilter import prefilter_log_proba

WEIGHTS = (0.0, 0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)


def fit_prefilter_weight(clf, X, y, *, cv=5):
    r"""Weight of the prefilter that a few labelled images choose.

    The product of experts has the scores

    .. math:: s_{ik}(w) = \log p_\text{diffusion}(x_i | k) + w \log
        p_\text{prefilter}(k | x_i).

    Of the weights 0, 1/8, 1/4, ..., 64 it is the smallest whose posterior
    :math:`\propto e^{a s(w)}` gives held-out labels a log-likelihood within one
    standard error, of the paired difference, of the highest [1]_: few labels often
    favour an expert by chance. The scale a is fitted on the other folds, so that how
    sure the posterior is does not affect the choice.

    Parameters
    ----------
    clf : ZeroShotDiffusionClassifier or ConditionalDiffusionClassifier
        Fitted, with a prefilter. All classes are evaluated, with all trials, whatever
        its `n_candidates`, `prefilter_weight` and `pruning`.
    X : list, array-like or Tensor of n_images
        Images, as for ``clf.predict``, like those to come, which the prefilter was not
        trained on.
    y : array-like of shape (n_images,)
        Their labels, of ``clf.classes_``.
    cv : int, default=5
        Number of folds.

    Returns
    -------
    prefilter_weight : float
        For the parameter of that name of an estimator that differs in nothing else.

    Raises
    ------
    ValueError
        If `clf` has no prefilter, a label is none of its classes or of prior 0, the
        numbers of images and labels differ, or there are fewer images than folds.

    References
    ----------
    .. [1] Hastie, Tibshirani and Friedman, "The Elements of Statistical Learning",
       2nd edition, Springer 2009, section 7.10: the one-standard-error rule.

    Examples
    --------
    >>> from diffusion_sklearn import CLIPZeroShotClassifier, fit_prefilter_weight
    >>> from diffusion_sklearn import ZeroShotDiffusionClassifier
    >>> from diffusion_sklearn.datasets import make_fashion_scenes
    >>> scenes = make_fashion_scenes(10, split="test", n_items=1, random_state=0)
    >>> items = [scene.items[0] for scene in scenes.scenes]
    >>> clf = ZeroShotDiffusionClassifier(
    ...     model="fashion-scenes",
    ...     n_trials=10,
    ...     prefilter=CLIPZeroShotClassifier(model="fashion-clip"),
    ... ).fit(classes=sorted({"bag", "sandal", "trouser", *items}))
    >>> weight = fit_prefilter_weight(clf, scenes.images, items)
    >>> clf = clf.set_params(prefilter_weight=weight)
    """
    check_is_fitted(clf, "classes_")
    if clf.prefilter_ is None or isinstance(clf.prefilter_, str):
        raise ValueError(
            f"clf has prefilter={clf.prefilter!r}, which is no expert of its own; set "
            "a classifier, and fit again."
        )
    truth = check_truth(clf, X, y)
    if not 2 <= cv <= len(y):
        raise ValueError(f"cv={cv!r} must be from 2 to the {len(y)} labels.")
    log_proba = prefilter_log_proba(clf.prefilter_, X, clf.classes_)
    return weight_of_errors(clf, all_errors(clf, X), truth, log_proba, cv)


def weight_of_errors(clf, errors, truth, log_proba, cv=5):
    """The weight of a prefilter, from errors and its log-probabilities.

    Parameters
    ----------
    clf : estimator
        A fitted diffusion classifier.
    errors : ndarray of shape (n_images, n_classes, n_trials)
        Of all classes and trials.
    truth : ndarray of shape (n_images,), int64
        Index of the true class.
    log_proba : ndarray of shape (n_images, n_classes)
        The prefilter's.
    cv : int
        As in :func:`fit_prefilter_weight`.

    Returns
    -------
    weight : float
    """
    scores = log_joint(clf, errors) + fitted_offsets(clf)  # (n, k)
    log_proba = np.maximum(log_proba, np.log(np.finfo(float).tiny))

    def nats(log_scale, weight, rows):
        total = np.exp(log_scale) * (scores[rows] + weight * log_proba[rows])
        return -log_softmax(total, axis=1)[np.arange(len(rows)), truth[rows]]

    def mean_nats(*args):
        return nats(*args).mean()

    held_out = np.empty((len(WEIGHTS), len(truth)))
    for train, test in KFold(cv, shuffle=True, random_state=0).split(truth):
        for weight, values in zip(WEIGHTS, held_out, strict=True):
            fitted = minimize_scalar(
                mean_nats, bounds=(-10, 10), args=(weight, train), method="bounded"
            )
            values[test] = nats(fitted.x, weight, test)
    excess = held_out - held_out[held_out.mean(axis=1).argmin()]
    standard_error = excess.std(axis=1) / np.sqrt(len(truth))
    return WEIGHTS[(excess.mean(axis=1) <= standard_error).argmax()]
