"""Faster float32 kernels of a CPU: the same numbers up to rounding."""

import timeit
from contextlib import nullcontext
from functools import lru_cache

import torch
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode


def fast_kernels(backbone):
    """The context in which the network runs.

    Parameters
    ----------
    backbone : Backbone
        The model.

    Returns
    -------
    context : context manager
        :class:`FastKernels` on a CPU; nothing on a GPU or around a compiled network,
        which has kernels of its own.
    """
    if backbone.device.type != "cpu" or backbone.is_compiled:
        return nullcontext()
    return FastKernels()


class FastKernels(TorchFunctionMode):
    """Within this context, two operations are computed in a faster way.

    PyTorch multiplies float32 matrices with MKL, which holds back on processors other
    than Intel's; oneDNN, which comes with PyTorch too, does not. And the tanh in the
    approximate GELU is slow: it is written as a sigmoid, which is not. Results agree up
    to float32 rounding. Whatever else runs within is left as it is.
    """

    def __torch_function__(self, func, types, args=(), kwargs=None):
        """Take the place of the two operations where it pays."""
        kwargs = kwargs or {}
        x = args[0] if args else None
        if (
            func is F.linear
            and _is_float32(x)
            and len(args) == 3
            and type(args[1]) in (torch.Tensor, torch.nn.Parameter)  # not quantized
            and onednn_is_faster()
        ):
            return torch.ops.mkldnn._linear_pointwise(*args, "none", [], "")
        if func is F.gelu and _is_float32(x) and kwargs.get("approximate") == "tanh":
            return tanh_gelu(x)
        return func(*args, **kwargs)


def _is_float32(x):
    return (
        isinstance(x, torch.Tensor)
        and x.dtype == torch.float32
        and x.device.type == "cpu"
    )


def tanh_gelu(x):
    """``gelu(x, approximate="tanh")``, by (1 + tanh(u)) / 2 = sigmoid(2 u).

    Parameters
    ----------
    x : Tensor, float32

    Returns
    -------
    y : Tensor, float32
    """
    scale = (8 / torch.pi) ** 0.5
    gate = (x * x).mul_(0.044715 * scale).add_(scale).mul_(x).sigmoid_()
    return gate.mul_(x)


@lru_cache
def onednn_is_faster():
    """Whether oneDNN multiplies float32 matrices faster than PyTorch does by itself.

    Measured once a process, in a few milliseconds. False where this build of PyTorch
    has no oneDNN.

    Returns
    -------
    faster : bool
    """
    x, weight, bias = torch.ones(1024, 192), torch.ones(768, 192), torch.ones(768)
    try:
        onednn = torch.ops.mkldnn._linear_pointwise
        onednn(x, weight, bias, "none", [], "")
    except (AttributeError, RuntimeError):  # no such operation here
        return False

    def seconds(multiply):
        return min(timeit.repeat(multiply, repeat=5, number=1))

    fused = seconds(lambda: onednn(x, weight, bias, "none", [], ""))
    return 1.2 * fused < seconds(lambda: F.linear(x, weight, bias))
