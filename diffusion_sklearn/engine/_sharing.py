"""What is the same for many rows of a batch is computed once."""

import threading
from contextlib import contextmanager

import numpy as np
import torch

from diffusion_sklearn.backbones._devices import to_device

COLUMNS = {"image": 0, "trial": 1, "condition": 2}
"""Columns of the triples that a batch is made of."""


@contextmanager
def computed_once(parts, device):
    """Run parts of a network on distinct rows only, while in this context.

    Several rows of a batch ask different classes about the same noised latent, or the
    same class about different latents. A part that sees only what they have in common
    (the layers before the first cross-attention, say, or the keys of the prompt) is
    given one row for each distinct case, and its output is handed to all of them. It
    is the same computation, for no row twice.

    Parameters
    ----------
    parts : dict of tuple of str to list of Module
        Modules by what their output depends on, of :data:`COLUMNS`.
    device : torch.device
        Of the network.

    Yields
    ------
    begin : callable
        To be called before each forward pass with its triples, ndarray of shape
        (n, 3), int64.
    """
    thread, rows = threading.get_ident(), {}

    def begin(triples):
        rows.clear()
        for names in parts:
            key = triples[:, [COLUMNS[name] for name in names]]
            _, first, back = np.unique(
                key, axis=0, return_index=True, return_inverse=True
            )
            if 2 * len(first) <= len(triples):  # else it does not pay
                here = (to_device(i.ravel(), device) for i in (first, back))
                rows[names] = len(triples), *here

    def hooks(names):
        # Another thread may be using the same network: its rows are not ours. While it
        # adds or removes its hooks, torch may call ours without kwargs.
        def before(module, args, kwargs=None):
            if threading.get_ident() != thread or names not in rows:
                return None
            n, first, _ = rows[names]

            def take(x):
                whole = isinstance(x, torch.Tensor) and x.ndim and len(x) == n
                return x[first] if whole else x

            args, kwargs = tuple(map(take, args)), kwargs or {}
            return args, {name: take(x) for name, x in kwargs.items()}

        def after(module, args, output):
            if threading.get_ident() != thread or names not in rows:
                return None
            return output[rows[names][2]]

        return before, after

    handles = []
    try:
        for names, modules in parts.items():
            before, after = hooks(names)
            for module in modules:
                handles += [
                    module.register_forward_pre_hook(before, with_kwargs=True),
                    module.register_forward_hook(after),
                ]
        yield begin
    finally:
        for handle in handles:
            handle.remove()
