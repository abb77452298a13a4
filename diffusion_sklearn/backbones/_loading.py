"""From what the user passed as `model` to a backbone, once a process."""

import copy
import json
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from weakref import WeakValueDictionary

from huggingface_hub import hf_hub_download

from diffusion_sklearn.backbones._base import Backbone
from diffusion_sklearn.backbones._devices import resolve_device, resolve_dtype
from diffusion_sklearn.backbones._fingerprint import (
    changed_parts,
    fingerprint,
    unseen,
    wrapped_modules,
)
from diffusion_sklearn.backbones._sources import (
    get_or_load,
    get_or_make,
    list_bundled,
    load_pretrained,
    quiet,
    resolve_name,
)
from diffusion_sklearn.backbones._spec import (
    BackboneSpec,
    InMemory,
    is_pipeline,
    register_pipeline,
)

BUNDLED = {"fashion-dit": "class-conditional", "fashion-scenes": "text-to-image"}
"""Models that ship with the package, and what each is."""

_in_place = WeakValueDictionary()


def backbone_spec(model, device="auto", dtype="auto"):
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


def load_backbone(model, *, revision=None, device="auto", dtype="auto"):
    """Load a diffusion model for use as a classifier.

    The estimators call this with their parameters; call it yourself to choose a
    revision, to share one model between several estimators in a grid, or to look
    inside. A model is loaded once a process for each (model, revision, device, dtype);
    a folder is loaded anew after its files changed.
    Only safetensors are read and no code of a repository is run.

    Parameters
    ----------
    model : str, Path, DiffusionPipeline or Backbone
        A Hub id, a local folder in diffusers layout, a bundled name, or a pipeline.
    revision : str, default=None
        Branch, tag or commit on the Hub. ``"org/name@revision"`` means the same.
    device : "auto", str or torch.device, default="auto"
        Where to put it. A pipeline object stays where it is with "auto"; for another
        device or dtype a copy of it is made. A backbone stays as it is.
    dtype : "auto", str or torch.dtype, default="auto"
        Of the weights. "auto": float32 on a CPU, bfloat16 or float16 on a GPU; a
        pipeline object keeps its own.

    Returns
    -------
    backbone : Backbone
        Its ``pipeline`` is the diffusers pipeline.

    Raises
    ------
    OSError
        If the model can't be had; the message says what was tried and names the
        bundled models.
    ValueError
        If the model is of a family that is not supported, or `device` or `dtype` is
        not possible.

    Examples
    --------
    >>> from diffusion_sklearn import load_backbone
    >>> backbone = load_backbone("fashion-dit")
    >>> backbone.kind, backbone.image_size
    ('class', 32)
    """
    spec = backbone_spec(model, device, dtype)
    if revision is not None:
        spec = replace(spec, revision=revision)
    return get_backbone(spec)


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
        If the pipeline of a Backbone, or a pipeline to be copied, was changed.
    OSError
        If the model can't be had.
    """
    model = spec.model
    if isinstance(model, Backbone):
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
        pipeline = load_pretrained(
            model,
            spec.revision,
            lambda source, how: _read_pipeline(source, dtype, how),
            BUNDLED,
            "pipeline.save_pretrained(folder, safe_serialization=True)",
        )
        return _make_own(pipeline.to(device), spec)

    return get_or_load(model, (spec.revision, str(device), dtype), load)


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
    backbone = _make(pipeline, spec)
    backbone.loaded_fingerprint = fingerprint(pipeline)
    return backbone


def _copy_if_needed(pipeline, spec):
    """The backbone of a copy, if the pipeline is on another device or of another dtype.

    The object itself is never moved or cast: casting down and up again would round
    its weights for good, and other estimators may be using it.
    """
    device, dtype = pipeline.device, pipeline.dtype
    if spec.device != "auto":
        device = resolve_device(spec.device)
    if spec.dtype != "auto":
        dtype = resolve_dtype(spec.dtype, device)
    if (pipeline.device, pipeline.dtype) == (device, dtype):
        return None
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
        twin = copy.deepcopy(pipeline).to(device, dtype)
        return _make_own(twin, replace(spec, model=model, fingerprint=None))

    return get_or_make(pipeline, source, make, slot=(str(device), dtype))


def _wrap_in_place(spec):
    """The backbone of a pipeline object; the same one while anybody holds it."""
    pipeline = spec.model.pipeline
    key = spec.model.token, str(pipeline.device), pipeline.dtype
    backbone = _in_place.get(key)
    if backbone is None or not backbone.is_current():
        spec = replace(spec, fingerprint=None)
        backbone = _in_place[key] = _make(pipeline, spec)
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


def families():
    """Every family, those that users have written among them.

    Returns
    -------
    families : dict of str to type
        Subclasses of Backbone by the names of the pipeline classes that they wrap.
    """
    from diffusion_sklearn import backbones

    for module in iter_modules(backbones.__path__):  # every file may hold a family
        import_module(f"{backbones.__name__}.{module.name}")
    return {name: cls for cls in _with_subclasses(Backbone) for name in cls.pipelines}


def _pipeline_class(name):
    """A pipeline class of diffusers, or one that was written by the user."""
    import diffusers

    own = {cls.__name__: cls for cls in _with_subclasses(diffusers.DiffusionPipeline)}
    return getattr(diffusers, name, None) or own.get(name)


def _with_subclasses(cls):
    """A class and all that are derived from it, parents first."""
    classes = [cls]
    for one in classes:
        classes += one.__subclasses__()
    return classes


def _make(pipeline, spec):
    """The backbone of a pipeline's family; it remembers the spec for its pickle."""
    by_name = families()
    for cls in type(pipeline).__mro__:
        if cls.__name__ in by_name:
            backbone = by_name[cls.__name__](pipeline)
            backbone.spec = spec
            return backbone
    raise _unsupported(type(pipeline).__name__)


def _unsupported(name):
    return ValueError(
        f"Models of class {name} are not supported; pass a model of one of "
        f"{', '.join(sorted(families()))}, or a bundled one "
        f"({list_bundled(BUNDLED)}). A Backbone for another class is a short file: see "
        "'Writing a Backbone' in the documentation."
    )


def _read_pipeline(source, dtype, how):
    import diffusers  # noqa: F401 (before its messages are silenced)

    index = Path(source) / "model_index.json"
    with quiet():
        if how:  # a Hub id
            index = hf_hub_download(source, index.name, **how)
        config = json.loads(Path(index).read_text("utf-8"))
        cls = _pipeline_class(config["_class_name"])
        if config["_class_name"] not in families() or cls is None:
            raise _unsupported(config["_class_name"])
    # Parts that were left out when it was saved, as the T5 of SD 3 may be.
    without = {name: None for name, kind in config.items() if kind == [None, None]}
    if "safety_checker" in config:
        without.update(safety_checker=None, requires_safety_checker=False)
    if how:  # with a progress bar: it may be gigabytes
        source = cls.download(source, use_safetensors=True, **without, **how)
    with quiet():
        pipeline = cls.from_pretrained(
            source, dtype=dtype, use_safetensors=True, **without
        )
    if "id2label" in config:  # diffusers drops it where the pipeline is saved again
        pipeline.register_to_config(id2label=config["id2label"])
    return pipeline
