"""Labelled images on disk or on the Hub -> paths, labels and names for prompts."""

import csv
import io
import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.utils import Bunch

from diffusion_sklearn.datasets._specs import SPECS, DatasetSpec, list_datasets
from diffusion_sklearn.images._folders import read_class_folders

NAMES_FILE = "names.tsv"
"""Beside the sub-folders: lines of sub-folder, tab, name of the class."""


def load_dataset(
    name_or_folder,
    *,
    folder=None,
    split=None,
    data_home=None,
    max_images=None,
    class_names=None,
):
    """Load one of the paper's data sets, or a folder of labelled images.

    A folder has one sub-folder for each class, and nothing else is needed to read it.
    Without one, a data set of the paper is read from the Hub by the library
    ``datasets`` and written once to `data_home` as such a folder; the bytes of the
    images are not changed.

    Parameters
    ----------
    name_or_folder : str, Path or DatasetSpec
        One of :func:`list_datasets`, the spec of another data set, or a folder.
    folder : str or Path, default=None
        Where the images of the named data set are on disk; None: the Hub.
    split : str, default=None
        Of the data set on the Hub; None: the one that the paper used.
    data_home : str or Path, default=None
        Where data sets of the Hub are written; None: the environment variable
        ``DIFFUSION_SKLEARN_DATA``, else ``~/.cache/diffusion-sklearn``.
    max_images : int, default=None
        Size of a random sample, drawn with a fixed seed; None: all images.
    class_names : dict of str to str, default=None
        Name of each class, by sub-folder. None: from a file ``names.tsv`` in the
        folder, else the paper's names, else the names of the sub-folders.

    Returns
    -------
    data : :class:`~sklearn.utils.Bunch`
        ``images``, list of Path; ``target`` (n,) str; ``classes`` (k,) str, the sorted
        labels; ``class_names``, list of k str for prompts; ``folder``, a Path;
        ``spec``, a :class:`DatasetSpec`. For "winoground": ``images``, n lists of two,
        ``captions`` (n, 2) str, ``tags`` (n,) str and ``spec``.

    Raises
    ------
    ValueError
        If a name or folder is unknown, or the sub-folders are not those of the data
        set.
    ImportError
        If ``datasets`` is needed and missing.

    Notes
    -----
    The sub-folders of ImageNet-A and ImageNetV2 are synset ids and numbers: pass
    `class_names` or a ``names.tsv``. ImageNet, ObjectNet and Winoground require
    accepting their terms on the Hub first.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from PIL import Image
    >>> from diffusion_sklearn.datasets import load_dataset
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for breed in ("beagle", "maine_coon"):
    ...         (Path(folder) / breed).mkdir()
    ...         Image.new("RGB", (8, 8)).save(f"{folder}/{breed}/1.png")
    ...     mine = load_dataset(folder)  # any folder
    ...     pets = load_dataset("pets", folder=folder)  # one of the paper's data sets
    >>> len(mine.images), mine.target.tolist(), mine.class_names
    (2, ['beagle', 'maine_coon'], ['beagle', 'maine coon'])
    >>> len(pets.class_names), pets.class_names[0], pets.spec.prompt_template
    (37, 'Abyssinian cat', 'a photo of a {}, a type of pet.')
    """
    if max_images is not None and max_images < 1:
        raise ValueError(f"max_images={max_images!r} must be 1 or more.")
    if isinstance(name_or_folder, DatasetSpec):
        spec = name_or_folder
    elif name_or_folder in SPECS:
        spec = SPECS[name_or_folder]
    elif folder is None and Path(name_or_folder).expanduser().is_dir():
        folder, spec = name_or_folder, DatasetSpec(name=Path(name_or_folder).name)
    else:
        raise ValueError(
            f"name_or_folder={str(name_or_folder)!r} is no folder and none of "
            f"{list_datasets()}."
        )
    if folder is None:
        folder = _from_hub(spec, split or spec.split, data_home)
    folder = Path(folder).expanduser()
    if spec.metric == "text score":
        return _read_pairs(folder, spec, max_images)

    images, subfolders, classes = read_class_folders(folder)
    if class_names is None and (folder / NAMES_FILE).is_file():
        class_names = read_table(folder / NAMES_FILE)
    labels, names = _match_classes(classes, spec, class_names)
    sample = _sample(len(images), max_images)
    return Bunch(
        images=[images[k] for k in sample],
        target=np.array([labels[subfolders[k]] for k in sample]),
        classes=np.array(sorted(names)),
        class_names=[names[label] for label in sorted(names)],
        folder=folder,
        spec=spec,
    )


def _match_classes(subfolders, spec, class_names):
    """Label of each sub-folder, and name of each label."""
    names = {sub: sub.replace("_", " ") for sub in subfolders}
    if class_names is not None:
        missing = [sub for sub in subfolders if sub not in class_names]
        if missing:
            raise ValueError(
                f"class_names lacks the sub-folders {missing[:5]!r}; name each class."
            )
        names = {sub: class_names[sub] for sub in subfolders}
    if not spec.labels:
        are_ids = all(re.fullmatch(r"n\d{8}|\d+", sub) for sub in subfolders)
        if class_names is None and are_ids:
            raise ValueError(
                f"The sub-folders {subfolders[:3]!r}, ... are no names; give "
                f"class_names, or a file {NAMES_FILE} beside them with lines of "
                "sub-folder, tab, name."
            )
        return {sub: sub for sub in subfolders}, names
    spec_names = [name.replace("_", " ") for name in spec.class_names or spec.labels]
    label_of = dict(zip(map(_normalize, spec.labels), spec.labels, strict=True))
    label_of |= zip(map(_normalize, spec_names), spec.labels, strict=True)
    unknown = [name for name in names.values() if _normalize(name) not in label_of]
    if unknown:
        raise ValueError(
            f"The sub-folders {unknown[:5]!r} are no classes of {spec.name}, which "
            f"has {', '.join(spec.labels[:5])}, ...; rename them or give class_names."
        )
    labels = {sub: label_of[_normalize(name)] for sub, name in names.items()}
    return labels, dict(zip(spec.labels, spec_names, strict=True))


def _normalize(text):
    return re.sub(r"[^a-z0-9]+", " ", text.lower()).strip()


def _sample(n, max_images):
    if max_images is None or max_images >= n:
        return range(n)
    return np.sort(np.random.RandomState(0).permutation(n)[:max_images])


def read_table(path):
    """Read lines of sub-folder, tab, name.

    Parameters
    ----------
    path : Path

    Returns
    -------
    names : dict of str to str
    """
    with path.open(newline="", encoding="utf-8-sig") as file:
        return {row[0]: row[1] for row in csv.reader(file, delimiter="\t") if row[1:]}


def _read_pairs(folder, spec, max_images):
    """Read Winoground: ``examples.jsonl`` and a folder ``images``."""
    path = folder / "examples.jsonl"
    if not path.is_file():
        raise ValueError(
            f"folder={str(folder)!r} lacks examples.jsonl; it needs a line for each "
            "example, with image_0, image_1, caption_0, caption_1 and collapsed_tag."
        )
    lines = path.read_text("utf-8").splitlines()
    rows = [json.loads(line) for line in lines if line.strip()]
    rows = [rows[k] for k in _sample(len(rows), max_images)]
    files = [[folder / "images" / row[f"image_{i}"] for i in (0, 1)] for row in rows]
    return Bunch(
        images=[[f if f.suffix else f.with_suffix(".png") for f in p] for p in files],
        captions=np.array([[row["caption_0"], row["caption_1"]] for row in rows]),
        tags=np.array([row["collapsed_tag"] for row in rows]),
        spec=spec,
    )


def _from_hub(spec, split, data_home):
    """Folder of a data set of the Hub, written at the first call."""
    if spec.source is None:
        raise ValueError(
            f"{spec.name} is read from disk alone; pass folder= with a sub-folder for "
            "each class."
        )
    home = data_home or os.environ.get("DIFFUSION_SKLEARN_DATA")
    home = Path(home or "~/.cache/diffusion-sklearn").expanduser()
    folder = home / spec.name / re.sub(r"\W+", "-", split)
    if folder.is_dir():
        return folder
    try:
        import datasets
    except ImportError as error:
        raise ImportError(
            f"{spec.name} is read from the Hub by the library datasets: pip install "
            "'diffusion-sklearn[hub-datasets]', or pass folder= with the images on "
            "disk."
        ) from error
    rows = datasets.load_dataset(spec.source, spec.config, split=split)
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    write = _write_pairs if spec.metric == "text score" else _write_folder
    write(rows, spec, partial, datasets.Image(decode=False))
    partial.rename(folder)  # only when complete
    return folder


def _write_folder(rows, spec, folder, encoded):
    for column in (spec.image_column, spec.label_column):
        if column not in rows.features:
            raise ValueError(
                f"{spec.source} has no column {column!r}, but {list(rows.features)}."
            )
    rows = rows.cast_column(spec.image_column, encoded)
    names = getattr(rows.features[spec.label_column], "names", None)
    if spec.labels and (names is None or all(name.isdecimal() for name in names)):
        names = spec.labels
    elif names is None:
        names = sorted({str(label) for label in rows[spec.label_column]})
    subfolders = {name: name.replace("/", "_") for name in names}
    # The first of the synonyms, "tench" of "tench, Tinca tinca", where that is unique.
    full = [name.replace("_", " ") for name in names]
    short = [name.split(",")[0].strip() for name in full]
    with_names = zip(subfolders.values(), full, short, strict=True)
    folder.mkdir(parents=True)
    with (folder / NAMES_FILE).open("w", encoding="utf-8") as file:
        for sub, long_name, name in with_names:
            (folder / sub).mkdir()
            file.write(f"{sub}\t{name if short.count(name) == 1 else long_name}\n")
    for k, row in enumerate(rows):
        label = row[spec.label_column]
        name = names[label] if isinstance(label, int) else str(label)
        path = folder / subfolders[name] / f"{k:06d}"
        _write_image(row[spec.image_column], path)


def _write_pairs(rows, spec, folder, encoded):
    (folder / "images").mkdir(parents=True)
    rows = rows.cast_column("image_0", encoded).cast_column("image_1", encoded)
    with (folder / "examples.jsonl").open("w", encoding="utf-8") as file:
        for k, row in enumerate(rows):
            keys = ("caption_0", "caption_1", "collapsed_tag")
            example = {key: row[key] for key in keys}
            for i in (0, 1):
                path = folder / "images" / f"ex_{k}_img_{i}"
                example[f"image_{i}"] = _write_image(row[f"image_{i}"], path)
            file.write(json.dumps(example, ensure_ascii=False) + "\n")


def _write_image(record, path):
    """Write the unchanged bytes of an image; returns the name of the file."""
    data = record["bytes"]
    if data is None:
        data = Path(record["path"]).read_bytes()
    with Image.open(io.BytesIO(data)) as image:
        suffix = "jpg" if image.format == "JPEG" else image.format.lower()
    path = path.with_name(f"{path.name}.{suffix}")
    path.write_bytes(data)
    return path.name
