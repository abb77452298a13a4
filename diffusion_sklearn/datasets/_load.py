"""Labelled images on disk or on the Hub -> paths, labels and names for prompts."""

import csv
import io
import json
import os
import re
import shutil
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.utils import Bunch

from diffusion_sklearn._versions import import_optional
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
    exclude=None,
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
        folder, else the names of the sub-folders. For a data set of the paper they
        only tell which class a sub-folder is; the prompts have the paper's names.
    exclude : Path, default=None
        A sub-folder that is no class, as that of the results.

    Returns
    -------
    data : :class:`~sklearn.utils.Bunch`
        ``images``, list of Path; ``target`` (n,) str; ``classes`` (k,) str, the sorted
        labels; ``class_names``, list of k str for prompts; ``class_ids``, list of k
        tuples of int, the classes of a model of ImageNet, or None; ``folder``, a Path;
        ``spec``, a :class:`DatasetSpec`. For "winoground": ``images``, n lists of two,
        ``captions`` (n, 2) str, ``tags`` (n,) str and ``spec``.

    Raises
    ------
    ValueError
        If a name or folder is unknown, the sub-folders or the classes on the Hub are
        not those of the data set, or a name is blank or repeated.
    ImportError
        If ``datasets`` is needed and missing.

    Warns
    -----
    UserWarning
        If there are sub-folders of other classes beside all those of the data set, as
        of ObjectNet's 313 classes beside the paper's 113: they are left out.

    Notes
    -----
    The labels of ImageNet, ImageNetV2 and ImageNet-A are synset ids, whose order is
    that of the class ids. ImageNet, ObjectNet and Winoground require accepting their
    terms on the Hub first.

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

    images, subfolders, classes = read_class_folders(folder, exclude)
    if class_names is None and (folder / NAMES_FILE).is_file():
        class_names = read_table(folder / NAMES_FILE)
    labels, names = _match_classes(classes, spec, class_names)
    pairs = zip(images, subfolders, strict=True)
    pairs = [(path, labels[sub]) for path, sub in pairs if sub in labels]
    ids = dict(zip(spec.labels, spec.class_ids, strict=True)) if spec.class_ids else {}
    sample = _sample(len(pairs), max_images)
    return Bunch(
        images=[pairs[k][0] for k in sample],
        target=np.array([pairs[k][1] for k in sample]),
        classes=np.array(sorted(names)),
        class_names=[names[label] for label in sorted(names)],
        class_ids=[ids[label] for label in sorted(names)] if ids else None,
        folder=folder,
        spec=spec,
    )


def _match_classes(subfolders, spec, class_names):
    """Label of each sub-folder that is a class, and name of each label."""
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
        _check_names(names)
        return {sub: sub for sub in subfolders}, names
    label_of = _label_by_name(spec)
    labels = {sub: label_of.get(_normalize(name)) for sub, name in names.items()}
    unknown = [names[sub] for sub, label in labels.items() if label is None]
    if unknown and len(set(labels.values()) - {None}) < len(spec.labels):
        raise ValueError(
            f"The sub-folders {unknown[:5]!r} are no classes of {spec.name}, which "
            f"has {', '.join(spec.labels[:5])}, ...; rename them or give class_names."
        )
    if unknown:
        warnings.warn(
            f"{len(unknown)} sub-folders are no classes of {spec.name} and left out: "
            f"{', '.join(unknown[:5])}, ...",
            UserWarning,
            stacklevel=3,
        )
    labels = {sub: label for sub, label in labels.items() if label is not None}
    return labels, dict(zip(spec.labels, spec.class_names or spec.labels, strict=True))


def _label_by_name(spec):
    """Labels by what is written for them: labels, unique names, ImageNet's ids."""
    names = list(map(_normalize, spec.class_names or spec.labels))
    pairs = zip(names, spec.labels, strict=True)
    label_of = {name: label for name, label in pairs if names.count(name) == 1}
    label_of |= {_normalize(label): label for label in spec.labels}
    if spec.class_ids and re.fullmatch(r"n\d{8}", spec.labels[0]):
        ids = (str(of_label[0]) for of_label in spec.class_ids)
        label_of |= zip(ids, spec.labels, strict=True)
    return label_of


def _check_names(names):
    """Raise unless the names of the classes are different and not blank."""
    blank = [key for key, name in names.items() if not name.strip()]
    if blank:
        raise ValueError(f"class_names has no name for {blank[:5]!r}; give each one.")
    repeated = [name for name, n in Counter(names.values()).items() if n > 1]
    if repeated:
        raise ValueError(f"class_names has {repeated!r} more than once; names differ.")


def _normalize(text):
    return re.sub(r"[^a-z0-9]+", " ", text.lower()).strip()


def _sample(n, max_images):
    return np.sort(np.random.RandomState(0).permutation(n)[:max_images])


def read_text(path):
    """Read a text file in UTF-8, without a byte order mark.

    Parameters
    ----------
    path : Path

    Returns
    -------
    text : str

    Raises
    ------
    ValueError
        If it has another encoding.
    """
    try:
        text = path.read_text("utf-8-sig")
        if "\0" not in text:  # UTF-16 of ASCII is valid UTF-8 with zeros
            return text
    except UnicodeDecodeError:
        pass
    raise ValueError(
        f"{path} is not in UTF-8 (perhaps UTF-16 or Latin-1); save it as UTF-8."
    )


def read_table(path):
    """Read lines of sub-folder, tab, name.

    Parameters
    ----------
    path : Path

    Returns
    -------
    names : dict of str to str

    Raises
    ------
    ValueError
        If a line is not of this form, a name is blank, or the file is not in UTF-8.
    """
    rows = csv.reader(read_text(path).splitlines(), delimiter="\t")
    names = {}
    for number, row in enumerate(rows, 1):
        if len(row) < 2 or not row[0].strip() or not row[1].strip():
            if any(text.strip() for text in row):
                raise ValueError(
                    f"{path}, line {number}: {row!r} is no sub-folder, tab and name."
                )
            continue
        names[row[0]] = row[1].strip()
    return names


def _read_pairs(folder, spec, max_images):
    """Read Winoground: ``examples.jsonl`` and a folder ``images``."""
    path = folder / "examples.jsonl"
    if not path.is_file():
        raise ValueError(
            f"folder={str(folder)!r} lacks examples.jsonl; it needs a line for each "
            "example, with image_0, image_1, caption_0, caption_1 and collapsed_tag."
        )
    lines = read_text(path).split("\n")  # JSON may have what str.splitlines breaks at
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
    datasets = import_optional(
        "datasets", "hub-datasets", ", or pass folder= with the images on disk"
    )
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
    values = range(len(names)) if names else sorted(set(rows[spec.label_column]))
    labels = _match_hub_classes(list(map(str, names or values)), spec)
    label_of = dict(zip(values, labels, strict=True))
    subfolders = {label: label.replace("/", "_") for label in labels if label}
    folder.mkdir(parents=True)
    for subfolder in subfolders.values():
        (folder / subfolder).mkdir()
    if not spec.labels:
        # The first of the synonyms, "dog" of "dog, hound", where that is unique.
        full = [label.replace("_", " ") for label in labels]
        short = [name.split(",")[0].strip() for name in full]
        with (folder / NAMES_FILE).open("w", encoding="utf-8") as file:
            for sub, long, name in zip(subfolders.values(), full, short, strict=True):
                file.write(f"{sub}\t{name if short.count(name) == 1 else long}\n")
    for k, row in enumerate(rows):
        label = label_of[row[spec.label_column]]
        if label is not None:
            path = folder / subfolders[label] / f"{k:06d}"
            _write_image(row[spec.image_column], path)


def _match_hub_classes(names, spec):
    """Label of each class of the Hub's copy; None: it is none of the data set's."""
    if not spec.labels:
        return names
    label_of = _label_by_name(spec)
    labels = [label_of.get(_normalize(name)) for name in names]
    if None not in labels:
        return labels
    numbers = [int(name) for name in names if name.isdecimal()]
    if len(numbers) == len(names) and max(numbers) < len(spec.labels):
        return [spec.labels[k] for k in numbers]
    # "tench, Tinca tinca": what is recognized must show that the order is the same.
    parts = [{label_of.get(_normalize(n)) for n in name.split(",")} for name in names]
    recognized = [part - {None} for part in parts]
    n_recognized = sum(map(bool, recognized))
    if len(names) == len(spec.labels) and n_recognized > len(names) / 2:
        pairs = zip(recognized, spec.labels, strict=True)
        if all(not part or label in part for part, label in pairs):
            return list(spec.labels)
    if set(spec.labels) <= set(labels):
        return labels
    unknown = [name for name, label in zip(names, labels, strict=True) if not label]
    raise ValueError(
        f"{spec.source} has the classes {unknown[:5]!r}, which are none of "
        f"{spec.name}'s; pass folder= with a sub-folder for each class."
    )


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
