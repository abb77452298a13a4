"""Device and dtype: what "auto" means, and what is not possible."""

import copy

import numpy as np
import torch


def resolve_device(device):
    """Turn a `device` parameter into a torch device that is there.

    Parameters
    ----------
    device : "auto", str or torch.device
        "auto": the first of CUDA, MPS and CPU that is available; of several GPUs
        the current one of the process, which ``CUDA_VISIBLE_DEVICES`` decides.

    Returns
    -------
    device : torch.device

    Raises
    ------
    ValueError
        If there is no such device.
    """
    if isinstance(device, str) and device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda", torch.cuda.current_device())
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        resolved = torch.device(device)
        resolved = torch.empty(1, device=resolved).device  # "cuda" is "cuda:0"
    except (RuntimeError, TypeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        reason = "no such device" if reason.startswith("Expected one of") else reason
        raise ValueError(
            f"device={device!r} can't be used here ({reason}); pass 'cpu', another "
            "torch device, or 'auto' for the best one there is."
        ) from error
    return resolved


def resolve_dtype(dtype, device):
    """Turn a `dtype` parameter into a torch floating-point dtype.

    Parameters
    ----------
    dtype : "auto", str or torch.dtype
        "auto": float32 on a CPU, bfloat16 on a GPU that has it, else float16.
    device : torch.device
        Where the model will run.

    Returns
    -------
    dtype : torch.dtype

    Raises
    ------
    ValueError
        If it is no floating-point dtype of torch.
    """
    if isinstance(dtype, str) and dtype == "auto":
        if device.type != "cuda":
            return torch.float32
        has_bfloat16 = torch.cuda.get_device_capability(device) >= (8, 0)
        return torch.bfloat16 if has_bfloat16 else torch.float16
    name = str(dtype).removeprefix("torch.")
    if name in ("float16", "bfloat16", "float32", "float64"):
        return getattr(torch, name)
    raise ValueError(
        f"dtype={dtype!r} is no floating-point type for a model; pass 'auto', "
        "'float32', 'bfloat16', 'float16' or 'float64'."
    )


def device_of(module):
    """Where a module runs; with offloading, that is not where its weights are kept.

    Parameters
    ----------
    module : Module

    Returns
    -------
    device : torch.device
    """
    from diffusers.models.modeling_utils import get_parameter_device

    is_hooked = False
    for part in module.modules():
        state = vars(part)  # getattr of a module is slow where there is no such name
        device = getattr(state.get("_hf_hook"), "execution_device", None)
        if device is not None:
            return torch.device(device)
        is_hooked = is_hooked or "_diffusers_hook" in state
    parameter = None if is_hooked else next(module.parameters(), None)
    if parameter is not None:
        return parameter.device
    return get_parameter_device(module)  # that of group offloading, if it is enabled


def modules_of(pipeline):
    """The modules of a pipeline.

    Parameters
    ----------
    pipeline : DiffusionPipeline

    Returns
    -------
    modules : dict of str to Module
        By their names in the pipeline.
    """
    parts = pipeline.components.items()
    return {name: part for name, part in parts if isinstance(part, torch.nn.Module)}


def tables(module):
    """Tables that a module computes and no checkpoint has, such as frequencies.

    Parameters
    ----------
    module : Module

    Returns
    -------
    tables : list of (str, str, Tensor)
        Submodule, name of the buffer, and the buffer, of a floating-point dtype.
    """
    return [
        (path, name, buffer)
        for path, part in module.named_modules()
        for name, buffer in part.named_buffers(recurse=False)
        if name in part._non_persistent_buffers_set
        if buffer.is_floating_point() and buffer.ndim > 0
    ]


def copy_to(pipeline, device=None, dtype=None):
    """Copy a pipeline to a device or dtype, as loading it in that dtype would.

    Loading leaves tables in float32, and the weights that a model lists as such.

    Parameters
    ----------
    pipeline : DiffusionPipeline
    device : torch.device, default=None
        None: as it is.
    dtype : torch.dtype, default=None
        None: as it is.

    Returns
    -------
    pipeline : DiffusionPipeline
    """
    pipeline, exact = copy.deepcopy(pipeline), []
    if dtype is None:
        return pipeline.to(device)
    for root in modules_of(pipeline).values():
        exact += [(root.get_submodule(p), name, x.data) for p, name, x in tables(root)]
        exact += _kept_in_float32(root, dtype)
    pipeline = pipeline.to(device, dtype)
    for part, name, before in exact:
        tensor = getattr(part, name)
        if torch.promote_types(before.dtype, dtype) != dtype:  # it would be rounded
            tensor.data = before.to(tensor.device)
    return pipeline


def _kept_in_float32(root, dtype):
    """Weights that loading in a dtype leaves in float32."""
    names = set(getattr(root, "_keep_in_fp32_modules_strict", None) or ())
    # For transformers these overflow in float16 only.
    if dtype == torch.float16 or not hasattr(root, "_keep_in_fp32_modules_strict"):
        names |= set(getattr(root, "_keep_in_fp32_modules", None) or ())
    return [
        (part, name, weight.data)
        for path, part in root.named_modules()
        for name, weight in part.named_parameters(recurse=False)
        if names.intersection([*path.split("."), name])
    ]


def to_device(array, device):
    """Copy an array to a device; to a GPU without waiting for the copy.

    Parameters
    ----------
    array : ndarray
        Of any shape.
    device : torch.device

    Returns
    -------
    tensor : Tensor
    """
    tensor = torch.from_numpy(np.ascontiguousarray(array))
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
