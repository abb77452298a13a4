"""Names of contents: the same bytes have the same name, wherever they are."""

import hashlib
from weakref import WeakKeyDictionary

import torch


def digest(data):
    """Name some bytes.

    Parameters
    ----------
    data : bytes-like or ndarray
        What to name.

    Returns
    -------
    name : str
        SHA-256, in hexadecimal.
    """
    return hashlib.sha256(memoryview(data).cast("B")).hexdigest()


_digests = WeakKeyDictionary()


def digest_weights(pipeline):
    """Name a pipeline by its weights.

    Parameters
    ----------
    pipeline : diffusers.DiffusionPipeline
        Whose modules are named.

    Returns
    -------
    name : str
        SHA-256, in hexadecimal. Kept until a weight is changed or replaced.
    """
    parts = pipeline.components.values()
    weights = [
        (name, tensor)
        for part in parts
        if isinstance(part, torch.nn.Module)
        for name, tensor in part.state_dict().items()
    ]
    # These tell in a fraction of the time whether anything has changed.
    state = [
        (name, w._version, w.data_ptr(), w.sum(dtype=torch.float32).item())
        for name, w in weights
    ]
    kept_state, name = _digests.get(pipeline, (None, None))
    if kept_state != state:
        total = hashlib.sha256()
        for key, tensor in weights:
            flat = tensor.cpu().contiguous().reshape(-1).view(torch.uint8)
            total.update(key.encode())
            total.update(flat.numpy())
        name = total.hexdigest()
        _digests[pipeline] = state, name
    return name
