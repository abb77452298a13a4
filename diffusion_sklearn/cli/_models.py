"""The command ``models``."""

import json
from importlib.resources import files
from pathlib import Path

from huggingface_hub import scan_cache_dir
from huggingface_hub.errors import CacheNotFound

from diffusion_sklearn.backbones._loading import families
from diffusion_sklearn.cli._output import format_bytes, print_json, print_table

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
    shown = [row | {"bytes": format_bytes(row["bytes"])} for row in rows]
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
    bundled = sorted(Path(str(files("diffusion_sklearn.bundled"))).iterdir())
    sizes = {
        folder: sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        for folder in bundled
    }
    models = [(folder.name, folder, sizes[folder], "bundled") for folder in bundled]
    try:
        repos = scan_cache_dir().repos
    except CacheNotFound:
        repos = ()
    for repo in sorted(repos, key=lambda repo: repo.repo_id):
        for revision in repo.revisions if repo.repo_type == "model" else ():
            at = "" if "main" in revision.refs else f"@{revision.commit_hash}"
            name, size = f"{repo.repo_id}{at}", revision.size_on_disk
            models.append((name, revision.snapshot_path, size, "cache"))
    rows = []
    for name, folder, size, place in models:
        kind, family = _kind_and_family(folder)
        if kind is not None:
            row = {"name": name, "kind": kind, "family": family}
            rows.append(row | {"bytes": size, "from": place})
    return rows


def _kind_and_family(folder):
    """What a model can be used as, None: nothing; and the class of it."""
    if (folder / "open_clip_config.json").is_file():
        return "CLIP", "open_clip"
    index, config = folder / "model_index.json", folder / "config.json"
    if index.is_file():
        name = json.loads(index.read_text("utf-8")).get("_class_name")
        backbone = families().get(name if isinstance(name, str) else None)
        return backbone and KINDS[backbone.kind], name
    if not config.is_file():
        return None, None
    config = json.loads(config.read_text("utf-8"))
    name = (config.get("architectures") or [None])[0]
    if config.get("model_type") in CONTRASTIVE:
        return "CLIP", name
    if str(name).endswith("ForImageClassification"):
        return "supervised network", name
    return None, None
