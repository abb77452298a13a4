"""The command ``info``."""

from math import inf

from diffusion_sklearn._versions import devices, show_versions, versions
from diffusion_sklearn.backbones._families import BUNDLED
from diffusion_sklearn.cli._clear_memory import open_memory
from diffusion_sklearn.cli._output import print_json


def run_info(args):
    """Print versions, devices, bundled models and the contents of a memory folder.

    Parameters
    ----------
    args : SimpleNamespace
        The parsed arguments.
    """
    memory = None if args.memory is None else open_memory(args.memory).info()
    if args.json:
        if memory and memory["max_bytes"] == inf:  # which JSON lacks
            memory["max_bytes"] = None
        info = {"versions": versions(), "devices": devices(), "models": BUNDLED}
        print_json(info | {"memory": memory})
        return
    show_versions()
    for name, kind in BUNDLED.items():
        print(f"{'bundled model':<18} {name} ({kind})")
    for name, value in (memory or {}).items():
        print(f"{'memory ' + name:<21} {value}")
