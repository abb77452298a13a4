"""The trials: (timestep, noise) pairs that all images and classes share."""

from dataclasses import dataclass

import numpy as np
from scipy.stats.qmc import Halton

TIMESTEP_PLANS = ("even", "random", "anytime")


@dataclass(frozen=True, eq=False)
class Trials:
    """The (timestep, noise) pairs shared by all images and all classes.

    Drawn once, at `fit`. The same draws for every class make the comparison a paired
    one, whose variance is far below that of the errors themselves (Li et al., ICCV
    2023, section 3.3).

    Attributes
    ----------
    timesteps : ndarray of shape (n_trials,), int64
        Timestep of each trial.
    seed : int
        Seeds the noise.
    is_nested : bool
        Whether every prefix of the timesteps is near even, as of "anytime".
    """

    timesteps: np.ndarray
    seed: int
    is_nested: bool = False

    def __len__(self):
        return len(self.timesteps)

    def order(self, stages=()):
        """Order in which trials are run, so that the first few span all noise levels.

        Parameters
        ----------
        stages : sequence of int, default=()
            Cumulative numbers of trials at which classes are dropped.

        Returns
        -------
        order : ndarray of shape (n_trials,), int64
        """
        if self.is_nested:
            return np.arange(len(self))
        by_timestep = np.argsort(self.timesteps, kind="stable")
        return by_timestep[_spread_order(len(self), stages)]

    def noise(self, shape):
        """Standard normal noise of every trial.

        Trial j's noise depends on the seed, j and `shape` alone: neither on the
        number of trials nor on the device.

        Parameters
        ----------
        shape : tuple of int
            Shape of a latent, (channels, height, width).

        Returns
        -------
        noise : ndarray of shape (n_trials, *shape), float32
        """
        noise = np.empty((len(self), *shape), np.float32)
        for j, draw in enumerate(noise):
            rng = np.random.default_rng([self.seed, j])
            rng.standard_normal(out=draw, dtype=np.float32)
        return noise


def make_trials(plan, n_trials, n_timesteps, random_state):
    """Choose the timesteps and the seed of the noise.

    Parameters
    ----------
    plan : {"even", "random", "anytime"} or sequence of int
        "even": the centres of `n_trials` equal parts of [0, T). "random": uniform.
        "anytime": a van der Corput sequence, whose every prefix is near even, so
        that smaller budgets are prefixes of larger ones. A sequence is cycled
        through.
    n_trials : int
        Number of trials.
    n_timesteps : int
        T, the number of timesteps the model was trained with.
    random_state : RandomState
        Draws the seed and the random timesteps.

    Returns
    -------
    trials : Trials

    Raises
    ------
    ValueError
        If a listed timestep is none of the model's.
    """
    seed = int(random_state.randint(2**31))
    name = plan if isinstance(plan, str) else None
    if name == "even":
        timesteps = thin(np.arange(n_timesteps), n_trials)
    elif name == "random":
        timesteps = random_state.randint(n_timesteps, size=n_trials)
    elif name == "anytime":
        timesteps = (_van_der_corput(n_trials) * n_timesteps).astype(np.int64)
    else:
        listed = np.asarray(plan)
        bad = [t for t in listed.tolist() if not 0 <= t < n_timesteps]
        if bad:
            raise ValueError(
                f"timesteps={plan!r} has {bad}, but the model was trained with "
                f"timesteps 0 to {n_timesteps - 1}; list only those."
            )
        timesteps = np.resize(listed, n_trials)
    return Trials(timesteps.astype(np.int64), seed, is_nested=name == "anytime")


def check_timesteps(plan):
    """Raise unless `plan` is one of the names or a list of int.

    Parameters
    ----------
    plan : str or array-like of int
        The parameter `timesteps` of the estimators.

    Raises
    ------
    ValueError
        With what to pass instead.
    """
    if isinstance(plan, str):
        return
    listed = np.asarray(plan)
    if listed.ndim != 1 or listed.size == 0 or listed.dtype.kind not in "iu":
        raise ValueError(
            f"timesteps={plan!r} is no list of int; pass one, such as [100, 500], or "
            f"one of {', '.join(TIMESTEP_PLANS)}."
        )


def _van_der_corput(n):
    """First n points of the base-2 van der Corput sequence, in [0, 1).

    Turned by an eighth, so that the first four are the centres of quarters.
    """
    points = Halton(1, scramble=False).random(n)[:, 0]
    return (points + 1 / 8) % 1


def _spread_order(n, stages):
    """Order of n sorted timesteps in which the first few span them.

    The trials of a stage are a strided subset of the grid, as in the paper's code;
    within a stage they follow the van der Corput sequence.
    """
    done = np.zeros(0, np.int64)
    for stage in [m for m in stages if m < n] + [n]:
        stride = n // stage
        subset = np.arange(n)[stride // 2 :: stride][:stage]
        fresh = np.setdiff1d(subset, done)
        # Strided subsets do not always nest: fill up from what is left, or trim.
        short = stage - len(done) - len(fresh)
        if short > 0:
            rest = np.setdiff1d(np.arange(n), np.concatenate([done, fresh]))
            fresh = np.sort(np.concatenate([fresh, thin(rest, short)]))
        elif short < 0:
            fresh = thin(fresh, stage - len(done))
        shuffle = np.argsort(np.argsort(_van_der_corput(len(fresh))))
        done = np.concatenate([done, fresh[shuffle]])
    return done


def thin(values, n):
    """Pick values that are evenly spread: the centres of equal parts.

    Parameters
    ----------
    values : ndarray of shape (m,)
        Sorted.
    n : int
        How many to pick.

    Returns
    -------
    picked : ndarray of shape (n,)
        With repetition where n > m.
    """
    return values[((2 * np.arange(n) + 1) * len(values)) // (2 * n)]
