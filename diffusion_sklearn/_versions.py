"""Versions, devices and optional packages."""

import platform
import sys
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version

PACKAGES = (
    "diffusion_sklearn numpy scipy scikit-learn torch diffusers transformers "
    "huggingface_hub pillow joblib"
).split()


def versions():
    """Versions of Python and of the packages that results depend on.

    Returns
    -------
    versions : dict of str to str
    """
    result = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            result[name] = version(name)
        except PackageNotFoundError:
            result[name] = "not installed"
    return result


def import_optional(name, extra, alternative=""):
    """Import a package that only an extra of this one installs.

    Parameters
    ----------
    name : str
        The module.
    extra : str
        The extra in ``pyproject.toml``.
    alternative : str, default=""
        The end of the error message, what to do without it.

    Returns
    -------
    module : module

    Raises
    ------
    ImportError
        If it can't be imported; the message says how to install it.
    """
    try:
        return import_module(name)
    except ImportError as error:
        raise ImportError(
            f"{name} can't be imported ({error}): "
            f'pip install "diffusion-sklearn[{extra}]"{alternative}'
        ) from error


def devices():
    """Devices that a model can run on.

    Returns
    -------
    devices : list of str
        The last one is the choice of ``device="auto"``.
    """
    import torch

    cpu, n_threads = platform.processor() or platform.machine(), torch.get_num_threads()
    names = [f"cpu ({cpu}, {n_threads} threads)"]
    if torch.backends.mps.is_available():
        names.append("mps")
    for index in reversed(range(torch.cuda.device_count())):
        gpu = torch.cuda.get_device_properties(index)
        names.append(f"cuda:{index} ({gpu.name}, {gpu.total_memory / 2**30:.0f} GiB)")
    return names


def show_versions():
    """Print the versions and devices that a bug report should include.

    Examples
    --------
    >>> from diffusion_sklearn import show_versions
    >>> show_versions()  # doctest: +ELLIPSIS
    python             ...
    """
    rows = list(versions().items())
    rows += [("system", platform.platform()), ("executable", sys.executable)]
    rows += [("device", device) for device in devices()]
    for name, value in rows:
        print(f"{name:<18} {value}")
