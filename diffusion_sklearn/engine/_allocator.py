"""The C library's allocator, while the network runs on a CPU."""

import ctypes
from contextlib import contextmanager
from functools import lru_cache
from threading import Lock

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of malloc.h
MIB = 2**20

_lock, _users = Lock(), []


@contextmanager
def kept_memory(device):
    """Let glibc reuse freed memory from one forward pass to the next.

    By default it returns large blocks to the system at once, and every activation
    costs a page fault for each 4 KiB: predictions of fashion-dit take 1.2 to 1.3 times
    as long. At the end the memory is returned, and the thresholds are those that glibc
    itself arrives at once a block of 32 MiB has been freed. Does nothing with another
    C library, or where the model is not on a CPU.

    Parameters
    ----------
    device : torch.device
        Where the model runs.
    """
    libc = _glibc() if device.type == "cpu" else None
    if libc is None:
        yield
        return
    with _lock:
        _users.append(libc)
        if not libc.mallopt(M_MMAP_THRESHOLD, 1024 * MIB):
            libc.mallopt(M_MMAP_THRESHOLD, 32 * MIB)  # the most of older versions
        libc.mallopt(M_TRIM_THRESHOLD, 1024 * MIB)
    try:
        yield
    finally:
        with _lock:
            _users.pop()
            if not _users:  # in no other thread
                libc.mallopt(M_MMAP_THRESHOLD, 32 * MIB)
                libc.mallopt(M_TRIM_THRESHOLD, 64 * MIB)
                libc.malloc_trim(0)


@lru_cache
def _glibc():
    try:
        libc = ctypes.CDLL(None)
        libc.gnu_get_libc_version.restype = ctypes.c_char_p
        return libc if libc.gnu_get_libc_version() else None
    except (OSError, AttributeError, TypeError):  # not glibc
        return None
