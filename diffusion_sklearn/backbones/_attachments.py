"""What is attached to a pipeline, and what of it the estimate can't take."""

import torch

from diffusion_sklearn.backbones._devices import device_of, modules_of


def is_placed(pipeline, device=None, dtype=None):
    """Whether the modules of a pipeline are on a device and in a dtype.

    Text encoders may be on another device, where they encode and are out of the way.

    Parameters
    ----------
    pipeline : DiffusionPipeline
    device : torch.device, default=None
        None: any.
    dtype : torch.dtype, default=None
        None: any.

    Returns
    -------
    placed : bool
    """
    return all(
        dtype in (None, module.dtype)
        and (name.startswith("text_encoder") or device in (None, device_of(module)))
        for name, module in modules_of(pipeline).items()
    )


def quantized_dtypes(pipeline):
    """Dtypes in which quantized weights of a pipeline compute.

    Parameters
    ----------
    pipeline : DiffusionPipeline

    Returns
    -------
    dtypes : set of torch.dtype
        Empty if no weights are quantized.
    """
    return {
        weight.dtype
        for module in modules_of(pipeline).values()
        for weight in module.parameters()
        if hasattr(weight, "__tensor_flatten__")
    }


def check_attachments(pipeline):
    """Raise if a pipeline has something attached that makes every error wrong.

    Parameters
    ----------
    pipeline : DiffusionPipeline

    Raises
    ------
    ValueError
        If there is an IP-Adapter, or a cache between forward passes.
    """
    for name, module in modules_of(pipeline).items():
        projection = getattr(module, "encoder_hid_proj", None)
        of_text = isinstance(projection, torch.nn.Linear)  # encoder_hid_dim_type
        if projection is not None and not of_text:
            raise ValueError(
                f"The pipeline's {name} takes an image beside the prompt (IP-Adapter); "
                "call pipeline.unload_ip_adapter() first."
            )
        if getattr(module, "is_cache_enabled", False):
            cache = type(module._cache_config).__name__.removesuffix("Config")
            raise ValueError(
                f"The pipeline's {name} reuses outputs of earlier forward passes "
                f"({cache}), which belong to other images and timesteps; call "
                f"pipeline.{name}.disable_cache() first."
            )


def check_movable(pipeline, to):
    """Raise if no copy of a pipeline can be made for another device or dtype.

    Parameters
    ----------
    pipeline : DiffusionPipeline
    to : dict
        The device and the dtype that the copy is to have.

    Raises
    ------
    ValueError
        If its weights are quantized, cast or offloaded by hooks.
    """
    for name, module in modules_of(pipeline).items():
        reason = None
        if getattr(module, "hf_quantizer", None) is not None:
            reason = "is quantized"
        for part in module.modules():
            if hasattr(part, "_hf_hook") or hasattr(part, "_diffusers_hook"):
                reason = "is offloaded, or cast layer by layer"
        if reason:
            params = " and ".join(f"{key}={str(of)!r}" for key, of in to.items())
            raise ValueError(
                f"{params}: the pipeline can't be copied, since its {name} {reason}; "
                "pass device='auto' and dtype='auto', or a plain pipeline."
            )
