"""How the paper evaluated on each of its data sets, read from paper.toml."""

import csv
import tomllib
from collections import defaultdict
from dataclasses import dataclass
from importlib.resources import files


@dataclass(frozen=True, kw_only=True)
class DatasetSpec:
    """A data set, and how the paper evaluated on it.

    Parameters
    ----------
    name : str
        Short name.
    source : str, default=None
        Id on the Hub, or a folder, that the library ``datasets`` reads; None: images
        come from a folder only.
    config : str, default=None
        Configuration of `source`.
    split : str, default="test"
        The split that is evaluated.
    image_column, label_column : str, default="image", "label"
        Names of the columns.
    labels : tuple of str, default=()
        Labels in the order of the data set's own numbers; (): those of the data.
    class_names : tuple of str, default=()
        Names for prompts, aligned with `labels`; (): the labels themselves. Two
        classes may have one name, as "missile" and "sunglasses" of ImageNet do.
    class_ids : tuple of tuple of int, default=()
        ImageNet's classes that each label stands for, aligned with `labels`, for
        models of ImageNet such as DiT; (): none.
    n_classes : int, default=None
        Number of classes.
    prompt_template : str, default="a photo of a {}."
        Those of CLIP's authors, as in the paper.
    metric : {"accuracy", "mean per class", "text score"}, default="accuracy"
        The metric that the paper reports.
    n_trials : int, default=None
        (t, eps) pairs for a class that is never pruned; None: not specified.
    pruning : tuple, default=None
        Stages (trials, active classes) of Algorithm 2. The paper's last stage, one
        class after `n_trials`, is the prediction.
    loss : {"l1", "l2"}, default="l2"
        The loss that the paper uses for this data set.

    Examples
    --------
    >>> from diffusion_sklearn.datasets import DatasetSpec, get_dataset_spec
    >>> spec = get_dataset_spec("cifar-10")  # of the paper
    >>> spec.prompt_template, spec.n_trials, spec.pruning
    ('a blurry photo of a {}.', 500, ((50, 5),))
    >>> mine = DatasetSpec(
    ...     name="birds", n_classes=20, n_trials=100, pruning=((10, 5),)
    ... )  # 20 classes get 10 trials, the best 5 of them 90 more
    >>> mine.metric, mine.n_evaluations
    ('accuracy', 650)
    """

    name: str
    source: str | None = None
    config: str | None = None
    split: str = "test"
    image_column: str = "image"
    label_column: str = "label"
    labels: tuple = ()
    class_names: tuple = ()
    class_ids: tuple = ()
    n_classes: int | None = None
    prompt_template: str = "a photo of a {}."
    metric: str = "accuracy"
    n_trials: int | None = None
    pruning: tuple | None = None
    loss: str = "l2"

    @property
    def n_evaluations(self):
        """Network evaluations an image."""
        if self.n_trials is None or self.n_classes is None:
            return None
        # Imported here: the command line reads the specs before it needs torch.
        from diffusion_sklearn.engine._pruning import evaluation_bounds

        return evaluation_bounds(self.pruning, self.n_trials, self.n_classes)[1]


def _read_specs():
    folder = files("diffusion_sklearn.datasets") / "data"
    classes = defaultdict(list)
    for row in csv.DictReader((folder / "classes.csv").read_text("utf-8").splitlines()):
        ids = tuple(map(int, row["class_ids"].split()))
        classes[row["dataset"]].append((row["label"], row["name"], ids))
    tables = tomllib.loads((folder / "paper.toml").read_text("utf-8"))
    for name, table in tables.items():
        rows = classes[table.pop("classes", name)]
        rows = [rows[i] for i in table.pop("class_ids", range(len(rows)))]
        if rows:
            table["labels"], table["class_names"], ids = zip(*rows, strict=True)
            table |= {"class_ids": ids if any(ids) else (), "n_classes": len(rows)}
        table |= {key: _to_tuple(value) for key, value in table.items()}
    return {name: DatasetSpec(name=name, **table) for name, table in tables.items()}


def _to_tuple(value):
    return tuple(map(_to_tuple, value)) if isinstance(value, list) else value


SPECS = _read_specs()


def list_datasets():
    """Names of the paper's data sets.

    Returns
    -------
    names : list of str
        For :func:`load_dataset` and :func:`get_dataset_spec`.

    Examples
    --------
    >>> from diffusion_sklearn.datasets import list_datasets
    >>> list_datasets()[:4]
    ['food-101', 'cifar-10', 'aircraft', 'pets']
    """
    return list(SPECS)


def get_dataset_spec(name):
    """How the paper evaluated on a data set.

    Parameters
    ----------
    name : str
        One of :func:`list_datasets`.

    Returns
    -------
    spec : DatasetSpec

    Raises
    ------
    ValueError
        If there is no such data set.

    Examples
    --------
    >>> from diffusion_sklearn.datasets import get_dataset_spec
    >>> spec = get_dataset_spec("pets")
    >>> spec.n_trials, spec.pruning, spec.loss, spec.n_evaluations
    (250, ((25, 5),), 'l1', 2050)
    """
    if name not in SPECS:
        raise ValueError(f"name={name!r} is unknown; pass one of {list_datasets()}.")
    return SPECS[name]
