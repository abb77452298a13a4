"""Accuracy on shifted data against accuracy in distribution, on logit axes."""

from dataclasses import KW_ONLY, dataclass

import numpy as np
from scipy.special import expit, logit
from sklearn.metrics import accuracy_score

from diffusion_sklearn.inspection._common import figure_and_axes
from diffusion_sklearn.metrics import clopper_pearson, effective_robustness


@dataclass(eq=False, repr=False)
class EffectiveRobustnessDisplay:
    """Accuracy on shifted data against accuracy in distribution, on logit axes.

    Models trained alike tend to lie on a line. The distance of a model above the line
    is its effective robustness, given in the legend in points of accuracy (Figure 6 of
    [1]_).

    Parameters
    ----------
    accuracy : array-like of shape (n_models,)
        Accuracy in distribution, in (0, 1).
    shifted_accuracy : array-like of shape (n_models,)
        Accuracy on the shifted data, in [0, 1].
    baseline_accuracy, baseline_shifted : array-like of shape (n_baselines,)
        Both accuracies of the baselines, in (0, 1).
    names : sequence of str, default=None
        Name of each model; None: "model 0", "model 1", ...
    knot : float, "best" or None, default="best"
        Knot of the line of the baselines, as in
        :func:`~diffusion_sklearn.metrics.effective_robustness`.
    n_images : int, default=None
        Number of images in distribution, for intervals; None: no intervals.
    n_shifted : int, default=None
        Number of shifted images, for intervals.

    Attributes
    ----------
    effective_robustness_ : ndarray of shape (n_models,)
        Accuracy on shifted data above the line.
    points_ : list of matplotlib ErrorbarContainer
        A point for each model, with its intervals.
    baselines_ : matplotlib ErrorbarContainer
        The baselines.
    line_ : matplotlib Line2D
        Fit of the baselines.
    ax_ : matplotlib Axes
        Axes of the points.
    figure_ : matplotlib Figure
        Figure of the axes.

    See Also
    --------
    diffusion_sklearn.metrics.effective_robustness : The fit and its residuals.

    References
    ----------
    .. [1] Li, Prabhudesai, Duggal, Brown and Pathak, "Your Diffusion Model is Secretly
       a Zero-Shot Classifier", ICCV 2023.

    Examples
    --------
    >>> from diffusion_sklearn.inspection import EffectiveRobustnessDisplay
    >>> display = EffectiveRobustnessDisplay(
    ...     [0.8],
    ...     [0.7],
    ...     baseline_accuracy=[0.6, 0.7, 0.8, 0.9],
    ...     baseline_shifted=[0.4, 0.5, 0.6, 0.8],
    ...     names=["diffusion"],
    ...     knot=None,
    ... ).plot()
    >>> display.effective_robustness_.round(2)
    array([0.07])
    """

    accuracy: object
    shifted_accuracy: object
    baseline_accuracy: object
    baseline_shifted: object
    _: KW_ONLY
    names: object = None
    knot: str = "best"
    n_images: object = None
    n_shifted: object = None

    @classmethod
    def from_predictions(
        cls,
        y_true,
        y_pred,
        y_true_shifted,
        y_pred_shifted,
        *,
        baselines,
        knot="best",
        confidence=0.995,
        ax=None,
    ):
        """Compute accuracies from predictions and draw them, with intervals.

        Parameters
        ----------
        y_true : array-like of shape (n_images,)
            Labels in distribution.
        y_pred : dict of str to array-like of shape (n_images,)
            Predictions of each model and each baseline, by name.
        y_true_shifted : array-like of shape (n_shifted,)
            Labels of the shifted data.
        y_pred_shifted : dict of str to array-like of shape (n_shifted,)
            Predictions of the same models.
        baselines : sequence of str
            Names of the baselines.
        knot : float, "best" or None, default="best"
            Knot of the line.
        confidence, ax
            As for :meth:`plot`.

        Returns
        -------
        display : EffectiveRobustnessDisplay
            Drawn.

        Raises
        ------
        ValueError
            If the names or the lengths do not fit.
        """
        if set(y_pred) != set(y_pred_shifted):
            raise ValueError(
                f"y_pred has predictions of {list(y_pred)} and y_pred_shifted of "
                f"{list(y_pred_shifted)}; pass both for each."
            )
        baselines = list(baselines)
        unknown = [name for name in baselines if name not in y_pred]
        if unknown:
            raise ValueError(
                f"baselines has {unknown}, none of those in y_pred: {list(y_pred)}."
            )
        names = [name for name in y_pred if name not in baselines]

        def accuracies(names):
            pairs = [(y_true, y_pred), (y_true_shifted, y_pred_shifted)]
            return np.array(
                [[accuracy_score(y, by_name[n]) for n in names] for y, by_name in pairs]
            )

        display = cls(
            *accuracies(names),
            *accuracies(baselines),
            names=names,
            knot=knot,
            n_images=len(y_true),
            n_shifted=len(y_true_shifted),
        )
        return display.plot(ax, confidence=confidence)

    def plot(self, ax=None, *, confidence=0.995):
        """Draw the models, the baselines and their line.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            None: a new figure.
        confidence : float, default=0.995
            Coverage of the Clopper-Pearson intervals, that of the paper's figure.

        Returns
        -------
        self : EffectiveRobustnessDisplay
            Itself.

        Raises
        ------
        ValueError
            If an accuracy or `knot` is invalid, or there are too few baselines.
        """
        values = (self.accuracy, self.shifted_accuracy)
        baseline_values = (self.baseline_accuracy, self.baseline_shifted)
        result = effective_robustness(*values, *baseline_values, knot=self.knot)
        models = np.array(values, np.float64)  # (2, n_models)
        baselines = np.array(baseline_values, np.float64)  # (2, n_baselines)
        self.effective_robustness_ = result.robustness
        names = self.names
        if names is None:
            names = [f"model {k}" for k in range(models.shape[1])]

        def draw(points, **style):
            x, y = points
            return self.ax_.errorbar(
                x,
                y,
                xerr=_interval(x, self.n_images, confidence),
                yerr=_interval(y, self.n_shifted, confidence),
                linestyle="none",
                elinewidth=0.8,
                **style,
            )

        self.figure_, self.ax_ = figure_and_axes(ax)
        for set_scale in (self.ax_.set_xscale, self.ax_.set_yscale):
            set_scale("logit", nonpositive="clip")
        self.baselines_ = draw(baselines, fmt="o", label="baselines")
        all_x, all_y = np.concatenate([models, baselines], axis=1)
        x = np.union1d(result.line[:, 0], all_x)
        y = result.predict(x)
        self.line_ = self.ax_.plot(x, y, color="C3", label="fit of the baselines")[0]
        self.points_ = []
        for k, name in enumerate(names):
            style = {
                "fmt": "*",
                "markersize": 12,
                "color": f"C{k + 1 + (k > 1)}",  # C0: the baselines, C3: the line
                "label": f"{name} ({100 * result.robustness[k]:+.1f} points)",
            }
            self.points_.append(draw(models[:, k : k + 1], **style))
        _percents(self.ax_.xaxis, self.ax_.set_xlim, all_x)
        _percents(self.ax_.yaxis, self.ax_.set_ylim, np.concatenate([all_y, y]))
        self.ax_.set(xlabel="accuracy in distribution", ylabel="accuracy under shift")
        self.ax_.legend()
        return self


def _interval(accuracy, n, confidence):
    """Extent of the interval below and above each accuracy, (2, n_points)."""
    if n is None:
        return None
    bounds = [clopper_pearson(round(a * n), n, confidence) for a in accuracy.tolist()]
    low, high = np.transpose(bounds)
    return np.stack([accuracy - low, high - accuracy]).clip(0)


def _percents(axis, set_limits, values):
    """Limits with a margin around the values on a logit axis, ticks in percent."""
    from matplotlib.ticker import MaxNLocator, NullLocator, PercentFormatter

    odds = logit(np.clip(values, 1e-3, 1 - 1e-3))
    set_limits(*expit([odds.min() - 0.5, odds.max() + 0.5]))
    axis.set_major_locator(MaxNLocator(5))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(PercentFormatter(1))
