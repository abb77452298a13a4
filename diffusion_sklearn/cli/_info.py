"""The commands ``info`` and ``clear-memory``."""

from diffusion_sklearn import ErrorStore, show_versions
from diffusion_sklearn.backbones._loading import BUNDLED
from diffusion_sklearn.engine._database import FILE


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
        for name, value in _existing_store(args.memory).info().items():
            print(f"{'memory ' + name:<21} {value}")


def run_clear_memory(args):
    """Delete the errors in a memory folder.

    Parameters
    ----------
    args : Namespace
        The parsed arguments.
    """
    store = _existing_store(args.memory)
    n_evaluations = store.info()["n_evaluations"]
    store.clear()
    print(f"{n_evaluations} evaluations forgotten")


def _existing_store(folder):
    if not (folder / FILE).is_file():
        raise ValueError(f"memory {folder} has no kept errors; check the path.")
    return ErrorStore(folder)
