"""Covariance of the errors over trials, from which a race predicts their means."""

from dataclasses import dataclass, field, fields, replace
from zipfile import BadZipFile

import numpy as np
from scipy.linalg import solve_triangular

NUGGET = 0.1
"""Variance that is added to each trial, as a fraction of its own."""

POWERS = {"l1": 1, "l2": 2}  # of the scale of a prediction, in each loss


@dataclass(frozen=True, eq=False)
class TrialCovariance:
    r"""Covariance of paired errors over trials, for the race by prediction.

    The differences between the errors of two classes are correlated over trials: a
    function of both timesteps, and noise of its own in each trial,

    .. math:: \mathrm{Cov}(d_i, d_j) \propto k(t_i, t_j) + \delta_{ij} \, n(t_i).

    It serves any number of trials, any timesteps and any noise, and best the trials
    that it was learned from. Only ratios count: a race estimates the scale from each
    image. The level of the errors tells which images are unlike those that it was
    learned from. :func:`fit_trial_covariance` learns one from unlabelled images.

    Attributes
    ----------
    timesteps : ndarray of shape (n_knots,), float64
        Where the kernel is given, rising; between them it is interpolated.
    kernel : ndarray of shape (n_knots, n_knots), float64
        k. Positive semidefinite.
    nugget : ndarray of shape (n_knots,), float64
        Variance of a trial's own noise, n. Between two knots, what the interpolated
        kernel lacks in variance is added.
    loss, target : str
        Of the errors. Errors of "l1" and "l2" serve every target, since these differ
        by a factor that depends on the timestep alone.
    n_images : int
        Number of images that it was learned from.
    model : str
        Fingerprint of the model; "" fits every model.
    level, level_spread : ndarray of shape (n_knots,), float64, or None
        Logarithm of the mean error over the classes: its mean and standard deviation
        over images. None: all images pass for usual ones.

    See Also
    --------
    fit_trial_covariance : Learns one.

    Examples
    --------
    >>> import numpy as np
    >>> from diffusion_sklearn import TrialCovariance
    >>> knots = np.array([0.0, 500.0, 1000.0])
    >>> kernel = np.exp(-np.abs(knots[:, None] - knots) / 500)
    >>> covariance = TrialCovariance(
    ...     knots, kernel, np.full(3, 0.1), loss="l2", target="epsilon", n_images=10
    ... )
    >>> C = covariance.matrix(np.array([200, 210, 800]))
    >>> bool(C[0, 1] > C[0, 2])  # near timesteps tell the same
    True
    """

    timesteps: np.ndarray = field(repr=False)
    kernel: np.ndarray = field(repr=False)
    nugget: np.ndarray = field(repr=False)
    loss: str
    target: str
    n_images: int
    model: str = field(default="", repr=False)
    level: np.ndarray | None = field(default=None, repr=False)
    level_spread: np.ndarray | None = field(default=None, repr=False)

    def matrix(self, timesteps):
        """Covariance of trials.

        Parameters
        ----------
        timesteps : ndarray of shape (n_trials,), int64
            Timestep of each trial.

        Returns
        -------
        covariance : ndarray of shape (n_trials, n_trials), float64
            Positive definite.
        """
        # Weight of each knot at each timestep, by linear interpolation.
        knots = np.eye(len(self.timesteps))
        weights = np.stack([np.interp(timesteps, self.timesteps, k) for k in knots])
        matrix = weights.T @ self.kernel @ weights
        variance = (np.diag(self.kernel) + self.nugget) @ weights
        np.fill_diagonal(matrix, variance)
        return matrix

    def levels(self, timesteps):
        """Level of the errors of trials, and its spread over images.

        Parameters
        ----------
        timesteps : ndarray of shape (n_trials,), int64
            Timestep of each trial.

        Returns
        -------
        levels : ndarray of shape (2, n_trials), float64, or None
            None if they are not known.
        """
        if self.level is None:
            return None
        values = (self.level, self.level_spread)
        return np.stack([np.interp(timesteps, self.timesteps, v) for v in values])

    def save(self, path):
        """Write to a file in NumPy's ``.npz`` format.

        Parameters
        ----------
        path : str or Path
            The file.
        """
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        with open(path, "wb") as file:  # of a path NumPy changes the ending
            np.savez(file, **{k: v for k, v in values.items() if v is not None})

    @classmethod
    def load(cls, path):
        """Read what :meth:`save` wrote.

        Parameters
        ----------
        path : str or Path
            The file.

        Returns
        -------
        covariance : TrialCovariance

        Raises
        ------
        OSError
            If there is no such file.
        ValueError
            If the file holds something else.
        """
        try:
            with open(path, "rb") as file, np.load(file) as arrays:
                names = {f.name for f in fields(cls)} & set(arrays)
                values = {name: arrays[name] for name in names}
            return cls(**{k: v if v.ndim else v.item() for k, v in values.items()})
        except (TypeError, ValueError, EOFError, BadZipFile) as error:
            raise ValueError(
                f"trial_covariance={str(path)!r} is no file of a TrialCovariance; make "
                "one by fit_trial_covariance(clf, X).save(path)."
            ) from error

    def in_space(self, loss, target, schedule):
        """The covariance of the errors of another target.

        Parameters
        ----------
        loss, target : str
            Of the errors.
        schedule : NoiseSchedule
            Of the model.

        Returns
        -------
        covariance : TrialCovariance or None
            None where it does not follow from this one.
        """
        if (loss, target) == (self.loss, self.target):
            return self
        if loss != self.loss or loss not in POWERS:
            return None
        scale = _scale(target, schedule, self.timesteps, POWERS[loss])
        scale = scale / _scale(self.target, schedule, self.timesteps, POWERS[loss])
        return replace(
            self,
            kernel=self.kernel * np.outer(scale, scale),
            nugget=self.nugget * scale**2,
            target=target,
            level=None if self.level is None else self.level + np.log(scale),
        )


def _scale(target, schedule, timesteps, power):
    """Error of a target relative to that of the velocity, at each timestep."""
    if target == "velocity":
        return np.ones(len(timesteps))
    values = schedule.alpha_t if target == "epsilon" else schedule.sigma_t
    values = values.cpu().double().numpy()
    return np.interp(timesteps, np.arange(len(values)), values) ** power


def learn_covariance(errors, weights, timesteps, **facts):
    """Learn the covariance from errors of all classes and trials.

    It is that of the differences from the class of lowest mean error, since the race is
    decided between such classes. Each class and image counts the same: the differences
    are divided by their root mean square over the trials.

    Parameters
    ----------
    errors : ndarray of shape (n_images, n_classes, n_trials)
        Of at least two classes.
    weights : ndarray of shape (n_trials,)
        Weight of each trial in the mean.
    timesteps : ndarray of shape (n_trials,), int64
        Rising; trials of the same timestep are averaged.
    **facts : dict
        The other attributes of :class:`TrialCovariance`.

    Returns
    -------
    covariance : TrialCovariance
    """
    n, n_classes, _ = errors.shape
    knots, knot = np.unique(timesteps, return_inverse=True)
    members = np.eye(len(knots))[knot]  # (m, n_knots)
    members /= members.sum(axis=0)
    if n > 1:  # else the spread is not known
        level = np.log(errors.mean(axis=1)) @ members  # (n, n_knots)
        facts |= {"level": level.mean(axis=0), "level_spread": level.std(axis=0)}
    best = (errors @ weights).argmin(axis=1)  # (n,)
    is_other = np.arange(n_classes) != best[:, None]
    differences = errors - errors[np.arange(n), best][:, None]  # (n, k, m)
    differences = differences[is_other]  # (n * (k - 1), m)
    scale = ((differences * weights) ** 2).mean(axis=1, keepdims=True)
    differences /= np.sqrt(np.maximum(scale, np.finfo(float).tiny))
    differences = differences @ members
    kernel = differences.T @ differences / len(differences)
    nugget = NUGGET * np.diag(kernel) + np.finfo(float).tiny
    return TrialCovariance(knots.astype(float), kernel, nugget, n_images=n, **facts)


class MeanPredictor:
    r"""Best linear unbiased prediction of a mean over all trials from a few.

    With C the covariance of the N trials and S those that ran, the mean m of a class's
    errors over all trials is predicted from its errors :math:`e_S` by

    .. math:: \hat m = g' e_S, \quad g = C_{SS}^{-1} C_{S\cdot} 1 / N, \quad
        v = 1' C 1 / N^2 - (C_{S\cdot} 1 / N)' g,

    where v is the variance that remains (simple kriging; Cressie, "Statistics for
    Spatial Data", 1993, section 3.2). What errors of different classes have in common
    cancels in their differences.

    Parameters
    ----------
    covariance : ndarray of shape (n_trials, n_trials)
        C.
    order : ndarray of shape (n_trials,), int64, default=None
        Order in which trials run. None: the greedy one, in which each next trial is
        the one that lowers v most.
    levels : ndarray of shape (2, n_trials), default=None
        Mean and standard deviation over images of the logarithm of the mean error over
        the classes; None if they are not known.

    Attributes
    ----------
    order : ndarray of shape (n_trials,), int64
    levels : ndarray of shape (2, n_trials) or None
    """

    def __init__(self, covariance, order=None, levels=None):
        self.levels = levels
        scale = np.sqrt(np.maximum(np.diag(covariance), 0))
        self._scale = np.where(scale > 0, scale, 1)
        self._correlation = covariance / np.outer(self._scale, self._scale)
        self._mean = covariance.mean(axis=1) / self._scale
        self._total = covariance.mean()
        self.order = self._greedy_order(covariance) if order is None else order

    def _greedy_order(self, covariance):
        n = len(covariance)
        remaining, order = covariance.copy(), []
        left = np.diag(covariance) > 0
        while left.any():
            variance = np.where(left, np.diag(remaining), 1)
            gain = np.where(left, remaining.mean(axis=1) ** 2 / variance, -1)
            best = int(gain.argmax())
            order.append(best)
            left[best] = False
            column = remaining[:, best] / remaining[best, best]
            remaining = remaining - np.outer(column, remaining[best])
        # Trials of weight 0 come last.
        return np.array(order + sorted(set(range(n)) - set(order)), np.int64)

    def after(self, n_done):
        """The prediction after the first trials of the order.

        Parameters
        ----------
        n_done : int
            Number of trials that ran.

        Returns
        -------
        coefficients : ndarray of shape (n_done,), float64
            g.
        variance : float
            v.
        whiten : ndarray of shape (n_done, n_done), float64
            Turns the errors of these trials into uncorrelated ones of variance 1.
        """
        done = self.order[:n_done]
        used = self._correlation[done, done] > 0
        correlation = self._correlation[np.ix_(done, done)]
        correlation = correlation + np.diag(1.0 - used)  # trials of weight 0
        lower = np.linalg.cholesky(correlation)
        scale = np.where(used, self._scale[done], np.inf)
        whiten = solve_triangular(lower, np.diag(1 / scale), lower=True).T
        projected = solve_triangular(lower, self._mean[done], lower=True)
        variance = max(self._total - projected @ projected, 0.0)
        return whiten @ projected, variance, whiten
