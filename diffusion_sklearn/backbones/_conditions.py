"""Named tensors that a network is conditioned on, with a row for each name."""

import numpy as np
import torch


class Conditions:
    """Several tensors that a network is conditioned on, such as tokens and their mask.

    What :meth:`~diffusion_sklearn.Backbone.condition` returns where one Tensor is not
    enough. As with a Tensor, ``len(conditions)`` is the number of rows and
    ``conditions[rows]`` selects some of them.

    Parameters
    ----------
    **tensors : Tensor of shape (n, ...)
        By the names of the attributes. Those of a floating-point dtype are embeddings,
        which are cast to the network's dtype. Those of another dtype, such as masks,
        are left as they are.

    Examples
    --------
    >>> import torch
    >>> from diffusion_sklearn.backbones import Conditions
    >>> conditions = Conditions(tokens=torch.zeros(2, 5, 8), mask=torch.ones(2, 5) > 0)
    >>> len(conditions), conditions[[1]].tokens.shape
    (2, torch.Size([1, 5, 8]))
    """

    def __init__(self, **tensors):
        vars(self).update(tensors)

    def __len__(self):
        return len(next(iter(vars(self).values())))

    def __getitem__(self, rows):
        return map_tensors(lambda tensor: tensor[rows], self)

    def __getstate__(self):
        return pack_tensors(vars(self))

    def __setstate__(self, state):
        vars(self).update(unpack_tensors(state))

    def to(self, device):
        """The same on another device."""
        return map_tensors(lambda tensor: tensor.to(device), self)


def to_dict(conditions):
    """The tensors by name; a Tensor has the name "".

    Parameters
    ----------
    conditions : Tensor or Conditions

    Returns
    -------
    tensors : dict of str to Tensor
    """
    return vars(conditions) if isinstance(conditions, Conditions) else {"": conditions}


def from_dict(tensors):
    """The reverse of :func:`to_dict`.

    Parameters
    ----------
    tensors : dict of str to Tensor

    Returns
    -------
    conditions : Tensor or Conditions
    """
    return tensors[""] if "" in tensors else Conditions(**tensors)


def map_tensors(function, *conditions):
    """Apply a function to each tensor.

    Parameters
    ----------
    function : callable
        Of as many tensors of one name as there are `conditions`.
    *conditions : Tensor or Conditions
        All with the same names.

    Returns
    -------
    conditions : Tensor or Conditions
        With what it returned.
    """
    first, *others = map(to_dict, conditions)
    return from_dict(
        {name: function(first[name], *(of[name] for of in others)) for name in first}
    )


def cast(conditions, device, dtype):
    """Conditions as a network takes them.

    Parameters
    ----------
    conditions : Tensor or Conditions
    device : torch.device
    dtype : torch.dtype
        Of the floating-point tensors.

    Returns
    -------
    conditions : Tensor or Conditions
    """
    return map_tensors(
        lambda x: x.to(device, dtype if x.is_floating_point() else x.dtype), conditions
    )


def concatenate(conditions):
    """All rows of several conditions.

    Parameters
    ----------
    conditions : list of Tensor or of Conditions

    Returns
    -------
    conditions : Tensor or Conditions
    """
    return map_tensors(lambda *tensors: torch.cat(tensors), *conditions)


def repeat(condition, n):
    """One row, n times, without a copy.

    Parameters
    ----------
    condition : Tensor or Conditions
        A single row.
    n : int

    Returns
    -------
    conditions : Tensor or Conditions
    """
    return map_tensors(lambda row: row.expand(n, *row.shape[1:]), condition)


def flatten(conditions):
    """All numbers of each row.

    Parameters
    ----------
    conditions : Tensor or Conditions
        At least one of its tensors has a floating-point dtype.

    Returns
    -------
    matrix : Tensor of shape (n, d)
    """
    return torch.cat([x.flatten(1) for x in to_dict(conditions).values()], dim=1)


def pack_tensors(state):
    """Arrays in place of tensors, for pickles and skops.

    joblib's workers share arrays through memory maps, and skops stores no tensors.

    Parameters
    ----------
    state : dict

    Returns
    -------
    state : dict
    """
    packed = dict(state)
    for name, value in state.items():
        if isinstance(value, torch.Tensor):
            half = value.dtype in (torch.bfloat16, torch.float16)  # NumPy lacks one
            array = (value.float() if half else value).cpu().numpy()
            packed[name] = {"tensor": array, "dtype": str(value.dtype)[6:]}  # torch.
    return packed


def unpack_tensors(state):
    """The reverse of :func:`pack_tensors`.

    Parameters
    ----------
    state : dict

    Returns
    -------
    state : dict
    """
    unpacked = dict(state)
    for name, value in state.items():
        if isinstance(value, dict) and value.keys() == {"tensor", "dtype"}:
            array = np.array(value["tensor"])  # a memory map of joblib is read-only
            unpacked[name] = torch.from_numpy(array).to(getattr(torch, value["dtype"]))
    return unpacked
