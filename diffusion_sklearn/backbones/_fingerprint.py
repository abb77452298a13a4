"""Fingerprints: what tells a model from every other, and from itself after a change."""

import functools
from collections.abc import Mapping
from types import CellType, FunctionType, MethodType
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch.nn.modules import module as global_hooks

from diffusion_sklearn.backbones._checksums import checksums, digest, is_empty
from diffusion_sklearn.backbones._devices import modules_of
from diffusion_sklearn.backbones._tokens import tokenizer_of
from diffusion_sklearn.backbones._user_code import (
    code_digest,
    globals_of,
    is_library,
    is_of_library,
    only_watches,
)

UNUSED = {"safety_checker", "feature_extractor", "image_encoder", "watermarker"}
"""Parts of a pipeline that classify nothing: they are not loaded."""
UNREAD = {
    *vars(torch.nn.Module()),
    *("config", "peft_config", "generation_config", "gradient_checkpointing"),
    *("dtype", "torch_dtype", "architectures", "transformers_version"),
    *("hf_device_map", "hf_quantizer", "quantization_config", "extra_repr"),
    *(
        "name_or_path",
        "image_processor",
        "requires_safety_checker",
        "default_sample_size",
    ),
    *("id2label", "labels"),
    "freqs_cis",  # of axes_dims, at first use
}
"""Attributes and settings that change no output, or that are read elsewhere."""
PRIVATE = {
    *("_internal_dict", "_cache_config", "_diffusers_hook", "_attention_backend"),
    *("_active_adapter", "_disable_adapters"),
}
"""Private attributes of classes of a library that count; of other classes all do."""
SAME_ATTENTION = None, "eager", "sdpa", "flash_attention_2", "flex_attention"
"""Implementations of transformers' attention that agree up to rounding."""


def fingerprint(pipeline):
    """Tell a pipeline from every other, and from itself after a change.

    It covers, of each part, the class, the weights and buffers, the config and all
    plain attributes of its modules: adapters with their state and scale, attention
    processors, enabled caches and switches such as FreeU; the class, the config and
    the noise schedule of the scheduler; the vocabulary of tokenizers. It is the same
    on every device, for a pipeline in memory and after it was saved and loaded.

    Parameters
    ----------
    pipeline : diffusers.DiffusionPipeline
        The pipeline.

    Returns
    -------
    fingerprint : dict of str to str
        A digest of each part, by its name, and of the pipeline itself.

    Notes
    -----
    All weights are read each time, on their device, since neither an edit through
    ``.data`` nor one through NumPy leaves a trace: about a third of a second for each
    gigabyte on a core of a CPU; on a GPU, which was not measured, it takes a few passes
    through its memory. A module takes about 20 microseconds more. There is a checksum
    of 64 bits for every 64 KiB of weights, which depends on their order; it is no proof
    against forgery.
    """
    return {name: part.digest() for name, part in _read(pipeline).items()}


def unseen(pipeline):
    """Name what changes the output of a pipeline and is not in its fingerprint.

    Parameters
    ----------
    pipeline : diffusers.DiffusionPipeline
        The pipeline.

    Returns
    -------
    unseen : str
        Such as "a forward hook on unet.mid_block"; "" where there is nothing. A hook
        that returns None is taken to change nothing.
    """
    seen = [name for part in _read(pipeline).values() for name in part.unseen]
    anywhere = (
        *global_hooks._global_forward_hooks.values(),
        *global_hooks._global_forward_pre_hooks.values(),
    )
    if not all(map(only_watches, anywhere)):
        seen.append("a forward hook on all modules")
    return ", ".join(dict.fromkeys(seen))


def wrapped_modules(pipeline):
    """Name the modules whose ``forward`` was replaced, as offloading and caches do.

    Parameters
    ----------
    pipeline : diffusers.DiffusionPipeline
        The pipeline.

    Returns
    -------
    names : str
        Names of modules; "" where there are none. A copy would run the original's.
    """
    names = []
    for name, part in modules_of(pipeline).items():
        if name in UNUSED:
            continue
        for path, module in part.named_modules():
            forward = vars(module).get("forward")
            if forward is not None and getattr(forward, "__self__", None) is not module:
                names.append(f"{name}.{path}".rstrip("."))
    return ", ".join(names)


def changed_parts(one, other):
    """Name the parts of a pipeline in which two fingerprints differ.

    Parameters
    ----------
    one, other : dict of str to str
        What :func:`fingerprint` returned.

    Returns
    -------
    names : str
        Such as "scheduler, unet"; "" if the fingerprints are the same.
    """
    names = sorted(one.keys() | other.keys())
    return ", ".join(name for name in names if one.get(name) != other.get(name))


def _read(pipeline):
    """Everything that tells a pipeline from others, as a dict of _Part."""
    components = pipeline.components
    attributes = {
        name: value for name, value in vars(pipeline).items() if name not in components
    }
    config = {k: v for k, v in pipeline.config.items() if k not in components}
    own = _Part("pipeline")
    own.add(pipeline, "pipeline", {**attributes, "_internal_dict": config})
    parts = {"pipeline": own}
    for name, value in components.items():
        if value is None or name in UNUSED:
            continue
        part = parts[name] = _Part(name)
        if isinstance(value, torch.nn.Module):
            part.add_modules(value)
        elif hasattr(value, "get_vocab") or hasattr(value, "tokenizer"):
            part.add_tokenizer(value)
        else:  # a scheduler, without the state that sampling leaves
            settings = {
                "_internal_dict": getattr(value, "config", {}),
                "alphas_cumprod": getattr(value, "alphas_cumprod", None),
            }
            part.add(value, name, settings)
    return parts


class _Part:
    """Text and tensors of a part of a pipeline, and what they do not show."""

    def __init__(self, name):
        self.name, self.lines, self.tensors, self.unseen = name, [], [], []
        self._texts = {}  # id of a value -> the value, which it keeps alive, its text
        self._configs = {}  # the same of the configs of transformers, as dicts
        self._methods = {}  # class -> text of the functions that it defines itself

    def digest(self):
        return digest("\n".join(self.lines).encode() + checksums(self.tensors))

    def add_modules(self, root):
        # A module in two places has two names.
        for path, module in root.named_modules(remove_duplicate=False):
            if hasattr(module, "_orig_mod"):  # made by torch.compile, around another
                continue
            names = [self.name, *path.split(".")]
            path = ".".join(n for n in names if n not in ("", "_orig_mod"))
            attributes = {**vars(module), **_tensors(module)}
            # An attention cache leaves these behind when it is disabled.
            if not getattr(attributes.get("_diffusers_hook"), "hooks", None):
                attributes["_diffusers_hook"] = None
            for name in ("forward", "_old_forward"):
                forward = attributes.pop(name, None)
                function = getattr(forward, "func", getattr(forward, "__func__", None))
                # That of accelerate moves weights and inputs from device to device.
                if function is not type(module).forward and (
                    getattr(function, "__module__", "") != "accelerate.hooks"
                ):
                    attributes[name.strip("_")] = forward
            config = attributes.get("config")
            if hasattr(config, "to_dict"):  # of transformers, shared by many modules
                if id(config) not in self._configs:
                    settings = config.to_dict()
                    implementation = getattr(config, "_attn_implementation", None)
                    if implementation not in SAME_ATTENTION:
                        settings["attention"] = implementation
                    self._configs[id(config)] = config, settings
                attributes["_internal_dict"] = self._configs[id(config)][1]
            self.add(module, path, attributes)
            hooks = *module._forward_hooks.values(), *module._forward_pre_hooks.values()
            if not all(map(only_watches, hooks)):
                self.unseen.append(f"a forward hook on {path}")

    def add_tokenizer(self, tokenizer):
        # Its other settings are changed by some pipelines' encode_prompt.
        chat_template = getattr(tokenizer, "chat_template", None)
        tokenizer = tokenizer_of(tokenizer)
        settings = {
            "length": tokenizer.model_max_length,
            "vocabulary": _vocabulary(tokenizer),
            "chat_template": chat_template,
        }
        self.add(tokenizer, self.name, settings)

    def add(self, value, path, attributes):
        """Add a line for an object and for each of its attributes."""
        self.lines.append(f"{path}: {self._class(type(value))}")
        for name, attribute in _that_count(attributes, type(value)).items():
            if attribute is not None:
                self.lines.append(f"{path}.{name}={self._text(attribute, path, name)}")

    def _text(self, value, path, name):
        """A value in words; its tensors are put aside for their checksum."""
        if value is None or isinstance(value, bool | int | float | str | torch.dtype):
            return repr(value)
        if id(value) not in self._texts:
            self._texts[id(value)] = value, "itself"  # where it has itself inside
            text = again = self._text_of_object(value, path, name)
            if isinstance(value, torch.Tensor):
                again = f"{text} of {path}.{name}"  # tells which tensors are one
            self._texts[id(value)] = value, again
            return text
        return self._texts[id(value)][1]

    def _text_of_object(self, value, path, name):
        if isinstance(value, torch.Tensor):
            if is_empty(value):
                self.unseen.append(f"the offloaded {name} of {path}")
            self.tensors.append(value)
            kind = getattr(value, "quant_type", "")  # of GGUF
            if hasattr(value, "__tensor_flatten__"):  # of torchao and quanto
                _, settings = value.__tensor_flatten__()
                kind = f"{self._class(type(value))} {self._text(settings, path, name)}"
            return f"{value.dtype} {tuple(value.shape)} {kind}".rstrip()
        if isinstance(value, np.ndarray):
            return f"{value.dtype} {value.shape} {digest(np.ascontiguousarray(value))}"
        if isinstance(value, Mapping):
            is_config, texts = name == "_internal_dict", {}
            for k, v in value.items():
                if is_config and (k in UNREAD or str(k)[0] == "_"):
                    continue
                # A config may hold others, as that of an encoder of images and text.
                inside = name if is_config and isinstance(v, Mapping) else k
                texts[str(k)] = self._text(v, path, inside)
            return repr(sorted(texts.items()))
        if isinstance(value, list | tuple):
            return repr([self._text(v, path, name) for v in value])
        if isinstance(value, set | frozenset):
            return repr(sorted(self._text(v, path, name) for v in value))
        if isinstance(value, functools.partial):
            inside = [value.func, value.args, value.keywords]
            return self._text(inside, path, name)
        if isinstance(value, type):
            return self._class(value)
        if callable(value) and hasattr(value, "__qualname__"):  # a function
            if not is_of_library(value):
                self.unseen.append(f"the function {name} of {path}")
            return f"{value.__module__}.{value.__qualname__}"
        text = self._class(type(value))
        # The state of an enabled cache changes with every call.
        states = "StateManager", "HookFunctionReference"
        if isinstance(value, torch.nn.Module) or type(value).__name__ in states:
            return text
        attributes = _that_count(getattr(value, "__dict__", {}), type(value))
        return f"{text} {self._text(attributes, path, name)}"

    def _class(self, cls):
        """Name of a class; with its code, where it is of no library."""
        if id(cls) not in self._texts:
            text = f"{cls.__module__}.{cls.__qualname__}"
            self._texts[id(cls)] = cls, text  # where its code names it
            self._texts[id(cls)] = cls, text + "".join(map(self._own_code, cls.__mro__))
        return self._texts[id(cls)][1]

    def _own_code(self, cls):
        """The code of a class, without its parents', where it is of no library."""
        if cls not in self._methods:
            text, of_library = "", is_library(cls.__module__)
            for name, value in vars(cls).items():
                value = getattr(value, "__func__", value)
                is_function = isinstance(value, FunctionType)
                if not of_library and isinstance(value, property):
                    text += f" {name}={self._used([value.fget])}"
                elif not of_library and (is_function or name[:2] != "__"):
                    text += f" {name}={self._used([value])}"
                elif is_function and not is_of_library(value):
                    self.unseen.append(f"a changed {cls.__qualname__}.{name}")
            self._methods[cls] = text
        return self._methods[cls]

    def _function(self, function):
        """The code of a function, and what it uses beside its arguments."""
        if id(function) not in self._texts:
            text = code_digest(function.__code__)
            self._texts[id(function)] = function, text  # where it calls itself
            cells = [cell for cell in function.__closure__ or () if cell != CellType()]
            used = [cell.cell_contents for cell in cells]
            if not is_of_library(function):  # else it wraps one that is not
                used += function.__defaults__ or ()
                used += (function.__kwdefaults__ or {}).values()
                used += globals_of(function)
            self._texts[id(function)] = function, f"{text} {self._used(used)}"
        return self._texts[id(function)][1]

    def _used(self, values):
        """Values that code uses, of those kinds that it does not change itself."""
        texts = []
        for value in values:
            if isinstance(value, FunctionType):
                of_library = is_of_library(value) and not value.__closure__
                texts.append(value.__name__ if of_library else self._function(value))
            elif isinstance(value, type):
                texts.append(self._class(value))
            elif value is None or isinstance(value, bool | int | float | str):
                texts.append(repr(value))
            elif isinstance(value, tuple):
                texts.append(self._used(value))
        return repr(texts)


def _that_count(attributes, cls):
    """Attributes of an object that may change an output."""
    from_library = is_library(cls.__module__)
    return {
        name: value
        for name, value in attributes.items()
        if name not in UNREAD
        if not (from_library and name[0] == "_" and name not in PRIVATE)
        or (
            isinstance(value, FunctionType | MethodType) and not is_of_library(value)
        )  # a method that was replaced
    }


def _tensors(module):
    """Weights and buffers of a module, also those that accelerate keeps elsewhere."""
    tensors = {**module._parameters, **module._buffers}
    stored = getattr(vars(module).get("_hf_hook"), "weights_map", None)
    return {
        # A private buffer counts too.
        f"tensor {name}": stored[name] if tensor.is_meta and stored else tensor
        for name, tensor in tensors.items()
        if tensor is not None
    }


_vocabularies = WeakKeyDictionary()  # tokenizer -> (its added tokens, a digest)


def _vocabulary(tokenizer):
    """Digest of a vocabulary, computed again where tokens were added."""
    added = tokenizer.get_added_vocab()
    if _vocabularies.get(tokenizer, [None])[0] != added:
        vocabulary = sorted(tokenizer.get_vocab().items())
        _vocabularies[tokenizer] = added, digest(repr(vocabulary).encode())
    return _vocabularies[tokenizer][1]
