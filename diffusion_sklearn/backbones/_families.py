"""Families of models, each a subclass of Backbone, and the models that ship."""

import warnings
from importlib import import_module
from pkgutil import iter_modules

from diffusion_sklearn.backbones._attachments import unsupported
from diffusion_sklearn.backbones._base import Backbone

BUNDLED = {"fashion-dit": "class-conditional", "fashion-scenes": "text-to-image"}
"""Models that ship with the package, and what each is."""


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
    return {name: cls for cls in with_subclasses(Backbone) for name in cls.pipelines}


def with_subclasses(cls):
    """A class and all that are derived from it, parents first."""
    classes = [cls]
    for one in classes:
        classes += one.__subclasses__()
    return classes


def make_backbone(pipeline, spec):
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
