"""What the paper did with each of its data sets: source, prompts, budget, metric."""

from dataclasses import dataclass, replace

ANIMALS = (
    "Abyssinian cat, American Bulldog, American Pit Bull Terrier dog, Basset Hound "
    "dog, Beagle dog, Bengal cat, Birman cat, Bombay cat, Boxer dog, British "
    "Shorthair cat, Chihuahua dog, Egyptian Mau cat, English Cocker Spaniel dog, "
    "English Setter dog, German Shorthaired dog, Great Pyrenees dog, Havanese dog, "
    "Japanese Chin dog, Keeshond dog, Leonberger dog, Maine Coon cat, Miniature "
    "Pinscher dog, Newfoundland dog, Persian cat, Pomeranian dog, Pug dog, Ragdoll "
    "cat, Russian Blue cat, Saint Bernard dog, Samoyed dog, Scottish Terrier dog, "
    "Shiba Inu dog, Siamese cat, Sphynx cat, Staffordshire Bull Terrier dog, "
    "Wheaten Terrier dog, Yorkshire Terrier dog"
)
FLOWERS = (
    "pink primrose, hard-leaved pocket orchid, canterbury bells, sweet pea, english "
    "marigold, tiger lily, moon orchid, bird of paradise, monkshood, globe thistle, "
    "snapdragon, colt's foot, king protea, spear thistle, yellow iris, globe "
    "flower, purple coneflower, peruvian lily, balloon flower, giant white arum "
    "lily, fire lily, pincushion flower, fritillary, red ginger, grape hyacinth, "
    "corn poppy, prince of wales feathers, stemless gentian, artichoke, sweet "
    "william, carnation, garden phlox, love in the mist, mexican aster, alpine sea "
    "holly, ruby-lipped cattleya, cape flower, great masterwort, siam tulip, lenten "
    "rose, barbeton daisy, daffodil, sword lily, poinsettia, bolero deep blue, "
    "wallflower, marigold, buttercup, oxeye daisy, common dandelion, petunia, wild "
    "pansy, primula, sunflower, pelargonium, bishop of llandaff, gaura, geranium, "
    "orange dahlia, pink and yellow dahlia, cautleya spicata, japanese anemone, "
    "black-eyed susan, silverbush, californian poppy, osteospermum, spring crocus, "
    "bearded iris, windflower, tree poppy, gazania, azalea, water lily, rose, thorn "
    "apple, morning glory, passion flower, lotus, toad lily, anthurium, frangipani, "
    "clematis, hibiscus, columbine, desert-rose, tree mallow, magnolia, cyclamen, "
    "watercress, canna lily, hippeastrum, bee balm, air plant, foxglove, "
    "bougainvillea, camellia, mallow, mexican petunia, bromelia, blanket flower, "
    "trumpet creeper, blackberry lily"
)


@dataclass(frozen=True, kw_only=True)
class DatasetSpec:
    """A data set, and how the paper evaluated on it.

    Parameters
    ----------
    name : str
        Short name.
    source : str, default=None
        Id on the Hub, or a folder, that the library ``datasets`` reads; None: images
        come from a folder alone.
    config : str, default=None
        Configuration of `source`.
    split : str, default="test"
        The split that is evaluated.
    image_column, label_column : str, default="image", "label"
        Names of the columns.
    labels : tuple of str, default=()
        Labels in the order of the data set's own numbers; (): those of the data.
    class_names : tuple of str, default=()
        What goes into prompts, aligned with `labels`; (): the labels themselves.
    n_classes : int, default=None
        How many there are.
    prompt_template : str, default="a photo of a {}."
        Those of CLIP's authors, as in the paper.
    metric : {"accuracy", "mean per class", "text score"}, default="accuracy"
        What the paper reports.
    n_trials : int, default=None
        (t, eps) pairs for a class that is never pruned; None: no schedule.
    pruning : tuple, default=None
        Stages (trials, classes to keep) of Algorithm 2. The paper's last stage keeps 1
        class after `n_trials`: the prediction.
    loss : {"l1", "l2"}, default="l2"
        The better of the two on this data set, in the paper.

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
    n_classes: int | None = None
    prompt_template: str = "a photo of a {}."
    metric: str = "accuracy"
    n_trials: int | None = None
    pruning: tuple | None = None
    loss: str = "l2"

    @property
    def n_evaluations(self):
        """Evaluations of the network that an image costs by the schedule."""
        if self.n_trials is None or self.n_classes is None:
            return None
        done, n_alive, total = 0, self.n_classes, 0
        for trials, keep in (*(self.pruning or ()), (self.n_trials, 1)):
            total += n_alive * (trials - done)
            done, n_alive = trials, min(keep, n_alive)
        return total


FOUR_STAGES = {"n_trials": 500, "pruning": ((20, 20), (50, 10), (100, 5))}
_pets, _flowers = tuple(ANIMALS.split(", ")), tuple(FLOWERS.split(", "))
_cifar = "airplane automobile bird cat deer dog frog horse ship truck".split()
_stl = "airplane bird car cat deer dog horse monkey ship truck".split()
_imagenet = DatasetSpec(
    name="imagenet",
    source="ILSVRC/imagenet-1k",
    split="validation",
    n_classes=1000,
    n_trials=1000,
    pruning=((50, 500), (100, 50), (500, 10)),
)
_specs = [
    DatasetSpec(
        name="food-101",
        source="ethz/food101",
        split="validation",
        n_classes=101,
        prompt_template="a photo of {}, a type of food.",
        **FOUR_STAGES,
    ),
    DatasetSpec(
        name="cifar-10",
        source="uoft-cs/cifar10",
        image_column="img",
        labels=tuple(_cifar),
        n_classes=10,
        prompt_template="a blurry photo of a {}.",
        n_trials=500,
        pruning=((50, 5),),
        loss="l1",
    ),
    DatasetSpec(
        name="aircraft",
        source="HuggingFaceM4/FGVC-Aircraft",
        label_column="variant",
        n_classes=100,
        prompt_template="a photo of a {}, a type of aircraft.",
        metric="mean per class",
        **FOUR_STAGES,
    ),
    DatasetSpec(
        name="pets",
        source="timm/oxford-iiit-pet",
        labels=tuple(
            name.removesuffix(" cat").removesuffix(" dog").lower().replace(" ", "_")
            for name in _pets
        ),
        class_names=_pets,
        n_classes=37,
        prompt_template="a photo of a {}, a type of pet.",
        metric="mean per class",
        n_trials=250,
        pruning=((25, 5),),
        loss="l1",
    ),
    DatasetSpec(
        name="flowers-102",
        source="dpdl-benchmark/oxford_flowers102",
        labels=_flowers,
        n_classes=102,
        prompt_template="a photo of a {}, a type of flower.",
        metric="mean per class",
        loss="l1",
        **FOUR_STAGES,
    ),
    DatasetSpec(
        name="stl-10",
        source="tanganke/stl10",
        labels=tuple(_stl),
        n_classes=10,
        n_trials=500,
        pruning=((100, 5),),
        loss="l1",
    ),
    _imagenet,
    DatasetSpec(
        name="objectnet",
        source="timm/objectnet",
        n_classes=113,
        n_trials=1000,
        pruning=((50, 25), (100, 10), (500, 5)),
    ),
    # Figure 6 and tables 4 and 5: DiT, every class 250 times.
    replace(_imagenet, name="imagenet-v2", source=None, n_trials=250, pruning=None),
    DatasetSpec(
        name="imagenet-a",
        source="barkermrl/imagenet-a",
        split="train",
        n_classes=200,
        n_trials=250,
    ),
    DatasetSpec(
        name="winoground",
        source="facebook/winoground",
        metric="text score",
        n_trials=1000,
    ),
]
SPECS = {spec.name: spec for spec in _specs}


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
