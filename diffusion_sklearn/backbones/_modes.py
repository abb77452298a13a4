"""Evaluation mode of a user's modules, for as long as they are evaluated."""

import threading
from contextlib import contextmanager
from weakref import WeakKeyDictionary

_in_use = WeakKeyDictionary()  # module -> [number of users, its modules in train mode]
_lock = threading.Lock()


@contextmanager
def evaluation_mode(*modules):
    """Switch modules to evaluation mode, and back when their last user is done.

    In train mode dropout is on, and a DiT drops labels at random. The modules may
    belong to a pipeline that the user goes on training, and several threads may
    evaluate them at once.

    Parameters
    ----------
    *modules : torch.nn.Module
        Each with all that is below it.
    """
    with _lock:
        for module in modules:
            users = _in_use.setdefault(module, [0, []])
            users[0] += 1
            training = [part for part in module.modules() if part.training]
            users[1] += training
            for part in training:
                part.training = False
    try:
        yield
    finally:
        with _lock:
            for module in modules:
                users = _in_use[module]
                users[0] -= 1
                if users[0] == 0:
                    for part in users[1]:
                        part.training = True
                    del _in_use[module]
