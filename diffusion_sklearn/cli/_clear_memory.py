"""The command ``clear-memory``."""

from diffusion_sklearn import ErrorStore
from diffusion_sklearn.cli._output import print_json
from diffusion_sklearn.engine._store import FILE


def run_clear_memory(args):
    """Delete the errors in a memory folder.

    Parameters
    ----------
    args : SimpleNamespace
        The parsed arguments.
    """
    store = open_memory(args.memory)
    n_evaluations = store.info()["n_evaluations"]
    store.clear()
    if args.json:
        print_json({"n_evaluations": n_evaluations})
    else:
        print(f"{n_evaluations} evaluations forgotten")


def open_memory(folder):
    """Open an existing memory folder.

    Parameters
    ----------
    folder : Path

    Returns
    -------
    store : ErrorStore

    Raises
    ------
    ValueError
        If it holds no kept errors.
    """
    if not (folder / FILE).is_file():
        raise ValueError(f"memory {folder} has no kept errors; check the path.")
    return ErrorStore(folder)
