"""The paper's data sets: its numbers, folders on disk, and the Hub's layout."""

import hashlib
import json
import sys
from dataclasses import FrozenInstanceError, replace

import datasets
import numpy as np
import pytest
from PIL import Image

from diffusion_sklearn.classifiers._prompts import make_prompts
from diffusion_sklearn.datasets._load import load_dataset
from diffusion_sklearn.datasets._specs import (
    DatasetSpec,
    get_dataset_spec,
    list_datasets,
)
from diffusion_sklearn.engine._pruning import check_pruning

PIXELS = np.random.RandomState(0).randint(0, 256, (6, 5, 7, 3), dtype=np.uint8)


def fill(folder, names, n=2):
    for name in names:
        (folder / name).mkdir(parents=True)
        for k in range(n):
            Image.fromarray(PIXELS[k]).save(folder / name / f"{k}.png")
    return folder


@pytest.mark.parametrize(
    "name, keep, trials, loss, n_evaluations",
    [
        ("food-101", [20, 10, 5, 1], [20, 50, 100, 500], "l2", 5120),
        ("cifar-10", [5, 1], [50, 500], "l1", 2750),
        ("aircraft", [20, 10, 5, 1], [20, 50, 100, 500], "l2", 5100),
        ("pets", [5, 1], [25, 250], "l1", 2050),
        ("flowers-102", [20, 10, 5, 1], [20, 50, 100, 500], "l1", 5140),
        ("stl-10", [5, 1], [100, 500], "l1", 3000),
        ("imagenet", [500, 50, 10, 1], [50, 100, 500, 1000], "l2", 100000),
        ("objectnet", [25, 10, 5, 1], [50, 100, 500, 1000], "l2", 13400),
    ],
)
def test_schedules_of_the_paper(name, keep, trials, loss, n_evaluations):
    """Table 7: KeepList, TrialList, loss, and what an image costs by Algorithm 2."""
    spec = get_dataset_spec(name)
    assert (*spec.pruning, (spec.n_trials, 1)) == tuple(zip(trials, keep, strict=True))
    assert spec.loss == loss and spec.n_evaluations == n_evaluations
    check_pruning(spec.pruning, spec.n_trials)


def test_every_spec_is_whole():
    assert len(list_datasets()) == 13
    for name in list_datasets():
        spec = get_dataset_spec(name)
        assert spec.name == name
        assert spec.n_trials or name in ("cifar-100", "mnist")  # not in table 7
        twice = {"imagenet": 2, "imagenet-v2": 2}.get(name, 0)  # in CLIP's names
        assert len(set(spec.labels)) == len(spec.labels)
        assert len(set(spec.class_names)) == len(spec.class_names) - twice
        for some in (spec.labels, spec.class_names):
            assert len(some) in (0, spec.n_classes)
        assert len(spec.class_ids) in (0, spec.n_classes)
        make_prompts(spec.prompt_template, ["x"], "", True)
    means = [n for n in list_datasets() if "mean" in get_dataset_spec(n).metric]
    assert means == ["aircraft", "pets", "flowers-102"]
    with pytest.raises(FrozenInstanceError):
        get_dataset_spec("pets").n_trials = 3
    with pytest.raises(ValueError, match="name='cats' is unknown; pass one of"):
        get_dataset_spec("cats")


PROMPTS = {
    "food-101": (101, "f471408b72b7c79e", "a photo of waffles, a type of food."),
    "cifar-10": (10, "5f1c579eb50b7abd", "a blurry photo of a truck."),
    "cifar-100": (100, "ae164e354a6a5bc4", "a blurry photo of a worm."),
    "mnist": (10, "a122d46d4b2042de", "a photo of the number: '9'."),
    "aircraft": (100, "b531651a81fdcd93", "a photo of a Yak-42, a type of aircraft."),
    "pets": (
        37,
        "6bcbb904d809eba6",
        "a photo of a Yorkshire Terrier dog, a type of pet.",
    ),
    "flowers-102": (
        102,
        "208b39ad0ff55eac",
        "a photo of a blackberry lily, a type of flower.",
    ),
    "stl-10": (10, "62e4215765208dec", "a photo of a truck."),
    "imagenet": (1000, "667e985c62f31901", "a photo of a toilet paper."),
    "objectnet": (113, "cf9828b1d781bb67", "a photo of a wok."),
}
"""Of the paper's code: number of prompts, SHA-256 of their lines, and the last one."""


@pytest.mark.parametrize("name", PROMPTS)
def test_prompts_of_the_paper(name):
    spec = get_dataset_spec(name)
    prompts = make_prompts(spec.prompt_template, spec.class_names, "", True)
    prompts = [prompt for (prompt,) in prompts]
    n_prompts, digest, last = PROMPTS[name]
    assert len(prompts) == n_prompts and prompts[-1] == last
    lines = "\n".join(prompts).encode()
    assert hashlib.sha256(lines).hexdigest().startswith(digest)


def test_class_ids_of_imagenet():
    """ImageNet-A's 200 classes, and those of ObjectNet's 113."""
    v2, a, objects = map(get_dataset_spec, ("imagenet-v2", "imagenet-a", "objectnet"))
    assert v2.class_ids == tuple((k,) for k in range(1000))
    assert v2.labels[0] == "n01440764" and v2.class_names[0] == "tench"
    assert list(v2.labels) == sorted(v2.labels)  # the order of fit's sorted labels
    assert len(a.class_ids) == 200 and a.class_ids[-1] == (988,)
    assert a.labels[0] == "n01498041" and a.class_names[0] == "stingray"
    ids = dict(zip(objects.labels, objects.class_ids, strict=True))
    assert ids["alarm_clock"] == (409, 530) and ids["banana"] == (954,)
    assert len({k for some in objects.class_ids for k in some}) == 125
    assert {v2.class_names[k] for k in ids["tie"]} == {"bow tie", "Windsor tie"}


@pytest.mark.parametrize(
    "name, subfolder, class_name",
    [
        ("imagenet", "n02012849", "crane bird"),
        ("imagenet-v2", "517", "construction crane"),
        ("imagenet-a", "n01498041", "stingray"),
        ("imagenet", "hammerhead_shark", "hammerhead shark"),
        ("aircraft", "F_A-18", "F/A-18"),
        ("aircraft", "F-16A_B", "F-16A/B"),
        ("food-101", "apple_pie", "apple pie"),
        ("objectnet", "full_sized_towel", "bath towel"),
        ("mnist", "7", "7"),
    ],
)
def test_sub_folders_as_they_are_shipped(name, subfolder, class_name, tmp_path):
    spec = get_dataset_spec(name)
    other = spec.labels[1]
    data = load_dataset(name, folder=fill(tmp_path, [subfolder, other], n=1))
    names = dict(zip(data.classes, data.class_names, strict=True))
    labels = {
        path.parent.name: t for path, t in zip(data.images, data.target, strict=True)
    }
    assert names[labels[subfolder]] == class_name and labels[other] == other
    assert len(names) == spec.n_classes and data.classes.tolist() == sorted(names)
    if spec.class_ids:
        k = data.classes.tolist().index(labels[subfolder])
        assert data.class_ids[k] == spec.class_ids[spec.labels.index(labels[subfolder])]


def test_other_classes_beside_those_of_the_data_set(tmp_path):
    """ObjectNet has 313 classes, of which the paper takes 113."""
    spec = get_dataset_spec("objectnet")
    folder = fill(tmp_path, [*spec.labels, "air_freshener", "tongs"], n=1)
    with pytest.warns(UserWarning, match="2 sub-folders are no classes of objectnet"):
        data = load_dataset("objectnet", folder=folder)
    assert len(data.images) == 113 and data.target.tolist() == list(spec.labels)


@pytest.mark.parametrize(
    "data, message",
    [
        (b"a\tcat\nb\t \n", "line 2: .* is no sub-folder, tab and name"),
        (b"a\tcat\n\n\tdog\n", "line 3: .* is no sub-folder, tab and name"),
        (b"a,cat\nb,dog\n", "line 1: .* is no sub-folder, tab and name"),
        (b"a\tcaf\xe9\nb\tdog\n", "is not in UTF-8"),
        ("a\tcat\nb\tdog\n".encode("utf-16"), "is not in UTF-8"),
        ("a\tcat\nb\tdog\n".encode("utf-16-le"), "is not in UTF-8"),
        (b"a\tcat\nb\tcat\n", r"has \['cat'\] more than once"),
    ],
)
def test_names_that_are_wrong(data, message, tmp_path):
    folder = fill(tmp_path, ["a", "b"])
    (folder / "names.tsv").write_bytes(data)
    with pytest.raises(ValueError, match=message):
        load_dataset(folder)
    (folder / "names.tsv").write_bytes(b"\xef\xbb\xbfa\tcat\r\nb\tdog\r\n")
    assert load_dataset(folder).class_names == ["cat", "dog"]
    with pytest.raises(ValueError, match=r"has no name for \['b'\]"):
        load_dataset(folder, class_names={"a": "cat", "b": ""})


def test_budget_is_what_the_classifier_spends(sd_folder):
    """The estimator spends the evaluations that the spec counts."""
    from diffusion_sklearn import ZeroShotDiffusionClassifier

    spec = replace(get_dataset_spec("stl-10"), n_trials=20, pruning=((4, 5),))
    clf = ZeroShotDiffusionClassifier(
        model=sd_folder,
        n_trials=spec.n_trials,
        pruning=spec.pruning,
        loss=spec.loss,
        prompt_template=spec.prompt_template,
    ).fit(classes=spec.labels)
    assert clf.denoising_errors(PIXELS[:2]).n_evaluations.tolist() == [120, 120]
    assert spec.n_evaluations == 120


def test_folder_of_pets(tmp_path):
    """Sub-folders are found in any spelling; classes without one are classes too."""
    folder = fill(tmp_path, ["Abyssinian", "Russian_Blue", "wheaten terrier"])
    data = load_dataset("pets", folder=folder)
    assert len(data.classes) == len(data.class_names) == 37
    assert data.classes.tolist() == sorted(data.classes)
    assert sorted(set(data.target)) == ["abyssinian", "russian_blue", "wheaten_terrier"]
    assert [path.parent.name for path in data.images[:2]] == ["Abyssinian"] * 2
    names = dict(zip(data.classes, data.class_names, strict=True))
    prompts = make_prompts(data.spec.prompt_template, data.class_names, "", True)
    assert names["russian_blue"] == "Russian Blue cat"
    assert ["a photo of a Abyssinian cat, a type of pet."] in prompts
    (tmp_path / "poodle").mkdir()
    with pytest.raises(ValueError, match=r"'poodle'\] are no classes of pets"):
        load_dataset("pets", folder=folder)


def test_plain_folder_and_names(tmp_path):
    folder = fill(tmp_path / "things", ["big_cat", "dog"], n=5)
    data = load_dataset(folder)
    assert data.class_names == ["big cat", "dog"] and data.spec.n_trials is None
    assert data.target.tolist() == ["big_cat"] * 5 + ["dog"] * 5
    some = load_dataset(str(folder), max_images=4)
    assert len(some.images) == 4 and set(some.images) < set(data.images)
    assert some.images == load_dataset(folder, max_images=4).images
    for path, label in zip(some.images, some.target, strict=True):
        assert path.parent.name == label
    synsets = fill(tmp_path / "a", ["n02012849", "n03126707"])
    with pytest.raises(ValueError, match="are no names; give class_names"):
        load_dataset(synsets)
    given = {"n02012849": "crane", "n03126707": "construction crane"}
    data = load_dataset(synsets, class_names=given)
    assert data.class_names == ["crane", "construction crane"]
    with pytest.raises(ValueError, match=r"lacks the sub-folders \['n03126707'"):
        load_dataset(synsets, class_names={"n02012849": "crane"})
    (synsets / "names.tsv").write_text("n02012849\tcrane\nn03126707\tbig crane\n")
    data = load_dataset(synsets)
    assert data.class_names == ["crane", "big crane"]


def test_folder_errors(tmp_path):
    with pytest.raises(ValueError, match="is no folder and none of"):
        load_dataset("no-such-set")
    with pytest.raises(ValueError, match="is no folder"):
        load_dataset("pets", folder=tmp_path / "no")
    with pytest.raises(ValueError, match="has 0 sub-folders"):
        load_dataset(tmp_path)
    with pytest.raises(ValueError, match="holds no images"):
        load_dataset("food-101", folder=fill(tmp_path, ["pie", "soup"], n=0))
    with pytest.raises(ValueError, match="imagenet-v2 is read from disk alone"):
        load_dataset("imagenet-v2")
    with pytest.raises(ValueError, match="mine is read from disk alone"):
        load_dataset(DatasetSpec(name="mine"))
    with pytest.raises(ValueError, match="max_images=0 must be 1 or more"):
        load_dataset("pets", max_images=0)


def test_winoground_folder(tmp_path):
    (tmp_path / "images").mkdir()
    captions = ["a\u2028b", "b a"]
    line = {
        "caption_0": captions[0],
        "caption_1": captions[1],
        "collapsed_tag": "Object",
    }
    with pytest.raises(ValueError, match=r"lacks examples\.jsonl"):
        load_dataset("winoground", folder=tmp_path)
    rows = [
        line | {"image_0": f"ex_{k}_img_0", "image_1": f"ex_{k}_img_1"} for k in "012"
    ]
    text = "\r\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    (tmp_path / "examples.jsonl").write_text(text, "utf-8", newline="")
    data = load_dataset("winoground", folder=tmp_path)
    assert data.captions.tolist() == [captions] * 3
    assert data.images[2] == [tmp_path / "images" / f"ex_2_img_{i}.png" for i in (0, 1)]
    assert data.tags.tolist() == ["Object"] * 3
    assert len(load_dataset("winoground", folder=tmp_path, max_images=2).tags) == 2


@pytest.fixture
def hub_folder(tmp_path):
    """A folder in the layout of a data set on the Hub: Parquet with its features."""

    def write(columns, features, split="test"):
        features = datasets.Features(
            {name: getattr(datasets, kind)(*args) for name, kind, *args in features}
        )
        folder = tmp_path / "hub"
        (folder / "data").mkdir(parents=True)
        rows = datasets.Dataset.from_dict(columns, features=features)
        rows.to_parquet(folder / "data" / f"{split}-00000-of-00001.parquet")
        return str(folder)

    return write


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()
    return tmp_path / "home"


def test_hub_with_named_labels(hub_folder, home):
    """Bytes come out as they went in, under the name of their class."""
    names = ["F-16A/B", "DC-3", "A380, Airbus"]
    images = [Image.fromarray(pixels) for pixels in PIXELS]
    source = hub_folder(
        {"image": images, "variant": [0, 1, 1, 2, 0, 1]},
        [("image", "Image"), ("variant", "ClassLabel", 3, names)],
    )
    spec = replace(get_dataset_spec("aircraft"), source=source)
    with pytest.raises(ValueError, match=r"\['A380, Airbus'\], which are none of air"):
        load_dataset(spec, data_home=home)
    spec = replace(spec, labels=(), class_names=())
    data = load_dataset(spec, data_home=home)
    assert data.classes.tolist() == ["A380, Airbus", "DC-3", "F-16A_B"]
    assert data.class_names == ["A380", "DC-3", "F-16A/B"]
    labels = [["F-16A_B", "DC-3", "A380, Airbus"][k] for k in [0, 1, 1, 2, 0, 1]]
    for path, label in zip(data.images, data.target, strict=True):
        index = int(path.stem)
        assert labels[index] == label and path.is_relative_to(home / "aircraft")
        with Image.open(path) as image:
            assert (np.asarray(image) == PIXELS[index]).all()
    assert len(data.images) == 6
    # The second time from disk alone.
    again = load_dataset(replace(spec, source="gone/away"), data_home=home)
    assert again.images == data.images and again.class_names == data.class_names


def test_hub_with_numbered_labels(hub_folder, home):
    """Numbers without names are places in the labels of the spec."""
    source = hub_folder(
        {"image": [Image.fromarray(p) for p in PIXELS], "label": [0, 9, 9, 3, 0, 9]},
        [("image", "Image"), ("label", "Value", "int64")],
    )
    data = load_dataset(
        replace(get_dataset_spec("stl-10"), source=source), data_home=home
    )
    target = {
        int(p.stem): label for p, label in zip(data.images, data.target, strict=True)
    }
    assert [target[k] for k in range(4)] == ["airplane", "truck", "truck", "cat"]
    assert len(data.classes) == 10
    wrong = replace(get_dataset_spec("aircraft"), source=source)
    with pytest.raises(ValueError, match="has no column 'variant', but"):
        load_dataset(wrong, data_home=home)
    assert not (home / "aircraft" / "test").exists()


@pytest.mark.parametrize(
    "name, change, n_images",
    [
        ("cifar-100", {"crab": "cra"}, 3),  # as on the Hub: known by its place
        ("imagenet", {"tench": "tench, Tinca tinca", "toilet paper": "tissue"}, 3),
        ("flowers-102", "reversed", 3),
        ("objectnet", "more", 2),
        ("imagenet-a", "synsets", 3),
    ],
)
def test_hub_with_other_names_or_order(name, change, n_images, hub_folder, home):
    """What the Hub's copy calls the classes is mapped to the paper's."""
    spec = get_dataset_spec(name)
    hub = [*spec.class_names]
    if name == "imagenet":  # two names stand for two classes each
        hub = [f"{n}, {k}" if hub.count(n) > 1 else n for k, n in enumerate(hub)]
    wanted = [spec.labels[k] for k in (0, 26, len(hub) - 1)]
    if change == "reversed":
        hub = hub[::-1]
    elif change == "more":
        hub.insert(1, "air freshener")
    elif change == "synsets":
        hub = list(spec.labels)
    else:
        hub = [change.get(n, n) for n in hub]
    rows = [0, 26, len(hub) - 1]
    if change == "reversed":
        rows = [len(hub) - 1, len(hub) - 27, 0]
    elif change == "more":
        rows, wanted = [0, 1, len(hub) - 1], [wanted[0], None, wanted[2]]
    source = hub_folder(
        {
            spec.image_column: [Image.fromarray(p) for p in PIXELS[:3]],
            spec.label_column: rows,
        },
        [
            (spec.image_column, "Image"),
            (spec.label_column, "ClassLabel", len(hub), hub),
        ],
        split=spec.split,
    )
    data = load_dataset(replace(spec, source=source), data_home=home)
    target = {
        int(p.stem): label for p, label in zip(data.images, data.target, strict=True)
    }
    assert [target.get(k) for k in range(3)] == wanted
    assert len(target) == n_images and len(data.classes) == spec.n_classes


def test_hub_of_captions(hub_folder, home):
    images = [Image.fromarray(p) for p in PIXELS]
    source = hub_folder(
        {
            "image_0": images[:3],
            "image_1": images[3:],
            "caption_0": ["a b"] * 3,
            "caption_1": ["b a"] * 3,
            "collapsed_tag": ["Object", "Both", "Relation"],
        },
        [("image_0", "Image"), ("image_1", "Image")]
        + [(n, "Value", "string") for n in ("caption_0", "caption_1", "collapsed_tag")],
    )
    spec = replace(get_dataset_spec("winoground"), source=source)
    data = load_dataset(spec, data_home=home)
    assert data.tags.tolist() == ["Object", "Both", "Relation"]
    for k, pair in enumerate(data.images):
        for path, pixels in zip(pair, (PIXELS[k], PIXELS[k + 3]), strict=True):
            with Image.open(path) as image:
                assert (np.asarray(image) == pixels).all()


def test_missing_library_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    monkeypatch.setenv("DIFFUSION_SKLEARN_DATA", str(tmp_path))
    with pytest.raises(ImportError, match=r"diffusion-sklearn\[hub-datasets\]"):
        load_dataset("pets")
    # What was written there before needs no library.
    fill(tmp_path / "pets" / "test", ["pug", "boxer"])
    assert set(load_dataset("pets").target) == {"pug", "boxer"}
