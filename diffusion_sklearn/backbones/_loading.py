"""From what the user passed as `model` to a backbone, once a process."""

from dataclasses import replace
from pathlib import Path
from weakref import WeakValueDictionary

from diffusion_sklearn.backbones._attachments import (
    check_attachments,
    check_movable,
    is_placed,
    quantized_dtypes,
)
from diffusion_sklearn.backbones._base import Backbone
from diffusion_sklearn.backbones._devices import copy_to, resolve_device, resolve_dtype
from diffusion_sklearn.backbones._families import BUNDLED, make_backbone
from diffusion_sklearn.backbones._fingerprint import (
    changed_parts,
    fingerprint,
    unseen,
    wrapped_modules,
)
from diffusion_sklearn.backbones._pipelines import load_pipeline
from diffusion_sklearn.backbones._sources import (
    get_or_load,
    get_or_make,
    list_bundled,
    quiet,
    resolve_name,
)
from diffusion_sklearn.backbones._spec import (
    BackboneSpec,
    InMemory,
    describe,
    is_pipeline,
    register_pipeline,
)

_in_place = WeakValueDictionary()


def backbone_spec(model, device, dtype):
    """Describe a model so that :func:`get_backbone` finds it.

    Parameters
    ----------
    model : str, Path, DiffusionPipeline, InMemory or Backbone
        The estimator's parameter. A Hub id may end in ``@revision``.
    device, dtype : str, torch.device, torch.dtype
        The estimator's parameters.

    Returns
    -------
    spec : BackboneSpec
    """
    device, dtype = str(device), str(dtype).removeprefix("torch.")
    if isinstance(model, Backbone):
        return BackboneSpec(_check_placement(model, device, dtype))
    if is_pipeline(model):
        model = register_pipeline(model)
    if isinstance(model, InMemory):
        return BackboneSpec(model, None, device, dtype)
    if not isinstance(model, (str, Path)):
        raise TypeError(
            f"model={model!r} is of type {type(model).__name__}; pass a Hub id, a "
            f"folder, a bundled name ({list_bundled(BUNDLED)}), a diffusers pipeline "
            "or a Backbone."
        )
    return BackboneSpec(*resolve_name(model, BUNDLED), device, dtype)


def _check_placement(backbone, device, dtype):
    """Return the backbone; raise if another device or dtype is wanted."""
    mismatch = None
    if device != "auto" and resolve_device(device) != backbone.device:
        mismatch = "device", device, str(backbone.device)
    if dtype != "auto" and resolve_dtype(dtype, backbone.device) != backbone.dtype:
        mismatch = "dtype", dtype, str(backbone.dtype)
    if mismatch:
        name, value, there = mismatch
        raise ValueError(
            f"{name}={value!r}, but the backbone passed as model has {name}={there!r}; "
            f"pass {name}='auto', or load it with load_backbone(..., {name}={value!r})."
        )
    return backbone


def load_backbone(
    model, *, revision=None, variant=None, config=None, device="auto", dtype="auto"
):
    """Load a diffusion model for use as a classifier.

    The estimators call this with their parameters; call it yourself to choose a
    revision, to share one model between several estimators in a grid, or to look
    inside. A model is loaded once a process for each (model, revision, device, dtype);
    a folder is loaded anew after its files changed.
    No code of a repository is run. Weights are read from safetensors, or from ``.bin``
    files by torch's weights-only unpickler, and each of them has to be there.

    Parameters
    ----------
    model : str, Path, DiffusionPipeline or Backbone
        A Hub id or the address of its page, a local folder in diffusers layout, a
        single ``.safetensors`` file, a bundled name, or a pipeline.
    revision : str, default=None
        Branch, tag or commit on the Hub. ``"org/name@revision"`` means the same.
    variant : str, default=None
        Of the files with the weights, such as "fp16". None: those without a variant,
        or else the only variant that there is.
    config : str or Path, default=None
        For a single file: a folder in diffusers layout, or a Hub id, that has the
        configs, the tokenizers and what else the file lacks; a file may hold the
        network alone. None: that of the published model, where it follows from the
        weights.
    device : "auto", str or torch.device, default="auto"
        Where to put it. A pipeline object stays where it is with "auto"; for another
        device or dtype a copy of it is made. A backbone stays as it is.
    dtype : "auto", str or torch.dtype, default="auto"
        Of the weights. "auto": float32 on a CPU, bfloat16 or float16 on a GPU; a
        pipeline object keeps its own, as do quantized weights that can't be cast.

    Returns
    -------
    backbone : Backbone
        Its ``pipeline`` is the diffusers pipeline. If it was loaded from a name, its
        text encoders are on the CPU except while they encode.

    Raises
    ------
    OSError
        If the model can't be had, or is incomplete; the message says what was tried
        and what is missing.
    ValueError
        If the model is of a family that is not supported, or a parameter is not
        possible for it.

    Examples
    --------
    >>> from diffusion_sklearn import load_backbone
    >>> backbone = load_backbone("fashion-dit")
    >>> backbone.kind, backbone.image_size
    ('class', 32)
    """
    spec = backbone_spec(model, device, dtype)
    options = {"revision": revision, "variant": variant, "config": config}
    options = {key: str(of) for key, of in options.items() if of is not None}
    source = spec.model
    is_name = isinstance(source, str)
    is_file = is_name and Path(source).is_file()
    is_local = is_file or (is_name and (source in BUNDLED or Path(source).is_dir()))
    possible = {"revision": not is_local, "variant": not is_file, "config": is_file}
    for key, value in options.items():
        if not is_name or not possible[key]:
            raise ValueError(
                f"{key}={value!r} has no meaning for model={describe(model)}; "
                "leave it out (revision: for a Hub id; variant: for a Hub id or a "
                "folder; config: for a single file)."
            )
    if "config" in options:
        options["config"], _ = resolve_name(options["config"], BUNDLED)
    return get_backbone(replace(spec, **options) if options else spec)


def get_backbone(spec):
    """The backbone of a spec, loaded at the first call of the process.

    Parameters
    ----------
    spec : BackboneSpec
        What :func:`backbone_spec` returned.

    Returns
    -------
    backbone : Backbone

    Raises
    ------
    ValueError
        If the pipeline of a Backbone, or a pipeline to be copied, was changed, or has
        something attached that makes every error wrong.
    OSError
        If the model can't be had.
    """
    model = spec.model
    if isinstance(model, Backbone):
        check_attachments(model.pipeline)
        if not model.is_current():
            raise ValueError(
                "The backbone passed as model was made from other parts or configs "
                "than its pipeline has; call load_backbone(backbone.pipeline) again."
            )
        return model
    if isinstance(model, InMemory):
        if model.pipeline is None:
            backbone = _load_elsewhere(spec)
            return _copy_if_needed(backbone.pipeline, spec) or backbone
        return _copy_if_needed(model.pipeline, spec) or _wrap_in_place(spec)
    device = resolve_device(spec.device)
    dtype = resolve_dtype(spec.dtype, device)

    def load():
        pipeline = load_pipeline(spec, dtype)
        stored = quantized_dtypes(pipeline) - {dtype}
        if stored:  # the rest as these, which can't be cast
            pipeline = load_pipeline(spec, stored.pop())
        return _make_own(pipeline.to(device), spec)

    key = (spec.revision, spec.variant, spec.config, str(device), dtype)
    backbone = get_or_load(model, key, load, spec.config)
    if spec.dtype == "auto":
        return backbone
    stored = quantized_dtypes(backbone.pipeline) - {dtype}
    if stored:
        raise ValueError(
            f"dtype={spec.dtype!r}: the weights of model={model!r} are quantized for "
            f"{stored.pop()} and can't be cast; pass dtype='auto'."
        )
    return backbone


def get_unchanged(spec):
    """The backbone of a spec, if it is as it was at `fit`.

    Parameters
    ----------
    spec : BackboneSpec
        With a fingerprint.

    Returns
    -------
    backbone : Backbone

    Raises
    ------
    ValueError
        If it has another fingerprint.
    """
    backbone = get_backbone(spec)
    changed = changed_parts(spec.fingerprint, backbone.fingerprint())
    if changed:
        raise ValueError(
            f"The model {backbone.name!r} was changed after fit ({changed}); call fit "
            "again."
        )
    return backbone


def _make_own(pipeline, spec):
    """The backbone of a pipeline that no one else has, and no one should change."""
    backbone = make_backbone(pipeline, spec)
    backbone.loaded_fingerprint = fingerprint(pipeline)
    return backbone


def _copy_if_needed(pipeline, spec):
    """The backbone of a copy, if the pipeline is on another device or of another dtype.

    The object itself is never moved or cast: casting down and up again would round
    its weights for good, and other estimators may be using it.
    """
    check_attachments(pipeline)
    to = {}
    if spec.device != "auto":
        to["device"] = resolve_device(spec.device)
    if spec.dtype != "auto":
        to["dtype"] = resolve_dtype(spec.dtype, to.get("device", pipeline.device))
    if is_placed(pipeline, **to):
        return None
    check_movable(pipeline, to)
    hooks = unseen(pipeline) or wrapped_modules(pipeline)
    if hooks:
        raise ValueError(
            f"device={spec.device!r}, dtype={spec.dtype!r} need a copy of the pipeline,"
            f" which can't have what was added to it ({hooks}). Remove that, or move "
            "the pipeline itself with pipeline.to(...) and pass 'auto' for both."
        )
    source = fingerprint(pipeline)

    def make():
        # Without the original, which is released when no one else uses it.
        model = replace(spec.model, pipeline=None, fingerprint=source)
        with quiet():
            twin = copy_to(pipeline, **to)
        return _make_own(twin, replace(spec, model=model, fingerprint=None))

    return get_or_make(pipeline, source, make, slot=tuple(map(str, to.items())))


def _wrap_in_place(spec):
    """The backbone of a pipeline object; the same one while anybody holds it."""
    pipeline = spec.model.pipeline
    key = spec.model.token, str(pipeline.device), pipeline.dtype
    backbone = _in_place.get(key)
    if backbone is None or not backbone.is_current():
        spec = replace(spec, fingerprint=None)
        backbone = _in_place[key] = make_backbone(pipeline, spec)
    return backbone


def _load_elsewhere(spec):
    """The backbone of a pipeline object, away from the process it was made in."""
    in_memory = spec.model
    save = (
        "Save it with pipeline.save_pretrained(folder, safe_serialization=True), after "
        "pipeline.fuse_lora() and pipeline.unload_lora_weights() where it has adapters,"
        " and pass model=folder."
    )
    if not in_memory.name:
        raise OSError(
            "The diffusers pipeline of this estimator was made in another process, "
            f"never loaded from a name or folder, and pickles hold no weights. {save}"
        )
    if in_memory.unseen:
        raise OSError(
            "The diffusers pipeline of this estimator has what no pickle holds "
            f"({in_memory.unseen}). Remove that before it is pickled or sent to "
            "workers, or pass n_jobs=None."
        )
    name = in_memory.name
    backbone = get_backbone(BackboneSpec(name, None, spec.device, in_memory.dtype))
    other = changed_parts(in_memory.fingerprint, backbone.fingerprint())
    if other:
        raise OSError(
            f"The diffusers pipeline of this estimator was loaded from {name!r} "
            f"and differs from what is found there ({other}: changed after loading, or "
            f"of another revision), and pickles hold no weights. {save}"
        )
    return backbone
