"""From what the user passed as `model` to a backbone, once a process."""

import copyreg
import json
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from difflib import get_close_matches
from importlib.resources import files
from pathlib import Path
from uuid import uuid4
from weakref import WeakValueDictionary

import diffusers
import torch
import transformers
from diffusers import DiffusionPipeline
from huggingface_hub import hf_hub_download
from huggingface_hub.constants import HF_HUB_OFFLINE
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError
from huggingface_hub.utils import logging as hub_logging

from diffusion_sklearn._device import resolve_device, resolve_dtype
from diffusion_sklearn.backbones._base import Backbone
from diffusion_sklearn.backbones._dit import DiTBackbone
from diffusion_sklearn.backbones._stable_diffusion import StableDiffusionBackbone

FAMILIES = {
    "StableDiffusionPipeline": StableDiffusionBackbone,
    "StableDiffusionImg2ImgPipeline": StableDiffusionBackbone,
    "DiTPipeline": DiTBackbone,
}
BUNDLED = {"fashion-dit": "class"}
"""Models that ship with the package, and what each is conditioned on."""

_loaded = {}
_in_memory = WeakValueDictionary()
_lock = threading.RLock()


@dataclass(frozen=True)
class BackboneSpec:
    """All that is needed to find a backbone again, in this or another process.

    Attributes
    ----------
    model : str or InMemory
        Hub id, local folder or bundled name; or what stands for a pipeline object.
    revision : str or None
        Branch, tag or commit on the Hub.
    device, dtype : str
        As the user asked for them: "auto" is resolved where the model is loaded.
    """

    model: object
    revision: str | None = None
    device: str = "auto"
    dtype: str = "auto"


@dataclass(frozen=True)
class InMemory:
    """Stands for a pipeline object, and is pickled without it.

    Within the process, the token leads back to the pipeline. Another process has to
    load the name or folder that the pipeline came from, if there is one.

    Attributes
    ----------
    token : str
        Of this pipeline object, in this process.
    name : str
        Hub id or folder it was loaded from; "" if it was built in memory.
    dtype : str
        Of its weights.
    pipeline : DiffusionPipeline or None
        The object; None in another process.
    """

    token: str
    name: str
    dtype: str
    pipeline: object = field(compare=False, repr=False)

    def __reduce__(self):
        return _recall, (self.token, self.name, self.dtype)


def _recall(token, name, dtype):
    return InMemory(token, name, dtype, _in_memory.get(token))


def _keep(pipeline):
    """Make a pipeline object findable by a token."""
    known = (token for token, p in list(_in_memory.items()) if p is pipeline)
    token = next(known, None) or uuid4().hex
    _in_memory[token] = pipeline
    dtype = str(pipeline.dtype).removeprefix("torch.")
    return InMemory(token, pipeline.name_or_path or "", dtype, pipeline)


def pack_model(model):
    """What stands for a `model` parameter in a pickle: never its weights.

    Parameters
    ----------
    model : str, Path, DiffusionPipeline, InMemory or Backbone
        The estimator's parameter.

    Returns
    -------
    model : str, Path, InMemory or Backbone
    """
    return _keep(model) if isinstance(model, DiffusionPipeline) else model


def unpack_model(model):
    """The reverse of :func:`pack_model`.

    Parameters
    ----------
    model : str, Path, InMemory or Backbone
        What was in the pickle.

    Returns
    -------
    model : str, Path, DiffusionPipeline, InMemory or Backbone
        A pipeline is itself in its own process; elsewhere the name or folder it was
        loaded from, if any.
    """
    if not isinstance(model, InMemory):
        return model
    return model.pipeline or model.name or model


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
    spec : BackboneSpec or Backbone
        A backbone stands for itself.
    """
    if isinstance(model, Backbone):
        return model
    device, dtype = str(device), str(dtype).removeprefix("torch.")
    if isinstance(model, DiffusionPipeline):
        model = _keep(model)
    if isinstance(model, InMemory):
        return BackboneSpec(model, None, device, dtype)
    if not isinstance(model, (str, Path)):
        raise TypeError(
            f"model={model!r} is of type {type(model).__name__}; pass a Hub id, a "
            f"folder, a bundled name ({_bundled_names()}), a diffusers pipeline or a "
            "Backbone."
        )
    name, revision = str(model), None
    if name not in BUNDLED and not Path(name).expanduser().is_dir():
        name, _, revision = name.partition("@")
    return BackboneSpec(name, revision or None, device, dtype)


def load_backbone(model, *, revision=None, device="auto", dtype="auto"):
    """Load a diffusion model for use as a classifier.

    The estimators call this with their parameters; call it yourself to choose a
    revision, to share one model between several estimators in a grid, or to look
    inside. A model is loaded once a process for each (model, revision, device, dtype).
    Only safetensors are read and no code of a repository is run.

    Parameters
    ----------
    model : str, Path, DiffusionPipeline or Backbone
        A Hub id, a local folder in diffusers layout, a bundled name, or a pipeline.
    revision : str, default=None
        Branch, tag or commit on the Hub. ``"org/name@revision"`` means the same.
    device : "auto", str or torch.device, default="auto"
        Where to put it. A pipeline object stays where it is with "auto", and is moved
        otherwise; a backbone stays as it is.
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
    if revision is not None and isinstance(spec, BackboneSpec):
        spec = BackboneSpec(spec.model, revision, spec.device, spec.dtype)
    return get_backbone(spec)


def get_backbone(spec):
    """The backbone of a spec, loaded at the first call of the process.

    Parameters
    ----------
    spec : BackboneSpec or Backbone
        What :func:`backbone_spec` returned.

    Returns
    -------
    backbone : Backbone
    """
    if isinstance(spec, Backbone):
        return spec
    if isinstance(spec.model, InMemory):
        if spec.model.pipeline is not None:
            return _wrap(spec)
        spec = _spec_elsewhere(spec)
    device = resolve_device(spec.device)
    dtype = resolve_dtype(spec.dtype, device)
    key = (spec.model, spec.revision, str(device), dtype)
    with _lock:
        if key not in _loaded:
            pipeline = _load_pipeline(spec.model, spec.revision, dtype)
            _loaded[key] = _make(pipeline.to(device), spec)
        return _loaded[key]


def _wrap(spec):
    """A backbone around a pipeline object of this process."""
    pipeline = spec.model.pipeline
    with _lock:
        device = (
            pipeline.device if spec.device == "auto" else resolve_device(spec.device)
        )
        dtype = pipeline.dtype
        if spec.dtype != "auto":
            dtype = resolve_dtype(spec.dtype, device)
        if (pipeline.device, pipeline.dtype) != (device, dtype):
            pipeline.to(device, dtype)
        return _make(pipeline, spec)


def _spec_elsewhere(spec):
    """The spec of a pipeline object, away from the process it was made in."""
    kept = spec.model
    if not kept.name:
        raise OSError(
            "The diffusers pipeline of this estimator was made in another process, "
            "never loaded from a name or folder, and pickles hold no weights. Save it "
            "with pipeline.save_pretrained(folder, safe_serialization=True) and pass "
            "model=folder."
        )
    dtype = kept.dtype if spec.dtype == "auto" else spec.dtype
    return BackboneSpec(kept.name, None, spec.device, dtype)


def _make(pipeline, spec):
    """The backbone of a pipeline's family; it remembers the spec for its pickle."""
    for cls in type(pipeline).__mro__:
        if cls.__name__ in FAMILIES:
            backbone = FAMILIES[cls.__name__](pipeline)
            backbone.spec = spec
            return backbone
    raise _unsupported(type(pipeline).__name__)


def _reduce(backbone):
    return get_backbone, (backbone.spec,)


for _family in FAMILIES.values():
    copyreg.pickle(_family, _reduce)  # no weights in a pickle


def _unsupported(name):
    return ValueError(
        f"Models of class {name} are not supported; pass a model of one of "
        f"{', '.join(FAMILIES)}, or a bundled one ({_bundled_names()})."
    )


def _bundled_names():
    return ", ".join(repr(name) for name in BUNDLED)


def _load_pipeline(name, revision, dtype):
    """Load from the package, a folder, the local cache, then the Hub."""
    folder = Path(name).expanduser()
    if name in BUNDLED:
        source, tried = str(files("diffusion_sklearn.bundled") / name), []
        attempts = [("the bundled model", {})]
    elif folder.is_dir():
        source, tried = str(folder), []
        attempts = [("the local folder", {})]
    elif name.count("/") != 1 or name[0] in "./~":
        source, attempts = name, []
        tried = ["it is no bundled name, no local folder and no Hub id (org/name)"]
    else:
        source, tried = name, ["it is no bundled name and no local folder"]
        # The cache first: offline works, and a model does not change between runs.
        attempts = [
            ("the local cache", {"local_files_only": True, "revision": revision}),
            ("the Hugging Face Hub", {"revision": revision}),
        ]
    for place, how in attempts:
        try:
            with _quiet():
                return _read_pipeline(source, dtype, how)
        except LocalEntryNotFoundError:
            missing = how.get("local_files_only") or HF_HUB_OFFLINE
            tried.append(f"{place} {'lacks it' if missing else 'can not be reached'}")
        except (OSError, HFValidationError, json.JSONDecodeError) as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            tried.append(f"{place} says: {reason.rstrip('.')}")
    at = f" at revision {revision!r}" if revision else ""
    near = get_close_matches(name, BUNDLED, n=1)
    raise OSError(
        f"model={name!r}{at} can't be loaded"
        + (f" (did you mean {near[0]!r}?)" if near else "")
        + f": {'; '.join(tried)}. Only safetensors are read. Check the name and the "
        "network, pass a local folder saved by pipeline.save_pretrained(folder, "
        "safe_serialization=True), or a bundled model that needs no download: "
        f"{_bundled_names()}."
    )


def _read_pipeline(source, dtype, how):
    index = Path(source) / "model_index.json"
    if how:  # a Hub id
        index = hf_hub_download(source, index.name, **how)
    config = json.loads(Path(index).read_text("utf-8"))
    name = config["_class_name"]
    if name not in FAMILIES:
        raise _unsupported(name)
    if "safety_checker" in config:
        how = {**how, "safety_checker": None, "requires_safety_checker": False}
    return getattr(diffusers, name).from_pretrained(
        source, dtype=dtype, use_safetensors=True, **how
    )


@contextmanager
def _quiet():
    """Hush the bars and the advice of the libraries while they load."""
    logs = (diffusers.utils.logging, transformers.utils.logging, hub_logging)
    bars = [log for log in logs[:2] if log.is_progress_bar_enabled()]
    before = [log.get_verbosity() for log in logs]
    try:
        for log in bars:
            log.disable_progress_bar()
        for log in logs:
            log.set_verbosity_error()
        yield
    finally:
        for log in bars:
            log.enable_progress_bar()
        for log, verbosity in zip(logs, before, strict=True):
            log.set_verbosity(verbosity)


def clear_cache():
    """Forget the models loaded so far, to free their memory.

    Estimators stay usable: they load again at the next call.
    """
    with _lock:
        _loaded.clear()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
