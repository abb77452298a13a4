"""Families of models, each a subclass of Backbone, and the models that ship."""

import inspect
import re
import warnings
from difflib import SequenceMatcher
from importlib import import_module
from pkgutil import iter_modules

from diffusion_sklearn.backbones._base import Backbone
from diffusion_sklearn.backbones._sources import list_bundled

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
    raise unsupported(type(pipeline).__name__, parts)


def unsupported(name, parts):
    """The error for a pipeline class of no supported family.

    Parameters
    ----------
    name : str or None
        Of the class.
    parts : list of str
        Classes of its parts.

    Returns
    -------
    error : ValueError
    """
    by_name, advice = families(), ""
    for part in ("Inpaint", "ControlNet", "Adapter", "Upscale", "Pix2Pix", "Fill"):
        if part in str(name):
            advice = (
                f" {name} needs an image beside the prompt; pass the text-to-image "
                "model that it was made from."
            )
    nearest = _nearest(str(name), parts, by_name)
    return ValueError(
        f"Models of class {name} are not supported; pass a model of one of "
        f"{', '.join(sorted(by_name))}, or a bundled one ({list_bundled(BUNDLED)})."
        f"{advice} The nearest of these is {nearest}. A Backbone for another class is "
        f"a short file: derive it from {by_name[nearest].__name__} or Backbone, with "
        f"pipelines = ({str(name)!r},) and the methods condition, null_condition and "
        "forward; see 'Writing a Backbone' in the documentation."
    )


def _nearest(name, parts, names):
    """The supported class that is most like another, by its name and its parts."""
    import diffusers

    def likeness(other):
        cls = getattr(diffusers, other, object)
        types = re.findall(r"\w+", str(inspect.signature(cls.__init__)))
        shared = len(set(parts).intersection(types)) / (len(parts) or 1)
        return shared + SequenceMatcher(None, name, other).ratio()

    return max(sorted(names), key=likeness)
