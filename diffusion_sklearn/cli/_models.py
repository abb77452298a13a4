"""The command ``models``."""

import json
from importlib.resources import files
from pathlib import Path

from huggingface_hub import scan_cache_dir
from huggingface_hub.errors import CacheNotFound
from rich.filesize import decimal

from diffusion_sklearn.backbones._families import families
from diffusion_sklearn.cli._output import print_json, print_table

CONTRASTIVE = ("clip", "siglip", "siglip2")  # model_type of transformers
KINDS = {"text": "text-to-image", "class": "class-conditional"}


def run_models(args):
    """Print the models that need no download.

    Parameters
    ----------
    args : SimpleNamespace
        The parsed arguments.
    """
    rows = list_models()
    if args.json:
        print_json(rows)
        return
    shown = [row | {"bytes": decimal(row["bytes"])} for row in rows]
    columns = ("name", "kind", "family", "size", "from")
    print_table(columns, [tuple(row.values()) for row in shown])


def list_models():
    """Models that ship with the package or are in the cache of the Hub.

    Returns
    -------
    rows : list of dict
        With ``name``, what to pass as `model`; ``kind``; ``family``, the class of the
        pipeline or model; ``bytes`` on disk; ``from``, "bundled" or "cache".
    """
    folders = sorted(Path(str(files("diffusion_sklearn.bundled"))).iterdir())
    models = [(path.name, path, _size(path), "bundled") for path in folders]
    try:
        repos = [repo for repo in scan_cache_dir().repos if repo.repo_type == "model"]
    except CacheNotFound:
        repos = []
    for repo in sorted(repos, key=lambda repo: repo.repo_id):
        for one in repo.revisions:
            at = "" if "main" in one.refs else f"@{one.commit_hash}"
            name = f"{repo.repo_id}{at}"
            models.append((name, one.snapshot_path, one.size_on_disk, "cache"))
    rows = [(name, *_kind_and_family(path), *rest) for name, path, *rest in models]
    columns = ("name", "kind", "family", "bytes", "from")
    return [dict(zip(columns, row, strict=True)) for row in rows if row[1]]


def _size(folder):
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _kind_and_family(folder):
    """Kind of a model, None if it is not supported, and the name of its class."""
    if (folder / "open_clip_config.json").is_file():
        return "CLIP", "open_clip"
    index, config = folder / "model_index.json", folder / "config.json"
    if index.is_file():
        name = str(json.loads(index.read_text("utf-8")).get("_class_name"))
        kind = getattr(families().get(name), "kind", None)
        return KINDS.get(kind), name
    config = json.loads(config.read_text("utf-8")) if config.is_file() else {}
    name = str((config.get("architectures") or [None])[0])
    if name.endswith("ForImageClassification"):
        return "supervised network", name
    return "CLIP" if config.get("model_type") in CONTRASTIVE else None, name
