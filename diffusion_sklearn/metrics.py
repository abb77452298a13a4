"""Scores with their uncertainty."""

from numbers import Integral

from scipy.stats import beta


def clopper_pearson(n_correct, n, confidence=0.95):
    """Exact confidence interval of an accuracy.

    Parameters
    ----------
    n_correct : int
        Number of successes.
    n : int
        Number of independent tries, at least 1.
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
    tail = (1 - confidence) / 2
    low = beta.ppf(tail, n_correct, n - n_correct + 1) if n_correct > 0 else 0.0
    high = beta.ppf(1 - tail, n_correct + 1, n - n_correct) if n_correct < n else 1.0
    return float(low), float(high)
