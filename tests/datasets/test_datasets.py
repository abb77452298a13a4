"""The photos that ship, the full set from IDX files, and scenes composed of photos."""

import gzip
import re
from collections import Counter

import numpy as np
import pytest

from diffusion_sklearn.datasets import (
    _fashion_winoground,
    load_fashion_mnist,
    load_fashion_photos,
    load_fashion_winoground,
    make_fashion_scenes,
    make_fashion_winoground,
)
from diffusion_sklearn.datasets._fashion_mnist import FASHION_NAMES
from diffusion_sklearn.datasets._fashion_scenes import (
    RELATIONS,
    SCENE_COLORS,
    held_out_pairs,
    held_out_triples,
    is_held_out,
    render_scene,
)


@pytest.fixture(scope="module")
def idx_folder(tmp_path_factory, photos):
    """IDX files of the shipped photos: plain for training, gzipped for the test."""
    folder = tmp_path_factory.mktemp("idx")
    for prefix, opener, end in (("train", open, ""), ("t10k", gzip.open, ".gz")):
        images, labels = photos.images[:500], photos.target[:500].astype(np.uint8)
        for name, array in (("images-idx3", images), ("labels-idx1", labels)):
            head = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">i4").tobytes()
            with opener(folder / f"{prefix}-{name}-ubyte{end}", "wb") as file:
                file.write(head + array.tobytes())
    return folder


def test_photos_that_ship(photos):
    assert photos.images.shape == (1000, 28, 28) and photos.images.dtype == np.uint8
    assert photos.names[:3].tolist() == ["ankle boot", "pullover", "trouser"]
    assert (photos.target_names[photos.target] == photos.names).all()
    assert np.bincount(photos.target).min() > 80
    assert load_fashion_photos().images is not photos.images


@pytest.mark.parametrize("split", ["train", "test"])
def test_idx_files(idx_folder, photos, split, monkeypatch):
    data = load_fashion_mnist(split=split, data_home=idx_folder)
    np.testing.assert_array_equal(data.images, photos.images[:500])
    np.testing.assert_array_equal(data.target, photos.target[:500])
    monkeypatch.setenv("FASHION_MNIST_HOME", str(idx_folder))
    assert len(load_fashion_mnist(split=split).images) == 500


def test_idx_files_that_are_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"data_home=.*dataset-fashion-mnist"):
        load_fashion_mnist(data_home=tmp_path)
    with pytest.raises(ValueError, match="split='valid' is unknown"):
        load_fashion_mnist(split="valid")


def test_scenes_are_seeded():
    scenes = make_fashion_scenes(20, split="test", random_state=3)
    again = make_fashion_scenes(20, split="test", random_state=3)
    other = make_fashion_scenes(20, split="test", random_state=4)
    assert scenes.images.shape == (20, 32, 32, 3) and scenes.images.dtype == np.uint8
    np.testing.assert_array_equal(scenes.images, again.images)
    assert scenes.captions == again.captions != other.captions


@pytest.mark.parametrize("n_items", [1, 2])
def test_captions_say_what_is_shown(n_items):
    data = make_fashion_scenes(30, split="test", n_items=n_items)
    for caption, scene in zip(data.captions, data.scenes, strict=True):
        assert len(scene.items) == len(scene.colors) == n_items
        words = [f"a {c} {i}" for c, i in zip(scene.colors, scene.items, strict=True)]
        joint = f" {scene.relation} " if scene.relation else ""
        assert caption == joint.join(words)
        assert scene.mirrored.mirrored == scene
        assert not any(color in scene.plain_caption for color in SCENE_COLORS)


def test_relations_and_colors_are_those_painted():
    """The pixels of each colour lie where the caption says."""
    data = make_fashion_scenes(200, split="test", n_items=2)
    axis = {"left of": (1, -1), "right of": (1, 1), "above": (0, -1), "below": (0, 1)}
    checked = 0
    for image, scene in zip(data.images, data.scenes, strict=True):
        if set(scene.colors) - {"red", "green", "blue"} or len(set(scene.colors)) < 2:
            continue
        centers = []
        for color in scene.colors:
            channel = ["red", "green", "blue"].index(color)
            others = [k for k in range(3) if k != channel]
            excess = image[..., channel].astype(int) - image[..., others].max(axis=2)
            centers.append(np.argwhere(excess > 40).mean(axis=0))  # (y, x)
        along, sign = axis[scene.relation]
        assert sign * (centers[0][along] - centers[1][along]) > 4
        checked += 1
    assert checked > 20


def test_held_out_compositions_never_occur_in_training(idx_folder):
    assert len(held_out_pairs()) == 10 and len(held_out_triples()) == 40
    for split in ("train", "test"):
        data = make_fashion_scenes(300, split=split, data_home=idx_folder)
        assert not any(is_held_out(scene) for scene in data.scenes)
        assert not any(is_held_out(scene.mirrored) for scene in data.scenes)
    data = make_fashion_scenes(50, split="held-out", data_home=idx_folder)
    assert all(is_held_out(scene) for scene in data.scenes)


@pytest.mark.parametrize("bad", [{"split": "val"}, {"n_items": 3}])
def test_bad_arguments_are_named(bad):
    (name,) = bad
    with pytest.raises(ValueError, match=f"{name}="):
        make_fashion_scenes(1, **{"split": "test", **bad})


# Pairs of scenes ---------------------------------------------------------------------

THING = rf"an? (?:({'|'.join(SCENE_COLORS)}) )?({'|'.join(FASHION_NAMES)})"
CAPTION = re.compile(rf"{THING} ({'|'.join(RELATIONS)}) {THING}")


def parse(caption):
    """Items, colours (None where none are told) and relation of a caption."""
    *first, relation, color, item = CAPTION.fullmatch(caption).groups()
    return (first[1], item), (first[0], color), relation


@pytest.fixture(scope="module")
def winoground():
    return load_fashion_winoground()


@pytest.fixture
def painted(monkeypatch):
    """The scenes that are painted, and the photos they are made of."""
    calls = []

    def recording(scene, photos, rng):
        calls.append((scene, photos))
        return render_scene(scene, photos, rng)

    monkeypatch.setattr(_fashion_winoground, "render_scene", recording)
    return calls


def test_examples_that_ship(winoground):
    assert winoground.images.shape == (400, 2, 32, 32, 3)
    assert winoground.images.dtype == np.uint8
    assert winoground.captions.shape == (400, 2)
    kinds = ["object", "attribute", "relation", "both"]
    assert Counter(winoground.tags.tolist()) == dict.fromkeys(kinds, 100)
    made = make_fashion_winoground()
    assert made.keys() == winoground.keys()
    for name in made:
        np.testing.assert_array_equal(winoground[name], made[name])


def test_both_captions_have_the_same_words(winoground):
    for pair in winoground.captions.tolist():
        assert pair[0] != pair[1]
        a, b = (Counter(re.sub(r"\ban\b", "a", text).split()) for text in pair)
        assert a == b


def test_what_is_swapped(winoground):
    for tag, pair in zip(winoground.tags, winoground.captions, strict=True):
        (items, colors, relation), second = map(parse, pair)
        assert items[0] != items[1]
        assert (colors[0] != colors[1]) == (tag != "relation")
        assert (
            second
            == {
                "object": (items[::-1], colors, relation),
                "attribute": (items, colors[::-1], relation),
                "relation": (items[::-1], (None, None), relation),
                "both": (items[::-1], colors[::-1], relation),
            }[tag]
        )


def test_examples_that_ship_are_of_trained_combinations(winoground):
    for caption in winoground.captions.ravel():
        items, colors, relation = parse(caption)
        assert held_out_pairs().isdisjoint(zip(colors, items, strict=True))
        assert (items[0], relation, items[1]) not in held_out_triples()


@pytest.mark.parametrize("split", ["train", "test", "held-out"])
def test_both_scenes_are_on_the_side_of_the_split(split, idx_folder, painted):
    """Colours that a caption leaves out count too."""
    data = make_fashion_winoground(40, split=split, data_home=idx_folder)
    scenes = [scene for scene, _ in painted]
    assert [is_held_out(scene) for scene in scenes] == 80 * [split == "held-out"]
    for first, second in zip(scenes[4::8], scenes[5::8], strict=True):  # "relation"
        assert first.items == second.items[::-1]
        assert first.colors == second.colors[::-1]
    told = [scene.caption for scene in scenes]
    told[4::8] = [scene.plain_caption for scene in scenes[4::8]]
    told[5::8] = [scene.plain_caption for scene in scenes[5::8]]
    assert data.captions.ravel().tolist() == told


@pytest.mark.parametrize("split", ["test", "held-out"])
def test_scenes_are_made_of_test_photos(split, photos, painted):
    make_fashion_winoground(4, split=split)
    for _, used in painted:
        assert list(used) == list(FASHION_NAMES)
        for name, images in used.items():
            np.testing.assert_array_equal(images, photos.images[photos.names == name])


def test_examples_are_seeded():
    data, again = (make_fashion_winoground(6, random_state=3) for _ in range(2))
    assert data.tags[[0, 4]].tolist() == ["object", "object"]
    np.testing.assert_array_equal(data.images, again.images)
    np.testing.assert_array_equal(data.captions, again.captions)
    other = make_fashion_winoground(6, random_state=4)
    assert (data.captions != other.captions).any()
    assert (data.images != other.images).any()
    none = make_fashion_winoground(0)
    assert none.images.shape == (0, 2, 32, 32, 3)
    assert none.captions.shape == (0, 2)


def test_bad_arguments_of_pairs(tmp_path):
    with pytest.raises(ValueError, match="split='val' is unknown"):
        make_fashion_winoground(1, split="val")
    with pytest.raises(FileNotFoundError, match="data_home="):
        make_fashion_winoground(1, split="train", data_home=tmp_path)
