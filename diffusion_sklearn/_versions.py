"""Versions and devices, for bug reports and for the record."""

import platform
import sys
from importlib.metadata import PackageNotFoundError, version

import torch

PACKAGES = (
    "diffusion_sklearn",
    "numpy",
    "scipy",
    "scikit-learn",
    "torch",
    "diffusers",
    "transformers",
    "huggingface_hub",
    "pillow",
    "joblib",
)


def versions():
    """Versions of Python and of the packages that an answer depends on.

    Returns
    -------
    found : dict of str to str
    """
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def devices():
    """Where a model can run here.

    Returns
    -------
    found : list of str
        The best one last, which is what ``device="auto"`` takes.
    """
    threads = torch.get_num_threads()
    found = [f"cpu ({platform.processor() or platform.machine()}, {threads} threads)"]
    if torch.backends.mps.is_available():
        found.append("mps")
    for index in reversed(range(torch.cuda.device_count())):
        properties = torch.cuda.get_device_properties(index)
        size = properties.total_memory / 2**30
        found.append(f"cuda:{index} ({properties.name}, {size:.0f} GiB)")
    return found


def show_versions():
    """Print the versions and devices that a bug report should tell of.

    Examples
    --------
    >>> from diffusion_sklearn import show_versions
    >>> show_versions()  # doctest: +ELLIPSIS
    python             ...
    """
    for name, found in versions().items():
        print(f"{name:<18} {found}")
    print(f"{'system':<18} {platform.platform()}")
    print(f"{'executable':<18} {sys.executable}")
    for device in devices():
        print(f"{'device':<18} {device}")
