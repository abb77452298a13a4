"""Code that a model runs beside its libraries': what it is, and what it may change."""

import dis
import functools
import sys
from itertools import pairwise
from types import CodeType, FunctionType

from diffusion_sklearn.backbones._checksums import digest

LIBRARIES = {
    *("torch", "diffusers", "transformers", "peft", "accelerate", "torchao", "optimum"),
    *("bitsandbytes", "tokenizers", "huggingface_hub", "numpy", "diffusion_sklearn"),
    *sys.stdlib_module_names - {"__main__"},
}
"""Packages whose code is taken as it is; only the code of other packages is read."""


@functools.cache
def is_library(module):
    """Whether the module of this name is of a library."""
    return str(module).partition(".")[0] in LIBRARIES


def is_of_library(function):
    """Whether a function was defined by a library, whatever its name says."""
    function = getattr(function, "__func__", function)
    module = getattr(function, "__globals__", {}).get("__name__")
    return is_library(module or function.__module__ or "builtins")


def code_digest(code):
    """Digest of what a function does, whatever file and line it is in."""
    constants = [
        code_digest(c)
        if isinstance(c, CodeType)
        else sorted(map(repr, c))  # its order depends on the process
        if isinstance(c, frozenset)
        else c
        for c in code.co_consts
    ]
    return digest(repr((code.co_code, code.co_names, constants)).encode())


def globals_of(function):
    """Values of its module that a function may use."""
    known, module = function.__globals__, function.__module__
    names, codes = {}, [function.__code__]
    for code in codes:  # grows by the functions inside
        names |= dict.fromkeys(code.co_names)
        codes += [c for c in code.co_consts if isinstance(c, CodeType)]
    values = [known[name] for name in names if name in known]
    return [v for v in values if getattr(v, "__module__", module) == module]


def only_watches(hook):
    """Whether a forward hook changes nothing, as far as its code shows.

    It returns None, or what ``append`` returns, and changes no value in place. Those of
    libraries collect outputs, or compute a weight from others of the module.
    """
    hook = getattr(hook, "__func__", hook)
    if not isinstance(hook, FunctionType):
        module = type(hook).__module__
        return is_library(module) and module != "functools"  # a partial
    if is_of_library(hook):
        return True
    steps = [step for step in dis.get_instructions(hook) if step.opname != "CACHE"]
    names = [
        step.argval for step in steps if step.opname in ("LOAD_ATTR", "LOAD_METHOD")
    ]
    stores = any(
        step.opname in ("STORE_SUBSCR", "STORE_SLICE")
        or (step.opname == "STORE_FAST" and before.argrepr.endswith("="))
        for before, step in pairwise(steps)
    )
    if stores or any(name.endswith("_") for name in names):
        return False
    results = [step.argval for step in steps if step.opname == "RETURN_CONST"] + [
        before.argval if before.opname == "LOAD_CONST" else before.opname
        for before, step in pairwise(steps)
        if step.opname == "RETURN_VALUE"
    ]
    jumps = any("JUMP" in step.opname for step in steps)
    appends = names[:1] == ["append"] and results == ["CALL"] and not jumps
    return appends or set(results) == {None}
