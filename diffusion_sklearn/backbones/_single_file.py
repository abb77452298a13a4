"""A model in one ``.safetensors`` file, in the layout of its authors' own code."""

from math import prod
from pathlib import Path

import torch
from safetensors import safe_open

from diffusion_sklearn.backbones._attachments import modules_of
from diffusion_sklearn.backbones._completeness import (
    TEXT_FILES,
    check_keys,
    download,
    list_files,
    read,
    read_json,
)

KINDS = (
    "v1",
    "xl_base",
    "sd3",
    "sd35_medium",
    "sd35_large",
    "flux-dev",
    "flux-schnell",
)
"""Kinds of files, as diffusers names them, whose config follows from the weights."""

NETWORK = "model.diffusion_model."


def find_config(file):
    """The Hub id of the model whose configs a file needs.

    Parameters
    ----------
    file : str
        With weights in safetensors.

    Returns
    -------
    config : str

    Raises
    ------
    OSError
        If it can't be read, or the configs do not follow from the weights.
    """
    from diffusers.loaders.single_file_utils import (
        CHECKPOINT_KEY_NAMES,
        DIFFUSERS_DEFAULT_PIPELINE_PATHS,
        infer_diffusers_model_type,
    )

    shapes = _read_shapes(file)
    tensors = {key: torch.empty(of, device="meta") for key, of in shapes.items()}
    try:
        kind = infer_diffusers_model_type(tensors)
    except (KeyError, IndexError, UnboundLocalError):  # of no kind that it knows
        kind = None
    if kind == "v1" and CHECKPOINT_KEY_NAMES["v1"] not in shapes:  # its last resort
        kind = None
    if kind not in KINDS or "v_pred" in shapes:
        raise OSError(
            f"model={file!r}: the scheduler, the tokenizers and the sizes of the model "
            "do not follow from the weights; pass load_backbone(file, config=...) with "
            "a folder in diffusers layout, or a Hub id, that has the configs of the "
            "model that it was trained from."
        )
    return DIFFUSERS_DEFAULT_PIPELINE_PATHS[kind]["pretrained_model_name_or_path"]


def read_single_file(file, config, how, pipeline_class, dtype):
    """Read a pipeline from one file with weights and a checkpoint with its configs.

    Parameters
    ----------
    file : str
        With weights in safetensors.
    config : str
        Folder or Hub id with the configs, and the parts that the file lacks.
    how : dict
        How to reach the Hub; empty for a folder.
    pipeline_class : callable
        Takes the content of ``model_index.json``.
    dtype : torch.dtype
        Of the weights.

    Returns
    -------
    pipeline : DiffusionPipeline

    Raises
    ------
    OSError
        If it can't be read or is incomplete.
    ValueError
        If its class is not supported, or is never in one file.
    """
    folder, _ = list_files(config, how, "model_index.json")
    index = read_json(folder / "model_index.json")
    cls = pipeline_class(index)
    if not hasattr(cls, "from_single_file"):
        raise ValueError(
            f"model={file!r}: diffusers reads no {cls.__name__} from a single file; "
            "pass a folder in diffusers layout."
        )
    download(config, how, TEXT_FILES)
    _check_size(file, folder, index)
    options = {"safety_checker": None, "requires_safety_checker": False}
    try:
        pipeline = read(
            cls,
            file,
            "",
            method="from_single_file",
            config=str(folder),
            torch_dtype=dtype,
            local_files_only=True,
            **(options if "safety_checker" in index else {}),
        )
    except OSError as error:
        if "meta tensor" in str(error):  # how diffusers meets a missing weight
            raise OSError(f"weights are missing in {file}") from error
        raise
    for module in modules_of(pipeline).values():
        module.eval()  # diffusers leaves T5 with its dropout
        if hasattr(module, "tie_weights"):  # and its embeddings without weights
            module.tie_weights()
    missing = [
        f"{name}.{key}"
        for name, module in modules_of(pipeline).items()
        for key, tensor in module.state_dict().items()
        if tensor.is_meta
    ]
    check_keys(Path(file), {"missing": missing})
    return pipeline


def _check_size(file, folder, index):
    """Raise if the file's network has another number of weights than its config."""
    import diffusers

    part = "unet" if "unet" in index else "transformer"
    cls = getattr(diffusers, index[part][1])
    with torch.device("meta"):
        network = cls.from_config(cls.load_config(folder, subfolder=part))
    shapes = _read_shapes(file)
    own = {key: of for key, of in shapes.items() if key.startswith(NETWORK)} or shapes
    in_file = sum(map(prod, own.values()))
    expected = sum(tensor.numel() for tensor in network.state_dict().values())
    if in_file != expected:
        raise OSError(
            f"the network in {file} has {in_file} weights, and by the configs in "
            f"{folder} {expected}"
        )


def _read_shapes(file):
    try:
        with safe_open(file, "pt") as weights:
            return {key: weights.get_slice(key).get_shape() for key in weights.keys()}
    except Exception as error:
        raise OSError(
            f"model={file!r} is no complete safetensors file: {error}"
        ) from error
