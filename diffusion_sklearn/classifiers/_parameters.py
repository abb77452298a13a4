"""What the parameters of both estimators may be, for scikit-learn to check."""

from numbers import Integral, Real
from pathlib import Path

from sklearn.utils._param_validation import HasMethods, Interval, StrOptions

from diffusion_sklearn.backbones._noise_schedule import PREDICTION_TYPES
from diffusion_sklearn.engine._covariance import TrialCovariance
from diffusion_sklearn.engine._losses import LOSSES, VARIATIONAL
from diffusion_sklearn.engine._store import ErrorStore
from diffusion_sklearn.engine._trials import TIMESTEP_PLANS
from diffusion_sklearn.engine._weights import WEIGHTINGS

AT_LEAST_1 = Interval(Integral, 1, None, closed="left")
PARAMETER_CONSTRAINTS = {
    "model": "no_validation",
    "classes": ["array-like", None],
    "class_names": ["array-like", None],
    "n_trials": [AT_LEAST_1],
    "pruning": "no_validation",
    "trial_covariance": [str, Path, TrialCovariance, None],
    "loss": [StrOptions({*LOSSES, *VARIATIONAL})],
    "target": [StrOptions({"auto", "native", *PREDICTION_TYPES})],
    "timesteps": [StrOptions(set(TIMESTEP_PLANS)), "array-like"],
    "timestep_weights": [StrOptions(set(WEIGHTINGS)), callable, "array-like", None],
    "guidance_scale": [Interval(Real, None, None, closed="neither")],
    "null_condition": [str, Integral, None],
    "prefilter": [HasMethods(["fit"]), StrOptions({"gradient"}), None],
    "n_candidates": [AT_LEAST_1],
    "prefilter_weight": [Interval(Real, 0, None, closed="left")],
    "priors": ["array-like", None],
    "class_offsets": ["array-like", None],
    "temperature": [Interval(Real, 0, None, closed="neither")],
    "image_size": [AT_LEAST_1, None],
    "image_shape": ["array-like", None],
    "batch_size": [AT_LEAST_1, StrOptions({"auto"})],
    "device": "no_validation",
    "dtype": "no_validation",
    "random_state": ["random_state"],
    "memory": [str, Path, ErrorStore, None],
    "n_jobs": [Integral, None],
    "verbose": ["verbose"],
}
