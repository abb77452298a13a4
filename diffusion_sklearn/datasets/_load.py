"""Labelled images on disk or on the Hub -> paths, labels and names for prompts."""

import csv
import io
import json
import os
import re
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.utils import Bunch

from diffusion_sklearn.datasets._specs import SPECS, DatasetSpec, list_datasets
from diffusion_sklearn.images._files import images_below

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
    ``datasets`` and written once to `data_home` as such a folder, with the images'
    bytes as they are.

    Parameters
    ----------
    name_or_folder : str, Path or DatasetSpec
        One of :func:`list_datasets`, a description of another, or a folder.
    folder : str or Path, default=None
        Where the images of the named data set are on disk; None: the Hub.
    split : str, default=None
        Of the data set on the Hub; None: the one that the paper used.
    data_home : str or Path, default=None
        Where data sets of the Hub are written; None: the environment variable
        ``DIFFUSION_SKLEARN_DATA``, else ``~/.cache/diffusion-sklearn``.
    max_images : int, default=None
        At most so many, drawn at random with a fixed seed; None: all.
    class_names : dict of str to str, default=None
        What a sub-folder's class is called, where it is not called after it; None:
        a file ``names.tsv`` in the folder, the paper's names, or the sub-folders'.

    Returns
    -------
    data : :class:`~sklearn.utils.Bunch`
        ``images``, list of Path; ``target`` (n,) str; ``classes`` (k,) str, the sorted
        labels; ``class_names``, list of k str for prompts; ``folder``, where they are;
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
    ImageNet-A and ImageNetV2 come with synset ids and numbers as sub-folders: give
    `class_names` or a ``names.tsv``. Some sets of the Hub ask for consent there first
    (ImageNet, ObjectNet, Winoground).

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
    spec = _spec_of(name_or_folder, folder)
    named = isinstance(name_or_folder, DatasetSpec) or name_or_folder in SPECS
    if folder is None and named:
        if spec.source is None:
            raise ValueError(
                f"{spec.name} is read from disk alone; pass folder= with a sub-folder "
                "for each class."
            )
        folder = _from_hub(spec, split or spec.split, data_home)
    folder = Path(name_or_folder if folder is None else folder).expanduser()
    if spec.metric == "text score":
        return _read_pairs(folder, spec, max_images)
    return _read_folder(folder, spec, max_images, class_names)


def _spec_of(name_or_folder, folder):
    if isinstance(name_or_folder, DatasetSpec):
        return name_or_folder
    if name_or_folder in SPECS:
        return SPECS[name_or_folder]
    if folder is not None or not Path(name_or_folder).expanduser().is_dir():
        raise ValueError(
            f"name_or_folder={str(name_or_folder)!r} is no folder and none of "
            f"{list_datasets()}."
        )
    return DatasetSpec(name=Path(name_or_folder).name)


def _read_folder(folder, spec, max_images, class_names):
    if not folder.is_dir():
        raise ValueError(f"folder={str(folder)!r} is no folder.")
    below = sorted(p for p in folder.iterdir() if p.is_dir() and p.name[0] != ".")
    if len(below) < 2:
        raise ValueError(
            f"folder={str(folder)!r} has {len(below)} sub-folders; it needs one for "
            "each class, two or more."
        )
    if class_names is None and (folder / NAMES_FILE).is_file():
        class_names = read_table(folder / NAMES_FILE)
    labels, names = _name_classes([path.name for path in below], spec, class_names)
    pairs = [
        (path, label)
        for sub, label in zip(below, labels, strict=True)
        for path in images_below(sub)
    ]
    if not pairs:
        raise ValueError(f"folder={str(folder)!r} holds no images in its sub-folders.")
    pairs = [pairs[k] for k in _some(len(pairs), max_images)]
    images, target = zip(*pairs, strict=True)
    classes = sorted(names)
    return Bunch(
        images=list(images),
        target=np.array(target),
        classes=np.array(classes),
        class_names=[names[label] for label in classes],
        folder=folder,
        spec=spec,
    )


def _name_classes(found, spec, given):
    """Label of each sub-folder, and a dict from each label to its name."""
    if given is not None:
        missing = [name for name in found if name not in given]
        if missing:
            raise ValueError(
                f"class_names lacks the sub-folders {missing[:5]!r}; name each class."
            )
    if spec.labels:
        names = dict(zip(spec.labels, spec.class_names or spec.labels, strict=True))
        names = {label: name.replace("_", " ") for label, name in names.items()}
        known = {_plain(label): label for label in spec.labels}
        known |= {_plain(name): label for label, name in names.items()}
        called = found if given is None else [given[name] for name in found]
        strangers = [name for name in called if _plain(name) not in known]
        if not strangers:
            return [known[_plain(name)] for name in called], names
        raise ValueError(
            f"The sub-folders {strangers[:5]!r} are no classes of {spec.name}, which "
            f"has {', '.join(spec.labels[:5])}, ...; rename them or give class_names."
        )
    if given is not None:
        return found, {name: given[name] for name in found}
    if all(re.fullmatch(r"n\d{8}|\d+", name) for name in found):
        raise ValueError(
            f"The sub-folders {found[:3]!r}, ... are no names; give class_names, or a "
            f"file {NAMES_FILE} beside them with lines of sub-folder, tab, name."
        )
    return found, {name: name.replace("_", " ") for name in found}


def _plain(text):
    return re.sub(r"[^a-z0-9]+", " ", text.lower()).strip()


def _some(n, max_images):
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
    with path.open(newline="", encoding="utf-8") as file:
        return {row[0]: row[1] for row in csv.reader(file, delimiter="\t") if row[1:]}


def _read_pairs(folder, spec, max_images):
    """Read Winoground: ``examples.jsonl`` beside a folder ``images``."""
    path = folder / "examples.jsonl"
    if not path.is_file():
        raise ValueError(
            f"folder={str(folder)!r} lacks examples.jsonl; it needs a line for each "
            "example, with image_0, image_1, caption_0, caption_1 and collapsed_tag."
        )
    lines = path.read_text("utf-8").splitlines()
    rows = [json.loads(line) for line in lines if line.strip()]
    rows = [rows[k] for k in _some(len(rows), max_images)]
    return Bunch(
        images=[
            [_picture_at(folder, row[f"image_{i}"]) for i in (0, 1)] for row in rows
        ],
        captions=np.array([[row["caption_0"], row["caption_1"]] for row in rows]),
        tags=np.array([row["collapsed_tag"] for row in rows]),
        spec=spec,
    )


def _picture_at(folder, name):
    path = folder / "images" / name
    return path if path.suffix else path.with_suffix(".png")


def _from_hub(spec, split, data_home):
    """Folder of a data set of the Hub, written at the first call."""
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
    partial.rename(folder)  # all of it, or nothing
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
    # A slash can't be in the name of a folder.
    subs = {name: name.replace("/", "_") for name in names}
    for sub in subs.values():
        (folder / sub).mkdir(parents=True)
    called = _short_names(names)
    lines = [f"{subs[name]}\t{called[name]}\n" for name in names]
    (folder / NAMES_FILE).write_text("".join(lines), "utf-8")
    for k, row in enumerate(rows):
        label = row[spec.label_column]
        name = names[label] if isinstance(label, int) else str(label)
        _write_image(row[spec.image_column], folder / subs[name] / f"{k:06d}")


def _short_names(names):
    """The first synonym of each name, "tench" for "tench, Tinca tinca"."""
    words = {name: name.replace("_", " ") for name in names}
    first = {name: text.split(",")[0].strip() for name, text in words.items()}
    times = Counter(first.values())
    return {
        name: text if times[text] == 1 else words[name] for name, text in first.items()
    }


def _write_pairs(rows, spec, folder, encoded):
    (folder / "images").mkdir(parents=True)
    rows = rows.cast_column("image_0", encoded).cast_column("image_1", encoded)
    with (folder / "examples.jsonl").open("w", encoding="utf-8") as file:
        for k, row in enumerate(rows):
            kept = {n: row[n] for n in ("caption_0", "caption_1", "collapsed_tag")}
            for i in (0, 1):
                path = folder / "images" / f"ex_{k}_img_{i}"
                kept[f"image_{i}"] = _write_image(row[f"image_{i}"], path)
            file.write(json.dumps(kept, ensure_ascii=False) + "\n")


def _write_image(record, path):
    """Write the bytes of an image as they are; returns the name of the file."""
    data = record["bytes"]
    if data is None:
        data = Path(record["path"]).read_bytes()
    with Image.open(io.BytesIO(data)) as image:
        suffix = ".jpg" if image.format == "JPEG" else f".{image.format.lower()}"
    path = path.with_name(path.name + suffix)
    path.write_bytes(data)
    return path.name
