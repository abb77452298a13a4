"""The command ``info``."""

from diffusion_sklearn import show_versions
from diffusion_sklearn.backbones._loading import BUNDLED
from diffusion_sklearn.cli._clear_memory import open_memory


def run_info(args):
    """Print versions, devices, bundled models and the contents of a memory folder.

    Parameters
    ----------
    args : Namespace
        The parsed arguments.
    """
    show_versions()
    for name, kind in BUNDLED.items():
        print(f"{'bundled model':<18} {name} ({kind})")
    if args.memory is not None:
        for name, value in open_memory(args.memory).info().items():
            print(f"{'memory ' + name:<21} {value}")
