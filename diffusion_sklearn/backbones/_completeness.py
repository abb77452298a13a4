"""Whether a checkpoint is complete: weights, their keys, and tokenizer files."""

import json
import re
from pathlib import Path

import torch
from huggingface_hub import (
    HfApi,
    get_cached_repo_tree,
    hf_hub_download,
    snapshot_download,
)
from huggingface_hub.errors import CachedRepoTreeNotFoundError

from diffusion_sklearn.backbones._checksums import is_empty
from diffusion_sklearn.backbones._tokens import tokenizer_of

WEIGHTS = re.compile(
    r"(?:diffusion_pytorch_model|pytorch_model|model)"
    r"(?:\.(?P<variant>[^./]+?))?(?:-\d+-of-\d+)?(?:\.(?P<older>[^./]+))?"
    r"\.(?P<kind>safetensors|bin)"
)
"""A file with weights. diffusers also writes the variant after the shard's number."""

TEXT_FILES = "*.json", "*.txt", "*.model", "*.jinja"
"""Files of a repository that are neither weights nor code."""


def list_files(source, how, file):
    """Names of the files of a checkpoint.

    Parameters
    ----------
    source : str
        Folder or Hub id.
    how : dict
        How to reach the Hub; empty for a folder.
    file : str
        One that every checkpoint of its kind has; it is downloaded.

    Returns
    -------
    folder : Path
        Where the files are, or will be once they are downloaded.
    names : list of str
        Relative to it, those on the Hub that are not downloaded included.

    Raises
    ------
    OSError
        If there is no such file.
    """
    folder = Path(source)
    if how:
        folder = Path(hf_hub_download(source, file, **how)).parent
        if not how.get("local_files_only"):
            return folder, HfApi().list_repo_files(source, revision=how["revision"])
        try:
            tree = get_cached_repo_tree(source, revision=how["revision"])
            return folder, [entry.path for entry in tree]
        except CachedRepoTreeNotFoundError:
            pass  # downloaded file by file
    elif not (folder / file).is_file():
        raise OSError(f"there is no {file}")
    return folder, [
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file()
    ]


def fetch(source, how):
    """A checkpoint of one module; from the Hub, only the files that are needed.

    Parameters
    ----------
    source : str
        Folder or Hub id.
    how : dict
        How to reach the Hub; empty for a folder.

    Returns
    -------
    folder : Path
    options : dict
        As of :func:`choose_weights`.
    """
    if not how and not (Path(source) / "config.json").is_file():
        raise OSError("there is no config.json with a model_type")
    folder, names = list_files(source, how, "config.json")
    options, files = choose_weights(names, "", None)
    download(source, how, [*TEXT_FILES, *files])
    return folder, options


def download(source, how, patterns):
    """Download files of a repository, if they are to be had from the Hub.

    Parameters
    ----------
    source : str
        Folder or Hub id.
    how : dict
        How to reach the Hub; empty for a folder.
    patterns : list of str
        Names of the files.
    """
    if how and not how.get("local_files_only"):
        snapshot_download(source, allow_patterns=patterns, **how)


def choose_weights(names, part, variant):
    """Choose between the files with the weights of a part.

    Parameters
    ----------
    names : list of str
        Files of the checkpoint.
    part : str
        Folder of the part; "" for the checkpoint's own.
    variant : str or None
        As the user passed it. None: the files without a variant, or else those of
        the only one that there is.

    Returns
    -------
    options : dict
        ``variant`` and ``use_safetensors`` of ``from_pretrained``.
    files : list of str
        The files with these weights.

    Raises
    ------
    OSError
        If there are none, or of several variants.
    """
    prefix, files = f"{part}/" if part else "", {}
    for name in names:
        match = WEIGHTS.fullmatch(name.removeprefix(prefix))
        if name.startswith(prefix) and match:
            key = match["variant"] or match["older"], match["kind"]
            files.setdefault(key, []).append(name)
    variants = {of for of, _ in files}
    if variant not in variants:
        variant = None
    if variant is None and None not in variants:
        if len(variants) != 1:
            there = f"only the variants {sorted(variants)}: pass variant="
            raise OSError(
                f"{prefix or 'it'} has {there if variants else 'no weights'} "
                "(safetensors or bin)"
            )
        (variant,) = variants
    safe = (variant, "safetensors") in files
    kind = "safetensors" if safe else "bin"
    return {"variant": variant, "use_safetensors": safe}, files[variant, kind]


def read_weights(cls, folder, part, options):
    """Read a part with weights; raise if any of them is missing or unexpected.

    Weights in ``.bin`` files are read by torch's weights-only unpickler.

    Parameters
    ----------
    cls : type
        Of diffusers or transformers.
    folder : Path
        The checkpoint.
    part : str
        Folder of the part; "" for the checkpoint's own.
    options : dict
        For ``cls.from_pretrained``.

    Returns
    -------
    module : Module

    Raises
    ------
    OSError
        If it can't be read or is incomplete; the message names the keys.
    """
    if not (folder / part / "config.json").is_file():  # transformers takes defaults
        raise OSError(f"{part}: there is no config.json")
    told = {"output_loading_info": True, "ignore_mismatched_sizes": True}
    module, info = read(cls, folder, part, subfolder=part, **told, **options)
    wrong = {
        kind: sorted(map(str, info[f"{kind}_keys"]))
        for kind in ("missing", "unexpected", "mismatched")
    }
    # The readers of quantized weights do not tell which are missing.
    tensors = *module.named_parameters(), *module.named_buffers()
    wrong["missing"] = wrong["missing"] or [k for k, of in tensors if is_empty(of)]
    # Positions are counted, not learned; older versions saved them.
    wrong["unexpected"] = [
        key for key in wrong["unexpected"] if not key.endswith("position_ids")
    ]
    check_keys(folder / part, wrong)
    return module


def check_keys(file, wrong):
    """Raise if keys of weights are wrong.

    Parameters
    ----------
    file : Path
        Where the weights are.
    wrong : dict of str to list of str
        Keys by what is wrong with them.

    Raises
    ------
    OSError
        If there are any.
    """
    listed = "; ".join(
        f"{len(keys)} {kind} ({', '.join(keys[:3])}{', ...' if len(keys) > 3 else ''})"
        for kind, keys in wrong.items()
        if keys
    )
    if listed:
        raise OSError(f"the weights in {file} have wrong keys: {listed}")


def read_tokenizer(cls, folder, part):
    """Read a tokenizer; raise if a file that it needs is missing.

    Parameters
    ----------
    cls, folder, part
        As for :func:`read_weights`.

    Returns
    -------
    tokenizer : PreTrainedTokenizerBase

    Raises
    ------
    OSError
        If it can't be read or is incomplete; the message names the files.
    """
    _check_files(folder / part, getattr(cls, "vocab_files_names", {}))
    tokenizer = read(cls, folder, part, subfolder=part)
    check_tokenizer(tokenizer_of(tokenizer), folder / part)
    return tokenizer


def check_tokenizer(tokenizer, folder):
    """Raise if a file of a tokenizer is missing: transformers makes an empty one.

    Parameters
    ----------
    tokenizer : PreTrainedTokenizerBase
    folder : Path
        The tokenizer's.

    Raises
    ------
    OSError
        If a file is missing, or there are no words.
    """
    _check_files(folder, tokenizer.vocab_files_names)
    if len(tokenizer) <= len(tokenizer.all_special_ids):
        raise OSError(f"the tokenizer in {folder} has an empty vocabulary")


def _check_files(folder, vocabulary):
    files = ["tokenizer_config.json"]
    if vocabulary and not (folder / "tokenizer.json").is_file():
        parts = [name for key, name in vocabulary.items() if key != "tokenizer_file"]
        if not parts and not any(folder.glob("*.model")):  # of sentencepiece
            parts = ["tokenizer.json"]
        files += parts
    missing = [name for name in files if not (folder / name).is_file()]
    if missing:
        raise OSError(f"the tokenizer in {folder} lacks {', '.join(missing)}")


def read_json(file):
    """Read a JSON file with an object.

    Parameters
    ----------
    file : Path
        The file.

    Returns
    -------
    content : dict

    Raises
    ------
    OSError
        If it can't be read, or holds something else.
    """
    try:
        content = json.loads(file.read_text("utf-8"))
    except ValueError as error:  # of JSON, or of UTF-8
        raise OSError(f"{file} is damaged: {error}") from error
    if not isinstance(content, dict):
        raise OSError(f"{file} is damaged: it holds no JSON object")
    return content


def read(cls, source, part, method="from_pretrained", **options):
    """Read a part of a checkpoint; an OSError if it can't be read.

    Parameters
    ----------
    cls : type
        With that method.
    source : Path or str
        The checkpoint.
    part : str
        Name of the part, for the error.
    method : str
        Of the class.
    **options : object
        For it.

    Returns
    -------
    part : object

    Raises
    ------
    OSError
        Whatever the library raised, memory errors excepted.
    """
    try:
        return getattr(cls, method)(source, **options)
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # libraries raise some ten kinds for damaged files
        reason = " ".join(str(error).split()) or "no reason given"
        at = f"{part}: " if part else ""
        raise OSError(f"{at}{type(error).__name__}: {reason}") from error
