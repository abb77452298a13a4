"""Accuracy against the number of trials, for ways to choose their timesteps."""

from numbers import Integral

import numpy as np
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator

from diffusion_sklearn.inspection._common import (
    check_classifier,
    check_labels,
    count_correct,
    figure_and_axes,
)


class TrialScalingDisplay:
    """Accuracy against the number of trials, for ways to choose their timesteps.

    More trials help whatever their timesteps are, and help most where the timesteps
    are spread: going through the same few again and again estimates a biased bound
    (Figure 4 of [1]_).

    Parameters
    ----------
    n_trials : array-like of shape (n_budgets,), of int
        Numbers of trials.
    accuracy : array-like of shape (n_strategies, n_budgets)
        Accuracy of each strategy with each number of trials.
    strategies : sequence of str
        Name of each strategy.

    Attributes
    ----------
    lines_ : list of matplotlib Line2D
        A line for each strategy.
    ax_ : matplotlib Axes
        Where they are drawn.
    figure_ : matplotlib Figure
        The figure of the axes.

    See Also
    --------
    TimestepAccuracyDisplay : What a single timestep is worth.

    References
    ----------
    .. [1] Li, Prabhudesai, Duggal, Brown and Pathak, "Your Diffusion Model is Secretly
       a Zero-Shot Classifier", ICCV 2023.

    Examples
    --------
    >>> from diffusion_sklearn import ConditionalDiffusionClassifier
    >>> from diffusion_sklearn.datasets import load_fashion_photos
    >>> from diffusion_sklearn.inspection import TrialScalingDisplay
    >>> photos = load_fashion_photos()
    >>> clf = ConditionalDiffusionClassifier(model="fashion-dit")
    >>> display = TrialScalingDisplay.from_estimator(
    ...     clf,
    ...     photos.images[:20],
    ...     photos.names[:20],
    ...     strategies=["even", "anytime", [0, 500, 999]],
    ...     n_trials=[1, 4, 16],
    ... )
    >>> display.strategies
    ['even', 'anytime', '0, 500, 999']
    >>> display.accuracy.shape
    (3, 3)
    """

    def __init__(self, n_trials, accuracy, *, strategies):
        self.n_trials = n_trials
        self.accuracy = accuracy
        self.strategies = strategies

    @classmethod
    def from_estimator(
        cls,
        clf,
        X,
        y,
        *,
        strategies=("even", "random", "anytime"),
        n_trials=None,
        ax=None,
    ):
        """Score images with each strategy and number of trials, and draw the accuracy.

        The trials of "random", "anytime" and a list nest, so that one table of errors
        holds all numbers of trials. Those of "even" do not: they are scored anew for
        each number.

        Parameters
        ----------
        clf : ZeroShotDiffusionClassifier or ConditionalDiffusionClassifier
            Fitted or not; left as it is. Its clones are fitted, with other
            `timesteps` and `n_trials` and without pruning, on its classes, or, where
            it is not fitted, on `y`. A fitted prefilter is kept.
        X : list, array-like or Tensor of n_images
            Images, as for ``clf.predict``.
        y : array-like of shape (n_images,)
            Labels.
        strategies : sequence or dict of str to strategy
            What the parameter `timesteps` takes: "even", "random", "anytime" or a list
            of int. A dict names them.
        n_trials : sequence of int, default=None
            Numbers of trials; None: 1, 2, 4, ... and that of `clf`.
        ax
            As for :meth:`plot`.

        Returns
        -------
        display : TrialScalingDisplay
            Drawn.

        Raises
        ------
        ValueError
            If a number of trials or a strategy is not possible, or `y` has a label
            that is no class.
        """
        check_classifier(clf)
        named = strategies
        if not isinstance(strategies, dict):
            named = {_name(plan): plan for plan in strategies}
        if n_trials is None:
            n_trials = [*2 ** np.arange(20), clf.n_trials]
            n_trials = [n for n in n_trials if n <= clf.n_trials]
        budgets = _check_budgets(n_trials)
        accuracy = [_accuracies(clf, X, y, plan, budgets) for plan in named.values()]
        display = cls(budgets, np.array(accuracy), strategies=list(named))
        return display.plot(ax)

    def plot(self, ax=None):
        """Draw the accuracies.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Where to draw; None: a new figure.

        Returns
        -------
        self : TrialScalingDisplay
            Itself.
        """
        self.figure_, self.ax_ = figure_and_axes(ax)
        self.lines_ = []
        for name, row in zip(self.strategies, self.accuracy, strict=True):
            self.lines_ += self.ax_.plot(self.n_trials, row, marker=".", label=name)
        self.ax_.set(xscale="log", xlabel="trials for each class", ylabel="accuracy")
        self.ax_.set_xticks(self.n_trials, labels=self.n_trials)
        self.ax_.minorticks_off()
        self.ax_.legend(title="timesteps")
        return self


def _name(plan):
    return plan if isinstance(plan, str) else ", ".join(map(str, plan))


def _check_budgets(n_trials):
    budgets = np.asarray(n_trials).ravel().tolist()
    wrong = [n for n in budgets if not isinstance(n, Integral) or n < 1]
    if wrong or not budgets:
        raise ValueError(
            f"n_trials={n_trials!r} must be ints of at least 1, such as [1, 10, 100]."
        )
    return np.unique(budgets)


def _accuracies(clf, X, y, plan, budgets):
    """Accuracy with each number of trials, from as few evaluations as it takes."""
    if isinstance(plan, str) and plan == "even":
        parts = [[n] for n in budgets.tolist()]
    else:
        parts = [budgets.tolist()]
    found = []
    for nested in parts:
        twin = _fit(clf, y, timesteps=plan, n_trials=nested[-1], pruning=None)
        labels = check_labels(X, y, twin.classes_)
        errors = twin.denoising_errors(X).errors * twin._weights  # (n, k, m)
        found += [count_correct(twin, errors[:, :, :n], labels) for n in nested]
    return np.array(found) / len(labels)


def _fit(clf, y, **params):
    """A clone with other parameters and the same classes."""
    twin = clone(clf).set_params(**params)
    if not hasattr(clf, "classes_"):
        return twin.fit(y=y)
    if clf.prefilter_ is not None:
        twin.set_params(prefilter=FrozenEstimator(clf.prefilter_))
    return twin.fit(classes=clf.classes_)
