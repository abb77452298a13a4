"""The paper's data sets: its numbers, folders on disk, and the Hub's layout."""

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
    assert len(list_datasets()) == 11
    for name in list_datasets():
        spec = get_dataset_spec(name)
        assert spec.name == name and spec.n_trials
        for some in (spec.labels, spec.class_names):
            assert len(set(some)) == len(some) and len(some) in (0, spec.n_classes)
        make_prompts(spec.prompt_template, ["x"], "", True)
    means = [n for n in list_datasets() if "mean" in get_dataset_spec(n).metric]
    assert means == ["aircraft", "pets", "flowers-102"]
    with pytest.raises(FrozenInstanceError):
        get_dataset_spec("pets").n_trials = 3
    with pytest.raises(ValueError, match="name='cats' is unknown; pass one of"):
        get_dataset_spec("cats")


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
        load_dataset("imagenet-a", folder=synsets)
    given = {"n02012849": "crane", "n03126707": "construction crane"}
    data = load_dataset("imagenet-a", folder=synsets, class_names=given)
    assert data.class_names == ["crane", "construction crane"]
    with pytest.raises(ValueError, match=r"lacks the sub-folders \['n03126707'"):
        load_dataset("imagenet-a", folder=synsets, class_names={"n02012849": "crane"})
    (synsets / "names.tsv").write_text("n02012849\tcrane\nn03126707\tbig crane\n")
    data = load_dataset("imagenet-a", folder=synsets)
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
    line = {"caption_0": "a b", "caption_1": "b a", "collapsed_tag": "Object"}
    with pytest.raises(ValueError, match=r"lacks examples\.jsonl"):
        load_dataset("winoground", folder=tmp_path)
    rows = [
        line | {"image_0": f"ex_{k}_img_0", "image_1": f"ex_{k}_img_1"} for k in "012"
    ]
    text = "\n".join(json.dumps(row) for row in rows)
    (tmp_path / "examples.jsonl").write_text(text)
    data = load_dataset("winoground", folder=tmp_path)
    assert data.captions.tolist() == [["a b", "b a"]] * 3
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
