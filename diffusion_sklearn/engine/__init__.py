"""The Monte Carlo estimate: latents -> trials -> errors -> pruning -> posterior."""

from diffusion_sklearn.engine._covariance import TrialCovariance
from diffusion_sklearn.engine._errors import DenoisingErrors
from diffusion_sklearn.engine._store import ErrorStore

__all__ = ["DenoisingErrors", "ErrorStore", "TrialCovariance"]
