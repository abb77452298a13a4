"""Accuracy against the number of trials, for several choices of timesteps."""

from dataclasses import KW_ONLY, dataclass

import numpy as np
from sklearn.base import clone
from sklearn.utils import check_random_state

from diffusion_sklearn.classifiers._evaluate import all_errors
from diffusion_sklearn.classifiers._labels import check_known
from diffusion_sklearn.engine._trials import check_timesteps, make_trials
from diffusion_sklearn.engine._weights import trial_weights
from diffusion_sklearn.inspection._common import (
    check_classifier,
    count_correct,
    figure_and_axes,
)


@dataclass(eq=False, repr=False)
class TrialScalingDisplay:
    """Accuracy against the number of trials, for several choices of timesteps.

    Accuracy increases with the number of trials, most if the timesteps are spread: a
    few timesteps, repeated, estimate a biased bound (Figure 4 of [1]_).

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
        Axes of the lines.
    figure_ : matplotlib Figure
        Figure of the axes.

    See Also
    --------
    TimestepAccuracyDisplay : Accuracy of each timestep.

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

    n_trials: object
    accuracy: object
    _: KW_ONLY
    strategies: object

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

        The trials of "random", "anytime" and a list are nested: the errors of the
        largest number of trials contain those of the others. Those of "even" are not:
        each number of trials is scored separately.

        Parameters
        ----------
        clf : ZeroShotDiffusionClassifier or ConditionalDiffusionClassifier
            Fitted, or not: then a clone is fitted on `y`. Its `timesteps`, `n_trials`,
            pruning and prefilter are not used.
        X : list, array-like or Tensor of n_images
            Images, as for ``clf.predict``.
        y : array-like of shape (n_images,)
            Labels.
        strategies : sequence or dict of str to strategy
            Values of the parameter `timesteps`: "even", "random", "anytime" or a list
            of int. The keys of a dict name them.
        n_trials : sequence of int, default=None
            Numbers of trials; None: 1, 2, 4, ... and `n_trials` of `clf`.
        ax
            As for :meth:`plot`.

        Returns
        -------
        display : TrialScalingDisplay
            Drawn.

        Raises
        ------
        ValueError
            If a number of trials or a strategy is invalid, or `y` has an unknown label.
        """
        check_classifier(clf)
        if not hasattr(clf, "classes_"):
            clf = clone(clf).set_params(prefilter=None).fit(y=y)
        y = check_known(y, clf.classes_, X)
        if not isinstance(strategies, dict):
            strategies = {_name(timesteps): timesteps for timesteps in strategies}
        if n_trials is None:
            powers = 2 ** np.arange(int(clf.n_trials).bit_length())
            n_trials = [*powers, clf.n_trials]
        budgets = np.asarray(n_trials).ravel()
        if budgets.dtype.kind not in "iu" or not budgets.size or budgets.min() < 1:
            raise ValueError(
                f"n_trials={n_trials!r} must be ints of at least 1, such as [1, 10]."
            )
        budgets = np.unique(budgets)
        accuracy = []
        for timesteps in strategies.values():
            check_timesteps(timesteps)
            # Evenly spaced timesteps are drawn separately for each number of trials.
            is_nested = not (isinstance(timesteps, str) and timesteps == "even")
            n_correct = []
            for nested in [budgets] if is_nested else budgets[:, None]:
                rng, backbone = check_random_state(clf.random_state), clf.backbone_
                trials = make_trials(timesteps, nested[-1], backbone.n_timesteps, rng)
                weights = clf.timestep_weights, trials, backbone, clf.target
                errors = all_errors(clf, X, trials) * trial_weights(*weights)
                n_correct += [count_correct(clf, errors[:, :, :n], y) for n in nested]
            accuracy.append(np.array(n_correct) / len(y))
        display = cls(budgets, np.array(accuracy), strategies=list(strategies))
        return display.plot(ax)

    def plot(self, ax=None):
        """Draw the accuracies.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            None: a new figure.

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


def _name(timesteps):
    return timesteps if isinstance(timesteps, str) else ", ".join(map(str, timesteps))
