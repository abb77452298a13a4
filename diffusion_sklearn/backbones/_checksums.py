"""Digests of bytes; checksums of weights, computed on the device where they are."""

import functools
import hashlib

import numpy as np
import torch
from torch.nn import functional as F

CHUNK = 2**14  # words of four bytes with a checksum of their own
SMALL = 2**16  # words; smaller tensors are read together


def digest(data):
    """SHA-256 of some bytes.

    Parameters
    ----------
    data : bytes-like or ndarray
        What to name.

    Returns
    -------
    name : str
        In hexadecimal.
    """
    return hashlib.sha256(memoryview(data).cast("B")).hexdigest()


@functools.cache
def _factors(device):
    """A fixed odd integer of 64 bits for each word of a chunk."""
    factors = hashlib.shake_256(b"diffusion_sklearn").digest(8 * CHUNK)
    return torch.from_numpy(np.frombuffer(factors, "<i8") | 1).to(device)


@torch.no_grad()
def checksums(tensors):
    """Sums of word times factor, modulo 2**64, of every chunk of the tensors.

    Parameters
    ----------
    tensors : list of Tensor
        On any device, of any dtype.

    Returns
    -------
    sums : bytes
        The same for the same bytes in the same order, whatever their device.
    """
    sums, small, n_small = [], [], 0
    for words in (_words(part) for tensor in tensors for part in _plain(tensor)):
        n_words = words.numel()
        if n_words >= SMALL:
            sums.append(_sums(words))
            continue
        small.append(words.to(small[0].device) if small else words)
        n_small += n_words
        if n_small >= SMALL:
            sums.append(_sums(torch.cat(small)))
            small, n_small = [], 0
    if small:
        sums.append(_sums(torch.cat(small)))
    return torch.cat(sums).numpy().tobytes() if sums else b""


def _sums(words):
    """The sum of every chunk, and that of the rest."""
    factors = _factors(words.device)
    n_rows = 2**4 if words.device.type == "cpu" else 2**10  # 2 and 128 MiB
    rest = words[len(words) // CHUNK * CHUNK :]
    rows = words[: len(words) - len(rest)].view(-1, CHUNK)
    sums = [(part * factors).sum(1) for part in rows.split(n_rows)]
    sums.append((rest * factors[: len(rest)]).sum()[None])
    return torch.cat(sums).cpu()


def is_empty(tensor):
    """Whether a tensor, or any that a quantized one is made of, is without data.

    Parameters
    ----------
    tensor : Tensor

    Returns
    -------
    empty : bool
    """
    return any(part.is_meta for part in _plain(tensor))


def _plain(tensor):
    """The tensors that a quantized one is made of."""
    if not hasattr(tensor, "__tensor_flatten__"):
        with torch._C.DisableTorchFunctionSubclass():  # the bytes of GGUF
            return [tensor.detach().as_subclass(torch.Tensor)]
    names, _ = tensor.__tensor_flatten__()
    return [part for name in names for part in _plain(getattr(tensor, name))]


def _words(tensor):
    """The bytes of a tensor as integers of 32 bits, on a device that has integers."""
    if tensor.device.type != "cuda":
        tensor = tensor.cpu()
    data = tensor.contiguous().reshape(-1).view(torch.uint8)
    if len(data) % 4 or data.storage_offset() % 4:
        data = F.pad(data, (0, -len(data) % 4)).clone()
    return data.view(torch.int32)
