"""Where pretrained weights come from: the package, a folder, the cache, the Hub."""

import re
import sys
import threading
import warnings
from contextlib import contextmanager
from difflib import get_close_matches
from importlib.resources import files
from pathlib import Path
from weakref import WeakKeyDictionary

import torch
from huggingface_hub.constants import HF_HUB_OFFLINE
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import logging as hub_logging

HUB_URL = re.compile(
    r"https?://(?:www\.)?(?:huggingface\.co|hf\.co)/(?P<name>[^/?#]+/[^/?#]+)"
    r"(?:/tree/(?P<revision>[^?#]+?))?/?"
)

_loaded = {}  # key -> (state of the files, model)
_derived = WeakKeyDictionary()  # owner -> {slot: (key, what was made)}
READ = {".json", ".safetensors", ".bin", ".ckpt", ".pt", ".txt", ".model", ".jinja"}
"""Kinds of files that a model is read from."""
_lock = threading.RLock()


def get_or_load(name, key, load, config=None):
    """Load a model at the first call of the process, and return it at all others.

    Where its files have changed since, the model is loaded anew.

    Parameters
    ----------
    name : str
        Bundled name, folder, file or Hub id.
    key : hashable
        Revision, device and dtype.
    load : callable
        Without arguments; returns the model.
    config : str, default=None
        Folder or Hub id that the configs are read from; None: `name`.

    Returns
    -------
    model : object
    """
    with _lock:
        files, key = _state_of_files(name), (name, key)
        files |= {} if config is None else _state_of_files(config)
        before, _ = _loaded.get(key, (None, None))
        if key not in _loaded or (files and files != before):
            _loaded.pop(key, None)  # two may not fit into memory
            _loaded[key] = files, load()
        return _loaded[key][1]


def _state_of_files(name):
    """Sizes and times of a model's files; empty where it is no file or folder."""
    path = Path(name)
    paths = [path, *path.glob("*"), *path.glob("*/*")] if path.exists() else []
    stats = {str(p): p.stat() for p in paths if p.suffix in READ and p.is_file()}
    return {
        file: (stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
        for file, stat in stats.items()
    }


def get_or_make(owner, key, make, slot=None):
    """Make something of a loaded model once, for as long as its owner lives.

    Parameters
    ----------
    owner : object
        It is made anew for another owner.
    key : object
        It is made anew, in place of the last, where this differs.
    make : callable
        Without arguments.
    slot : hashable, default=None
        What it is, where an owner has several.

    Returns
    -------
    made : object
    """
    with _lock:
        slots = _derived.setdefault(owner, {})
        if slot not in slots or slots[slot][0] != key:
            slots.pop(slot, None)  # two may not fit into memory
            slots[slot] = key, make()
        return slots[slot][1]


def clear_cache():
    """Release the models loaded so far, to free their memory.

    Estimators stay usable: they load their model again at the next call.

    Examples
    --------
    >>> from diffusion_sklearn import clear_cache, load_backbone
    >>> backbone = load_backbone("fashion-dit")
    >>> load_backbone("fashion-dit") is backbone  # loaded once a process
    True
    >>> clear_cache()
    >>> load_backbone("fashion-dit") is backbone
    False
    """
    with _lock:
        _loaded.clear()
        _derived.clear()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def resolve_name(model, bundled):
    """Tell a folder, a file and a Hub id from each other.

    Parameters
    ----------
    model : str or Path
        As the user passed it. A Hub id may end in ``@revision``, or be the address of
        its page.
    bundled : dict of str to str
        Models that ship with the package.

    Returns
    -------
    name : str
        Bundled name, absolute folder or file, or Hub id.
    revision : str or None
    """
    name, revision = str(model), None
    path, page = Path(name).expanduser(), HUB_URL.fullmatch(name)
    if page:
        name, revision = page["name"], page["revision"]
    elif name not in bundled and path.exists():
        name = str(path.absolute())
    elif name not in bundled:
        name, _, revision = name.partition("@")
    return name, revision or None


def load_pretrained(name, revision, read, bundled, save_with):
    """Load from the package, a folder, the local cache, then the Hub.

    Parameters
    ----------
    name : str
        Bundled name, folder or Hub id.
    revision : str or None
        Branch, tag or commit on the Hub.
    read : callable
        Called with the folder or Hub id, and a dict of how to reach the Hub that is
        empty for a folder.
    bundled : dict of str to str
        Models that ship with the package, and what each is.
    save_with : str
        How a folder is saved, for the error.

    Returns
    -------
    loaded : object
        What `read` returned.

    Raises
    ------
    OSError
        If the model can't be had; the message says what was tried.
    """
    folder = Path(name).expanduser()
    if name in bundled:
        source, tried = str(files("diffusion_sklearn.bundled") / name), []
        attempts = [("the bundled model", {})]
    elif folder.is_dir():
        source, tried = str(folder), []
        attempts = [("the local folder", {})]
    elif name.count("/") != 1 or name[0] in "./~":
        source, attempts, cause = name, [], None
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
            return read(source, how)
        except (OSError, HFValidationError, HTTPError) as error:
            tried.append(f"{place} {_explain(error, name, how)}")
            cause = error
    at = f" at revision {revision!r}" if revision else ""
    near = get_close_matches(name, bundled, n=1)
    instead = f"pass a local folder saved by {save_with}"
    if bundled:
        instead += (
            f", or a bundled model that needs no download: {list_bundled(bundled)}"
        )
    raise OSError(
        f"model={name!r}{at} can't be loaded"
        + (f" (did you mean {near[0]!r}?)" if near else "")
        + f": {'; '.join(tried)}. Check the name and the network, {instead}."
    ) from cause


def _explain(error, name, how):
    """Why a model could not be read, with what the Hub says and what to do."""
    chain = [error]  # transformers wraps what the Hub's client raises
    while following := chain[-1].__cause__ or chain[-1].__context__:
        chain.append(following)
    answer = next((e for e in chain if isinstance(e, HfHubHTTPError)), None)
    reason = " ".join(str(answer or error).split()) or type(error).__name__
    reason = f"says: {reason.rstrip('.')}"
    if answer is None:
        if not any(isinstance(e, LocalEntryNotFoundError) for e in chain):
            return reason
        missing = how.get("local_files_only") or HF_HUB_OFFLINE
        return "lacks it" if missing else "can not be reached"
    login = "log in with `hf auth login` or set HF_TOKEN"
    status = answer.response.status_code
    if isinstance(answer, GatedRepoError):
        page = f"https://huggingface.co/{name}"
        return f"{reason} (gated: ask for access at {page}, then {login})"
    if isinstance(answer, RevisionNotFoundError):
        return f"{reason} (it has no such revision: see the model's list of branches)"
    if isinstance(answer, RepositoryNotFoundError):
        return f"{reason} (no such model, or a private one: {login})"
    if status == 429:
        return f"{reason} (too many requests: wait some minutes, or {login})"
    if status >= 500:
        return f"{reason} (an error of the server: try again later)"
    return reason


def list_bundled(bundled):
    """Name the bundled models in a message.

    Parameters
    ----------
    bundled : dict of str to str
        Models, and what each is.

    Returns
    -------
    text : str
    """
    return ", ".join(f"{name!r} ({kind})" for name, kind in bundled.items())


@contextmanager
def quiet():
    """Silence the bars and the advice of the Hub's libraries while they load."""
    names = "diffusers.utils.logging", "transformers.utils.logging"
    logs = [sys.modules[name] for name in names if name in sys.modules] + [hub_logging]
    bars = [log for log in logs if getattr(log, "is_progress_bar_enabled", bool)()]
    before = [log.get_verbosity() for log in logs]
    try:
        for log in bars:
            log.disable_progress_bar()
        for log in logs:
            log.set_verbosity_error()
        with warnings.catch_warnings():
            # diffusers tells all users of quanto to go elsewhere, twice.
            warnings.filterwarnings("ignore", ".Quanto.* deprecated", FutureWarning)
            yield
    finally:
        for log in bars:
            log.enable_progress_bar()
        for log, verbosity in zip(logs, before, strict=True):
            log.set_verbosity(verbosity)
