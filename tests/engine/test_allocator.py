"""Freed memory is kept for the next forward pass, and then given back."""

import pytest
import torch

from diffusion_sklearn.engine import _allocator
from diffusion_sklearn.engine._allocator import kept_memory


def test_memory_is_kept_within_and_limits_are_set_back(monkeypatch):
    calls = []

    class Libc:
        def mallopt(self, name, value):
            calls.append((name, value // 2**20))
            return 1

        def malloc_trim(self, pad):
            calls.append("trim")

    monkeypatch.setattr(_allocator, "_glibc", Libc)
    with pytest.raises(KeyError), kept_memory(torch.device("cpu")):
        assert calls == [(-3, 1024), (-1, 1024)]
        raise KeyError
    assert calls[2:] == [(-3, 32), (-1, 64), "trim"]
    del calls[:]
    with kept_memory(torch.device("cpu")):
        with kept_memory(torch.device("cpu")):  # of another thread
            pass
        assert "trim" not in calls
    assert calls[-1] == "trim"
    calls.clear()
    with kept_memory(torch.device("meta")):
        assert not calls
