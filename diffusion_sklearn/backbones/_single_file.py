"""A model in one ``.safetensors`` file, in the layout of its authors' own code."""

import re
from contextlib import nullcontext
from importlib.util import find_spec
from pathlib import Path

import torch
from safetensors import safe_open

from diffusion_sklearn.backbones._completeness import check_keys, read, read_json
from diffusion_sklearn.backbones._devices import tables

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
T5 = "text_encoders.t5xxl."
PREFIXES = {
    "first_stage_model.": "vae",
    "vae.": "vae",
    "cond_stage_model.": "text_encoder",
    "conditioner.embedders.0.": "text_encoder",
    "conditioner.embedders.1.": "text_encoder_2",
    "text_encoders.clip_l.": "text_encoder",
    "text_encoders.clip_g.": "text_encoder_2",
}
"""Parts of the pipeline by the beginning of the keys of their weights."""

HARMLESS = re.compile(
    r"(.*\.)?(position_ids|attn_mask|logit_scale|text_projection(\.weight)?)"
    r"|(model_ema|.*safety_checker|first_stage_model\.loss)\..*"
    r"|betas|\w*alphas_cumprod\w*|posterior_\w+|lvlb_weights|logvar|scale_factor"
    r"|denoiser\.sigmas|v_pred|ztsnr|(model\.diffusion_model\.)?norm_final\.weight"
    r"|cond_stage_model\.model\.transformer\.resblocks\.23\..*"
)
"""Weights that authors' files have and that their models do not use: averages, noise
schedules, losses, the last layer of Stable Diffusion 2's text encoder."""


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


def parts_in_file(file, classes, pipeline_class):
    """The weights of a file by the parts of the pipeline that they belong to.

    Parameters
    ----------
    file : str
        With weights in safetensors.
    classes : dict of str to type
        Of the parts of the pipeline.
    pipeline_class : type
        Of the pipeline.

    Returns
    -------
    parts : dict of str to list of str
        Keys of the weights by the names of the parts, the network's first.

    Raises
    ------
    OSError
        If it can't be read, or has weights of no part.
    ValueError
        If diffusers reads no such file.
    """
    network = "unet" if "unet" in classes else "transformer"
    _check_class(file, classes[network])
    keys = [key for key in _read_shapes(file) if not HARMLESS.fullmatch(key)]
    is_whole = any(key.startswith(NETWORK) for key in keys)
    t5 = [name for name, of in classes.items() if of.__name__ == "T5EncoderModel"]
    prefixes = {**PREFIXES, T5: t5[0] if t5 else None}
    parts, unexpected = {network: []}, []
    for key in keys:
        prefix = _prefix(key)
        part = network if key.startswith(NETWORK) or not is_whole else None
        part = prefixes[prefix] if prefix else part
        keys_of_part = parts.setdefault(part, []) if part in classes else unexpected
        keys_of_part.append(key)
    if len(parts) > 1:
        _check_class(file, pipeline_class, f", or a file with the {network} alone")
    check_keys(Path(file), {"unexpected": unexpected})
    return parts


def _check_class(file, cls, advice=""):
    if not hasattr(cls, "from_single_file"):
        raise ValueError(
            f"model={file!r}: diffusers reads no {cls.__name__} from a single file; "
            f"pass a folder in diffusers layout{advice}."
        )


def _prefix(key):
    """The beginning of a key that tells its part; None: there is none."""
    return next((prefix for prefix in (*PREFIXES, T5) if key.startswith(prefix)), None)


def read_network(file, keys, folder, part, cls, dtype):
    """Read the network of a file; raise unless each weight is there and is read.

    Parameters
    ----------
    file : str
        With weights in safetensors.
    keys : list of str
        Those of the network.
    folder : Path
        The checkpoint with the configs.
    part : str
        Name of the network in the pipeline.
    cls : type
        Of the network.
    dtype : torch.dtype
        Of the weights.

    Returns
    -------
    network : ModelMixin

    Raises
    ------
    OSError
        If it can't be read or is incomplete; the message names the keys.
    """
    scheduler = folder / "scheduler" / "scheduler_config.json"
    prediction_type = read_json(scheduler).get("prediction_type")
    if "v_pred" in _read_shapes(file) and prediction_type != "v_prediction":
        raise OSError(
            f"the network in {file} predicts velocities (v_pred), and {scheduler} has "
            f"prediction_type={prediction_type!r}"
        )
    config = dict(cls.load_config(folder, subfolder=part))
    with _without_weights():
        empty = cls.from_config(config)
    weights = _read_weights(file, keys, empty, config)
    options = {"config": str(folder), "torch_dtype": dtype, "local_files_only": True}
    network = read(
        cls, weights, part, method="from_single_file", subfolder=part, **options
    )
    for owner, name, table in tables(empty):  # diffusers casts them, too
        network.get_submodule(owner).get_buffer(name).data = table.data
    return network


def _without_weights():
    """A context in which modules are made without weights, but with their buffers."""
    if find_spec("accelerate") is None:
        return nullcontext()
    from accelerate import init_empty_weights

    return init_empty_weights()


def read_whole_file(file, in_file, folder, cls, parts, dtype):
    """Read the other parts that a file has.

    Parameters
    ----------
    file : str
        With weights in safetensors.
    in_file : dict of str to list of str
        What :func:`parts_in_file` returned.
    folder : Path
        The checkpoint with the configs.
    cls : type
        Of the pipeline.
    parts : dict of str to object
        The network, and the parts that the file lacks.
    dtype : torch.dtype
        Of the weights.

    Returns
    -------
    pipeline : DiffusionPipeline

    Raises
    ------
    OSError
        If it can't be read or is incomplete.
    """
    options = {"config": str(folder), "torch_dtype": dtype, "local_files_only": True}
    try:
        pipeline = read(cls, file, "", method="from_single_file", **options, **parts)
    except OSError as error:
        if "meta tensor" in str(error):  # how diffusers meets a missing weight
            raise OSError(f"weights are missing in {file}") from error
        raise
    for name, keys in in_file.items():
        if name not in parts:
            _complete(getattr(pipeline, name), name, file, keys)
    return pipeline


def _read_weights(file, keys, empty, config):
    """Weights of a network by the names that diffusers takes."""
    from diffusers import UNet2DConditionModel
    from diffusers.loaders import single_file_model

    cls, expected = type(empty), empty.state_dict()
    # Some readers of diffusers take the prefix for granted, others do not know it.
    own = {key: key.removeprefix(NETWORK) for key in keys}
    as_in_diffusers = expected.keys() <= set(own.values())
    if not as_in_diffusers and issubclass(cls, UNet2DConditionModel):
        own = {key: NETWORK + name for key, name in own.items()}
    kinds = single_file_model.SINGLE_FILE_LOADABLE_CLASSES
    kind = single_file_model._get_single_file_loadable_mapping_class(cls)
    convert = None if as_in_diffusers else kinds[kind]["checkpoint_mapping_fn"]
    shapes = {own[key]: of for key, of in _read_shapes(file).items() if key in own}
    made = _trace(file, shapes, convert, config=config)
    used = {key for name in made.keys() & expected for key in made[name].sources}
    check_keys(
        Path(file),
        {
            "missing": sorted(expected.keys() - made),
            "unexpected": [key for key, name in own.items() if name not in used],
            "of another shape": [
                f"{name}: {tuple(made[name].shape)} for {tuple(expected[name].shape)}"
                for name in sorted(made.keys() & expected)
                if made[name].shape != expected[name].shape
            ],
        },
    )
    with safe_open(file, "pt") as weights:
        return {name: weights.get_tensor(key) for key, name in own.items()}


def _complete(module, part, file, keys):
    """Complete an autoencoder or a text encoder; raise unless all weights are read."""
    from diffusers.loaders import single_file_utils as readers

    if hasattr(module, "tie_weights"):  # diffusers leaves T5 without embeddings
        module.tie_weights()
    module.eval()  # and with its dropout
    shapes, prefix = _read_shapes(file), _prefix(keys[0])
    if part == "vae":
        convert = readers.convert_ldm_vae_checkpoint
        options = {"config": module.config}
    elif any(key.startswith(f"{prefix}model.") for key in keys):
        convert = readers.convert_open_clip_checkpoint
        options = {"text_model": module, "prefix": f"{prefix}model."}
    else:
        convert = readers.convert_ldm_clip_checkpoint
        options = {"remove_prefix": f"{prefix}transformer."}
    projection = f"{prefix}transformer.text_projection.weight"
    if projection in shapes and hasattr(module, "text_projection"):
        with safe_open(file, "pt") as weights, torch.no_grad():  # diffusers forgets it
            module.text_projection.weight.copy_(weights.get_tensor(projection))
    made = _trace(file, {key: shapes[key] for key in keys}, convert, **options)
    if not hasattr(module, "text_model"):
        made = {key.removeprefix("text_model."): of for key, of in made.items()}
    state = module.state_dict()
    used = {key for name in made.keys() & state for key in made[name].sources}
    missing = [f"{part}.{key}" for key, tensor in state.items() if tensor.is_meta]
    unexpected = [key for key in keys if key not in used]
    check_keys(Path(file), {"missing": missing, "unexpected": unexpected})


class _Traced(torch.Tensor):
    """Without data; knows the names of the weights that it was made from."""

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        made = super().__torch_function__(function, types, args, kwargs or {})
        inputs = [x for arg in args for x in (arg if _is_list(arg) else [arg])]
        sources = [x.sources for x in inputs if isinstance(x, cls)]
        for tensor in made if _is_list(made) else [made]:
            if isinstance(tensor, cls):
                tensor.sources = set().union(*sources)
        return made


def _is_list(value):
    return isinstance(value, list | tuple)


def _trace(file, shapes, convert, **options):
    """Weights as diffusers converts them, without data, with their sources."""
    weights = {}
    for key, of in shapes.items():
        weights[key] = torch.empty(of, device="meta").as_subclass(_Traced)
        weights[key].sources = {key}
    if convert is None:
        return weights
    try:
        made = convert(checkpoint=weights, **options)
    except Exception as error:  # such as the KeyError of a weight that is missing
        raise OSError(
            f"the weights in {file} are not as the configs say, or in a layout that "
            f"diffusers can't read ({type(error).__name__}: {error})"
        ) from error
    return {name: tensor for name, tensor in made.items() if tensor is not None}


def _read_shapes(file):
    try:
        with safe_open(file, "pt") as weights:
            return {key: weights.get_slice(key).get_shape() for key in weights.keys()}
    except Exception as error:
        raise OSError(
            f"model={file!r} is no complete safetensors file: {error}"
        ) from error
