"""Paired comparison of classifiers on the same images."""

from dataclasses import dataclass, field
from itertools import permutations

import numpy as np
from scipy.stats import binomtest, norm
from sklearn.utils.validation import column_or_1d

from diffusion_sklearn.inspection._common import figure_and_axes


@dataclass(frozen=True)
class ClassifierComparison:
    """Result of :func:`~diffusion_sklearn.inspection.compare_classifiers`.

    Attributes
    ----------
    names : list of str
        Of the classifiers.
    accuracy : ndarray of shape (n_classifiers,), float64
        Of each.
    difference : ndarray of shape (n_classifiers, n_classifiers), float64
        Accuracy of the row's classifier minus that of the column's.
    interval : ndarray of shape (n_classifiers, n_classifiers, 2), float64
        95 % confidence interval of the difference.
    p_value : ndarray of shape (n_classifiers, n_classifiers), float64
        McNemar's exact test that both are right equally often.
    correct : ndarray of shape (n_classifiers, n_images), bool
        Which images each gets right.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.dummy import DummyClassifier
    >>> from diffusion_sklearn.inspection import ClassifierComparison
    >>> from diffusion_sklearn.inspection import compare_classifiers
    >>> X, y = np.zeros((4, 1)), [0, 0, 0, 1]
    >>> always = {k: DummyClassifier(strategy="constant", constant=k) for k in (0, 1)}
    >>> dummies = {name: clf.fit(X, y) for name, clf in always.items()}
    >>> comparison = compare_classifiers(dummies, X, y)
    >>> isinstance(comparison, ClassifierComparison), comparison.accuracy.tolist()
    (True, [0.75, 0.25])
    """

    names: list
    accuracy: np.ndarray
    difference: np.ndarray
    interval: np.ndarray
    p_value: np.ndarray
    correct: np.ndarray = field(repr=False)


def compare_classifiers(classifiers, X, y):
    r"""Compare classifiers by paired differences on the same images.

    Two classifiers differ in what one gets right and the other does not, which paired
    differences see with far fewer images than two accuracies do. Diffusion classifiers
    with the same `random_state` also share their trials, where their latents have the
    same shape.

    Parameters
    ----------
    classifiers : dict of str to classifier
        Fitted: two checkpoints, two settings, or diffusion and CLIP.
    X : list, array-like or Tensor of n_images
        Images.
    y : array-like of shape (n_images,)
        Their labels.

    Returns
    -------
    comparison : ClassifierComparison

    Raises
    ------
    ValueError
        With fewer than two classifiers, or if lengths or kinds of labels differ.

    Notes
    -----
    With b images that only the first gets right and c that only the second does, the
    test is binomial: b of b + c at 1/2 [1]_. The interval is that of Wald after half an
    image is added to each of the four counts [2]_.

    References
    ----------
    .. [1] McNemar, "Note on the sampling error of the difference between correlated
       proportions or percentages", Psychometrika 1947.
    .. [2] Agresti and Min, "Simple improved confidence intervals for comparing matched
       proportions", Statistics in Medicine 2005.

    Examples
    --------
    >>> from diffusion_sklearn import ConditionalDiffusionClassifier
    >>> from diffusion_sklearn.datasets import load_fashion_photos
    >>> from diffusion_sklearn.inspection import compare_classifiers
    >>> photos = load_fashion_photos()
    >>> one = ConditionalDiffusionClassifier(model="fashion-dit", n_trials=1)
    >>> ten = ConditionalDiffusionClassifier(model="fashion-dit", n_trials=10)
    >>> for clf in (one, ten):
    ...     clf = clf.fit(classes=photos.target_names)
    >>> comparison = compare_classifiers(
    ...     {"one trial": one, "ten": ten}, photos.images[:40], photos.names[:40]
    ... )
    >>> bool(comparison.difference[1, 0] > 0)
    True
    """
    if not hasattr(classifiers, "items") or len(classifiers) < 2:
        raise ValueError(
            f"classifiers={list(classifiers)!r} must name two or more; pass a dict of "
            "names to fitted classifiers."
        )
    y = column_or_1d(y)
    if len(y) != len(X):
        raise ValueError(f"X has {len(X)} images and y {len(y)} labels.")
    correct = np.array([_is_right(*item, X, y) for item in classifiers.items()])
    n_models, n = correct.shape
    difference = np.zeros((n_models, n_models))
    interval, p_value = np.zeros((n_models, n_models, 2)), np.ones((n_models, n_models))
    z = norm.ppf(0.975)
    for i, j in permutations(range(n_models), 2):
        first, second = correct[i], correct[j]
        b, c = int((first & ~second).sum()), int((second & ~first).sum())
        difference[i, j] = (b - c) / n
        if b + c:
            p_value[i, j] = binomtest(b, b + c).pvalue
        # Half an image more in each of the four counts.
        center = (b - c) / (n + 2)
        half = z * np.sqrt((b + c + 1) / (n + 2) - center**2) / np.sqrt(n + 2)
        interval[i, j] = center - half, center + half
    return ClassifierComparison(
        list(classifiers), correct.mean(axis=1), difference, interval, p_value, correct
    )


def _is_right(name, clf, X, y):
    predicted = np.asarray(clf.predict(X))
    if isinstance(predicted[0], str) != isinstance(y[0], str):
        raise ValueError(
            f"classifiers[{name!r}] predicts labels such as {predicted[0]!r}, and y "
            f"has {y[0]!r}; pass y with the labels of its classes_."
        )
    return predicted == y


class ClassifierComparisonDisplay:
    """Differences in accuracy from the first classifier, with 95 % intervals.

    Parameters
    ----------
    comparison : ClassifierComparison
        From :func:`~diffusion_sklearn.inspection.compare_classifiers`.

    Attributes
    ----------
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure

    Examples
    --------
    >>> import matplotlib
    >>> matplotlib.use("agg")
    >>> import numpy as np
    >>> from sklearn.dummy import DummyClassifier
    >>> from diffusion_sklearn.inspection import ClassifierComparisonDisplay
    >>> X, y = np.zeros((4, 1)), [0, 0, 0, 1]
    >>> always = {k: DummyClassifier(strategy="constant", constant=k) for k in (0, 1)}
    >>> dummies = {name: clf.fit(X, y) for name, clf in always.items()}
    >>> display = ClassifierComparisonDisplay.from_estimators(dummies, X, y)
    >>> display.comparison.difference[1, 0].item()
    -0.5
    """

    def __init__(self, comparison):
        self.comparison = comparison

    @classmethod
    def from_estimators(cls, classifiers, X, y, *, ax=None):
        """Compare fitted classifiers and plot.

        Parameters
        ----------
        classifiers, X, y
            As for :func:`~diffusion_sklearn.inspection.compare_classifiers`.
        ax : matplotlib Axes, default=None
            None: a new figure.

        Returns
        -------
        display : ClassifierComparisonDisplay
        """
        return cls(compare_classifiers(classifiers, X, y)).plot(ax=ax)

    def plot(self, ax=None):
        """Plot.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            None: a new figure.

        Returns
        -------
        self : ClassifierComparisonDisplay
        """
        self.figure_, self.ax_ = figure_and_axes(ax)
        one = self.comparison
        center, low, high = (
            100 * values[1:] for values in (one.difference[:, 0], *one.interval[:, 0].T)
        )
        rows = np.arange(len(center))
        error = np.maximum([center - low, high - center], 0)
        self.ax_.errorbar(center, rows, xerr=error, fmt="o", capsize=4)
        self.ax_.axvline(0, color="gray", linestyle=":")
        self.ax_.set(
            yticks=rows,
            yticklabels=one.names[1:],
            xlabel=f"difference in accuracy from {one.names[0]}, points",
        )
        return self
