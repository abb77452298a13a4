"""The Monte Carlo estimate: latents -> trials -> errors -> pruning -> posterior."""

from diffusion_sklearn.engine._cache import ErrorStore
from diffusion_sklearn.engine._covariance import TrialCovariance
from diffusion_sklearn.engine._errors import DenoisingErrors

__all__ = ["DenoisingErrors", "ErrorStore", "TrialCovariance"]
