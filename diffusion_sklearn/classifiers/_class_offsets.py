"""Class offsets, fitted to unlabelled images."""

import warnings

import numpy as np
from scipy.optimize import minimize
from scipy.special import logsumexp
from sklearn.utils.validation import check_is_fitted

from diffusion_sklearn.classifiers._evaluate import all_errors, log_joint
from diffusion_sklearn.classifiers._log_prior import check_priors, fitted_priors


def fit_class_offsets(clf, X, priors=None):
    r"""Offsets that make the mean posterior of unlabelled images equal the priors.

    A model may find one class likelier than others in every image. With
    :math:`\ell_{ik}` the log posterior of the images and :math:`\pi` the priors, the
    offsets b are those for which

    .. math:: \frac1n \sum_i p_b(k | x_i) = \pi_k, \qquad
        p_b(k | x_i) \propto e^{\ell_{ik} + b_k},

    the minimum of the convex function :math:`\frac1n \sum_i \log \sum_k
    e^{\ell_{ik} + b_k} - \pi \cdot b`.

    Parameters
    ----------
    clf : ZeroShotDiffusionClassifier or ConditionalDiffusionClassifier
        Fitted. Every class gets all of its trials, whatever its `pruning`; its
        `class_offsets` and its prefilter are not used.
    X : list, array-like or Tensor of n_images
        Images, as for ``clf.predict``, of all classes in proportion to the priors;
        labels are not needed.
    priors : array-like of shape (n_classes,), dict or Series, default=None
        Proportions of the classes in `X`, aligned with ``clf.classes_``. None: the
        `priors` of `clf`, or uniform ones.

    Returns
    -------
    class_offsets : ndarray of shape (n_classes,), float64
        For the parameter `class_offsets` of an estimator that differs in nothing else.
        Their mean is 0.

    Raises
    ------
    ValueError
        If a prior is 0, of `priors` or of `clf`.

    Warns
    -----
    UserWarning
        If a class has more than twice its prior of the predictions, and over 10 images
        more than that.

    Notes
    -----
    Wrong where the classes in `X` are not in these proportions: the offsets then move
    images from classes that are frequent to classes that are rare. A few images of a
    class are not enough to tell its proportion either; take 10 or more a class.

    They pay where one class takes far more than its prior of the predictions. With the
    defaults of the bundled models, which are near it, they lower the accuracy by 2 to 3
    points (:doc:`/results/defaults`); compare on a few labelled images.

    Examples
    --------
    >>> from diffusion_sklearn import ConditionalDiffusionClassifier, fit_class_offsets
    >>> from diffusion_sklearn.datasets import load_fashion_photos
    >>> photos = load_fashion_photos()
    >>> clf = ConditionalDiffusionClassifier(model="fashion-dit", n_trials=10)
    >>> clf = clf.fit(classes=photos.target_names)
    >>> offsets = fit_class_offsets(clf, photos.images[:30])
    >>> offsets.shape
    (10,)
    >>> clf = clf.set_params(class_offsets=offsets)
    """
    check_is_fitted(clf, "classes_")
    priors = check_priors(priors, clf.classes_)
    own = fitted_priors(clf)  # part of the posterior
    uniform = np.full(clf.n_classes_, 1 / clf.n_classes_)
    given = [values for values in (priors, own, uniform) if values is not None]
    for values in given:
        if not values.all():
            absent = clf.classes_[values == 0].tolist()
            raise ValueError(
                f"priors={values.tolist()} give {absent} a prior of 0; fit the "
                "classifier on the other classes only."
            )
    priors = given[0]
    scores = log_joint(clf, all_errors(clf, X))  # (n, k)
    chosen = np.bincount(scores.argmax(axis=1), minlength=len(priors))
    n = len(scores)
    limit = np.maximum(2 * priors * n, priors * n + 10)
    if (chosen > limit).any():
        most = int((chosen - limit).argmax())
        warnings.warn(
            f"{clf.classes_[most]!r} is the prediction for {chosen[most]} of "
            f"{n} images, but its prior is {priors[most]:.3g}. If X has the "
            "classes in other proportions, pass them as priors.",
            stacklevel=2,
        )

    def objective(offsets):
        shifted = scores + offsets
        total = logsumexp(shifted, axis=1)
        mean = np.exp(shifted - total[:, None]).mean(axis=0)
        return total.mean() - priors @ offsets, mean - priors

    optimum = minimize(objective, np.zeros(len(priors)), jac=True, method="BFGS")
    return optimum.x - optimum.x.mean()
