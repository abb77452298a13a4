"""From what the user passed as `model` to a backbone, once a process."""

import sys
import warnings
from dataclasses import replace
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from pkgutil import iter_modules
from weakref import WeakValueDictionary

import torch

from diffusion_sklearn.backbones._attachments import (
    check_attachments,
    check_movable,
    is_placed,
    quantized_dtypes,
    unsupported,
)
from diffusion_sklearn.backbones._base import Backbone
from diffusion_sklearn.backbones._completeness import (
    TEXT_FILES,
    choose_weights,
    download,
    list_files,
    read,
    read_json,
    read_tokenizer,
    read_weights,
)
from diffusion_sklearn.backbones._devices import copy_to, resolve_device, resolve_dtype
from diffusion_sklearn.backbones._fingerprint import (
    UNUSED,
    changed_parts,
    fingerprint,
    unseen,
    wrapped_modules,
)
from diffusion_sklearn.backbones._single_file import (
    find_config,
    parts_in_file,
    read_network,
    read_whole_file,
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
    describe,
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
    for key in options:
        is_file = isinstance(source, str) and Path(source).is_file()
        is_local = is_file or source in BUNDLED or Path(str(source)).is_dir()
        possible = {"revision": not is_local, "variant": not is_file, "config": is_file}
        if not isinstance(source, str) or not possible[key]:
            raise ValueError(
                f"{key}={options[key]!r} has no meaning for model={describe(model)}; "
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
        pipeline = _load_pipeline(spec, dtype)
        stored = quantized_dtypes(pipeline) - {dtype}
        if stored:  # the rest as these, which can't be cast
            pipeline = _load_pipeline(spec, stored.pop())
        return _make_own(pipeline.to(device), spec)

    key = (spec.revision, spec.variant, spec.config, str(device), dtype)
    backbone = get_or_load(model, key, load)
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
    backbone = _make(pipeline, spec)
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


def _pipeline_class(index):
    """The class of a ``model_index.json``, of diffusers or written by the user."""
    import diffusers
    import transformers  # noqa: F401 (parts are of either)

    name, by_name = index.get("_class_name"), families()
    own = {cls.__name__: cls for cls in _with_subclasses(diffusers.DiffusionPipeline)}
    cls = getattr(diffusers, str(name), None) or own.get(str(name))
    _check_backends(cls)
    codes = [of for part, of in index.items() if _is_part(of) and part not in UNUSED]
    codes = [of for of in codes if _module(of[0]) is None]
    codes += [name] if isinstance(name, list) else []
    if codes:
        raise ValueError(
            f"The model has code of its own ({'.'.join(map(str, codes[0]))}), which is "
            "never run; load it yourself and pass the pipeline object, whose class has "
            f"to be derived from one of {', '.join(sorted(by_name))}, or a Backbone."
        )
    if name is None:
        raise OSError("its model_index.json names no _class_name")
    if name not in by_name or cls is None:
        parts = [value[1] for value in index.values() if _is_part(value)]
        raise unsupported(name, parts, by_name, BUNDLED)
    return cls


def _check_backends(cls):
    """Raise if a class is a stand-in for one that needs a library."""
    needs = [lib for lib in getattr(cls, "_backends", ()) if find_spec(lib) is None]
    if needs:
        needs = ", ".join(needs)
        raise ImportError(f"{cls.__name__} needs {needs}; install it with pip.")


def _module(name):
    """The module of a part's class: a library, or a folder of diffusers' pipelines."""
    from diffusers import pipelines

    return sys.modules.get(name) or getattr(pipelines, name, None)


def _is_part(value):
    return isinstance(value, list) and list(map(type, value)) == [str, str]


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
            if backbone.is_distilled:
                warnings.warn(
                    f"The model is distilled ({backbone.name}): it was trained to "
                    "sample in few steps, so that its errors are no likelihoods. "
                    "Prefer the model that it was distilled from.",
                    UserWarning,
                    stacklevel=2,
                )
            return backbone
    parts = [type(part).__name__ for part in pipeline.components.values()]
    raise unsupported(type(pipeline).__name__, parts, by_name, BUNDLED)


def _load_pipeline(spec, dtype):
    """The pipeline of a name, a folder or a file, in the given dtype."""
    save_with = "pipeline.save_pretrained(folder, safe_serialization=True)"
    if not Path(spec.model).is_file():

        def read(source, how):
            return _read_pipeline(source, dtype, how, spec.variant)

        return load_pretrained(spec.model, spec.revision, read, BUNDLED, save_with)
    config = spec.config or find_config(spec.model)

    def read_file(source, how):
        return _read_pipeline(source, dtype, how, file=spec.model)

    try:
        return load_pretrained(config, None, read_file, BUNDLED, save_with)
    except OSError as error:
        raise OSError(
            f"model={spec.model!r} can't be loaded with the configs of {config!r}; "
            f"load_backbone(file, config=...) takes them from elsewhere. {error}"
        ) from error


def _read_pipeline(source, dtype, how, variant=None, file=None):
    """Read the parts that are needed, each with its weights complete."""
    import diffusers  # noqa: F401 (before their messages are silenced)
    import transformers.utils.logging  # noqa: F401

    with quiet():
        folder, names = list_files(source, how, "model_index.json")
        index = read_json(folder / "model_index.json")
        cls = _pipeline_class(index)
        # Parts that were left out when it was saved, as the T5 of SD 3 may be.
        parts = {name: None for name, of in index.items() if of == [None, None]}
        parts |= {name: None for name in UNUSED & set(index)}
        classes = {
            name: _part_class(name, *value)
            for name, value in index.items()
            if _is_part(value) and name not in parts
        }
        in_file = parts_in_file(file, classes, cls) if file else {}
        weights = {
            name: choose_weights(names, name, variant)
            for name, of in classes.items()
            if name not in in_file and issubclass(of, torch.nn.Module)
        }
        if variant and variant not in {of["variant"] for of, _ in weights.values()}:
            raise OSError(f"there are no weights with variant={variant!r}")
    files = [name for _, chosen in weights.values() for name in chosen]
    files += [f"{part}/{pattern}" for part in classes for pattern in TEXT_FILES]
    download(source, how, files)  # shows how far it is: there may be gigabytes
    with quiet():
        for name, of in classes.items():
            if name in weights:
                options = {"dtype": dtype, **weights[name][0]}
                parts[name] = read_weights(of, folder, name, options)
            elif "tokenizer" in name:
                parts[name] = read_tokenizer(of, folder, name)
        if "safety_checker" in parts:
            parts["requires_safety_checker"] = False
        for name in {"unet", "transformer"} & in_file.keys():
            keys = in_file[name]
            parts[name] = read_network(file, keys, folder, name, classes[name], dtype)
        if len(in_file) > 1:
            pipeline = read_whole_file(file, in_file, folder, cls, parts, dtype)
        else:
            pipeline = read(cls, str(folder), "", **parts)
    if "id2label" in index:  # diffusers drops it where the pipeline is saved again
        pipeline.register_to_config(id2label=index["id2label"])
    return pipeline


def _part_class(part, library, name):
    """The class of a part; raise if the installed library has none of that name."""
    cls = getattr(_module(library), name, None)
    if not isinstance(cls, type):
        version = getattr(sys.modules.get(library), "__version__", "")
        raise OSError(
            f"{part} is a {name}, which {library} {version} does not have; install a "
            "version that has it"
        )
    _check_backends(cls)
    return cls
