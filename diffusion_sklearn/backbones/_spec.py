"""The spec of a model: what an estimator and its pickle hold in its place."""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4
from weakref import WeakValueDictionary

from diffusion_sklearn.backbones._fingerprint import fingerprint, unseen

_in_memory = WeakValueDictionary()


def is_pipeline(model):
    """Whether a `model` parameter is a loaded diffusers pipeline.

    Parameters
    ----------
    model : object
        The estimator's parameter.

    Returns
    -------
    pipeline : bool
    """
    diffusers = sys.modules.get("diffusers")  # without it there is no pipeline
    return diffusers is not None and isinstance(model, diffusers.DiffusionPipeline)


@dataclass(frozen=True)
class BackboneSpec:
    """All that is needed to find a backbone again, in this or another process.

    Attributes
    ----------
    model : str, InMemory or Backbone
        Hub id, local folder or bundled name; or what stands for a pipeline object.
    revision : str or None
        Branch, tag or commit on the Hub.
    device, dtype : str
        As the user passed them: "auto" is resolved where the model is loaded.
    variant : str or None
        Of the files with the weights, such as "fp16".
    config : str or None
        Folder or Hub id with the configs of a single file.
    fingerprint : dict or None
        That of the model at `fit`, which it must still have; None: any.
    """

    model: object
    revision: str | None = None
    device: str = "auto"
    dtype: str = "auto"
    variant: str | None = None
    config: str | None = None
    fingerprint: dict | None = field(default=None, compare=False, repr=False)

    def __reduce__(self):
        # A Backbone is pickled as its spec, and loaded when it is used.
        own = getattr(self.model, "spec", None) or self
        state = own.model, own.revision, own.device, own.dtype, own.variant, own.config
        return BackboneSpec, (*state, self.fingerprint)


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
    fingerprint : dict or None
        Of the pipeline when it was pickled.
    unseen : str
        What the fingerprint did not cover then.
    """

    token: str
    name: str
    dtype: str
    pipeline: object = field(compare=False, repr=False)
    fingerprint: dict | None = field(default=None, compare=False, repr=False)
    unseen: str = field(default="", compare=False, repr=False)

    def __getstate__(self):  # skops calls no function, as a pickle does
        return {"args": self.__reduce__()[1]}

    def __setstate__(self, state):
        self.__dict__.update(vars(_recall(*state["args"])))

    def __reduce__(self):
        state = self.fingerprint, self.unseen
        if self.name and self.pipeline is not None:
            state = fingerprint(self.pipeline), unseen(self.pipeline)
        return _recall, (self.token, self.name, self.dtype, *state)


def _recall(token, name, dtype, *state):
    return InMemory(token, name, dtype, _in_memory.get(token), *state)


def register_pipeline(pipeline):
    """Register a pipeline object under a token, without keeping it alive.

    Parameters
    ----------
    pipeline : DiffusionPipeline
        The object.

    Returns
    -------
    model : InMemory
    """
    tokens = (token for token, p in list(_in_memory.items()) if p is pipeline)
    token = next(tokens, None) or uuid4().hex
    _in_memory[token] = pipeline
    dtype = str(pipeline.dtype).removeprefix("torch.")
    name = str(pipeline.name_or_path or "")
    if name and Path(name).is_dir():  # other processes may have other working folders
        name = str(Path(name).absolute())
    return InMemory(token, name, dtype, pipeline)


def pack_model(model):
    """The form of a `model` parameter in a pickle: never its weights.

    Parameters
    ----------
    model : str, Path, DiffusionPipeline, InMemory or Backbone
        The estimator's parameter.

    Returns
    -------
    model : str, Path, InMemory or Backbone
    """
    return register_pipeline(model) if is_pipeline(model) else model


def unpack_model(model):
    """The reverse of :func:`pack_model`.

    Parameters
    ----------
    model : str, Path, InMemory or Backbone
        What was in the pickle.

    Returns
    -------
    model : str, Path, DiffusionPipeline, InMemory or Backbone
        A pipeline is itself in its own process; elsewhere an InMemory stands for it.
    """
    return (isinstance(model, InMemory) and model.pipeline) or model


def describe(model):
    """Name a `model` parameter in a message.

    Parameters
    ----------
    model : str, Path, DiffusionPipeline or Backbone
        The estimator's parameter.

    Returns
    -------
    name : str
    """
    return repr(str(model)) if isinstance(model, (str, Path)) else type(model).__name__
