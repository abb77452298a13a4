"""Read a pipeline from the Hub, a folder or a single file, with nothing missing."""

import sys
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import torch

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
from diffusion_sklearn.backbones._families import (
    BUNDLED,
    families,
    unsupported,
    with_subclasses,
)
from diffusion_sklearn.backbones._fingerprint import UNUSED
from diffusion_sklearn.backbones._single_file import (
    find_config,
    parts_in_file,
    read_network,
    read_whole_file,
)
from diffusion_sklearn.backbones._sources import load_pretrained, quiet


def load_pipeline(spec, dtype):
    """The pipeline of a name, a folder or a file, in the given dtype."""
    save_with = "pipeline.save_pretrained(folder, safe_serialization=True)"
    file = spec.model if Path(spec.model).is_file() else None

    read_from = partial(_read_pipeline, dtype=dtype, variant=spec.variant, file=file)
    if not file:
        return load_pretrained(spec.model, spec.revision, read_from, BUNDLED, save_with)
    config = spec.config or find_config(file)
    try:
        return load_pretrained(config, None, read_from, BUNDLED, save_with)
    except OSError as error:
        raise OSError(
            f"model={file!r} can't be loaded with the configs of {config!r}; "
            f"load_backbone(file, config=...) takes them from elsewhere. {error}"
        ) from error


def _read_pipeline(source, how, dtype, variant, file):
    """Read the parts that are needed, each with its weights complete."""
    import diffusers  # noqa: F401 (parts are of either; before both are silenced)
    import transformers.utils.logging  # noqa: F401 (as diffusers)

    with quiet():
        folder, names = list_files(source, how, "model_index.json")
        index = read_json(folder / "model_index.json")
        cls = _pipeline_class(index)
        # Parts that were left out when it was saved, as the T5 of SD 3 may be.
        parts = {name: None for name, of in index.items() if of == [None, None]}
        parts |= dict.fromkeys(UNUSED & index.keys())
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


def _pipeline_class(index):
    """The class of a ``model_index.json``, of diffusers or written by the user."""
    import diffusers

    name, by_name = index.get("_class_name"), families()
    own = {cls.__name__: cls for cls in with_subclasses(diffusers.DiffusionPipeline)}
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
        raise unsupported(name, parts)
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
