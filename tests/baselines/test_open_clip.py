"""Models of open_clip as classifiers, against open_clip itself in float64."""

import json
import pickle
import shutil
import sys

import huggingface_hub.constants
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from scipy.special import softmax
from sklearn.base import clone
from sklearn.model_selection import cross_val_score

from diffusion_sklearn import clear_cache
from diffusion_sklearn.baselines import CLIPZeroShotClassifier
from tests.models import tiny_tokenizer

NEEDED = 'needs open_clip: pip install "diffusion-sklearn[open-clip]"'
NAMES = ["ant", "bee", "eel"]
TEXTS = [f"a photo of a {name}." for name in NAMES]
MEAN, STD = (0.48, 0.45, 0.4), (0.26, 0.25, 0.27)

# Resized, they are 3 pixels too high, 5 too wide, and just right.
SIZES = [(70, 64), (32, 37), (16, 16), (41, 37)]
IMAGES = [
    np.random.RandomState(k).randint(0, 256, (*size, 3), dtype=np.uint8)
    for k, size in enumerate(SIZES)
]

TEXT = {"context_length": 20, "width": 16, "heads": 2, "layers": 1}
CONFIGS = {
    "resnet": {
        "model_cfg": {
            "embed_dim": 8,
            "vision_cfg": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8},
            "text_cfg": {**TEXT, "vocab_size": 49408},
            "quick_gelu": True,
        },
        "preprocess_cfg": {"mean": MEAN, "std": STD, "interpolation": "bicubic"},
    },
    "vit": {
        "model_cfg": {
            "embed_dim": 8,
            "init_logit_bias": -1.5,
            "vision_cfg": {
                "image_size": 32,
                "layers": 1,
                "width": 16,
                "head_width": 8,
                "patch_size": 16,
            },
            "text_cfg": {**TEXT, "vocab_size": 80, "hf_tokenizer_name": "org/name"},
        },
        "preprocess_cfg": {"mean": MEAN, "std": STD, "resize_mode": "squash"},
    },
}


def save_tiny(folder, kind):
    """A tiny random model in the layout of open_clip's repositories on the Hub."""
    open_clip = pytest.importorskip("open_clip", reason=NEEDED)
    torch.manual_seed(0)
    model = open_clip.CLIP(**CONFIGS[kind]["model_cfg"])
    for p in model.parameters():
        fan_in = p[0].numel() if p.ndim > 1 else 4
        p.data.normal_(1.0 if p.ndim == 1 else 0.0, fan_in**-0.5)
    for name, buffer in model.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            buffer.uniform_(0.5, 1.5)
    model.logit_scale.data.fill_(2.001)
    if kind == "vit":
        model.logit_bias.data.fill_(-1.5)
        tiny_tokenizer().save_pretrained(folder)
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    (folder / "open_clip_config.json").write_text(json.dumps(CONFIGS[kind]))
    return str(folder)


@pytest.fixture(scope="session")
def resnet_folder(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("tiny-resnet"), "resnet")


@pytest.fixture(scope="session")
def vit_folder(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("tiny-vit"), "vit")


@pytest.fixture(params=["resnet", "vit"])
def folder(request):
    return request.getfixturevalue(f"{request.param}_folder")


@pytest.fixture
def clf(folder):
    return CLIPZeroShotClassifier(model=folder, dtype="float64")


@pytest.fixture
def cache(resnet_folder, tmp_path, monkeypatch):
    """A Hub cache with the tiny model as that of RN50, beside files of timm."""
    repository = tmp_path / "models--timm--resnet50_clip.openai"
    snapshot = repository / "snapshots" / ("0" * 40)
    shutil.copytree(resnet_folder, snapshot)
    timm = {"architecture": "resnet50_clip", "num_classes": 0, "pretrained_cfg": {}}
    (snapshot / "config.json").write_text(json.dumps(timm))
    (repository / "refs").mkdir()
    for ref in ("main", "v2"):
        (repository / "refs" / ref).write_text("0" * 40)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    clear_cache()
    return snapshot


def prepare(image, squash):
    """What open_clip's transform does, with PIL alone: (3, 32, 32), float64."""
    picture = Image.fromarray(image)
    width, height = picture.size
    short = min(width, height)
    size = (int(32 * width / short), int(32 * height / short))
    picture = picture.resize((32, 32) if squash else size, Image.Resampling.BICUBIC)
    left, top = (round((side - 32) / 2) for side in picture.size)
    picture = picture.crop((left, top, left + 32, top + 32))
    pixels = (np.asarray(picture) / 255 - MEAN) / STD
    return torch.from_numpy(pixels).movedim(-1, 0)


@torch.no_grad()
def plain_embeddings(folder, images, texts):
    """What open_clip itself makes of images and texts, in float64."""
    import open_clip

    place = f"local-dir:{folder}"
    model, transform = open_clip.create_model_from_pretrained(place)
    model = model.double().eval()
    squash = "tiny-vit" in str(folder)
    pixels = torch.stack([prepare(image, squash) for image in images])
    own = torch.stack([transform(Image.fromarray(image)) for image in images])
    torch.testing.assert_close(own.double(), pixels, rtol=0, atol=1e-5)
    ids = open_clip.get_tokenizer(place)(texts)
    images = model.encode_image(pixels, normalize=True)
    return images.numpy(), model.encode_text(ids, normalize=True).numpy()


# Numbers -----------------------------------------------------------------------------


def test_posterior_against_plain_open_clip(clf):
    clf.fit(classes=NAMES[::-1])
    images, texts = plain_embeddings(clf.model, IMAGES, TEXTS)
    expected = softmax(np.exp(2.001) * images @ texts.T, axis=1)
    assert np.ptp(expected) > 0.05
    assert clf.prompts_ == [[text] for text in TEXTS]
    assert clf.logit_scale_ == pytest.approx(np.exp(2.001), rel=1e-6)
    np.testing.assert_allclose(clf.text_embeddings_, texts, rtol=0, atol=1e-5)
    np.testing.assert_allclose(clf.predict_proba(IMAGES), expected, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(
        clf.predict(IMAGES), np.array(NAMES)[expected.argmax(axis=1)]
    )
    clf.set_params(batch_size=1, dtype="float32").fit(classes=NAMES)
    np.testing.assert_allclose(clf.predict_proba(IMAGES), expected, rtol=0, atol=1e-4)


def test_templates_are_averaged(clf):
    templates = ["a {}", "one big {}."]
    clf.set_params(prompt_template=templates).fit(classes=NAMES)
    prompts = [t.format(name) for name in NAMES for t in templates]
    _, texts = plain_embeddings(clf.model, IMAGES, prompts)
    texts = texts.reshape(3, 2, -1).mean(axis=1)
    texts /= np.linalg.norm(texts, axis=1, keepdims=True)
    np.testing.assert_allclose(clf.text_embeddings_, texts, rtol=0, atol=1e-5)


def test_scores_of_pairs(clf):
    images, texts = plain_embeddings(clf.model, IMAGES, NAMES)
    bias = -1.5 if "tiny-vit" in clf.model else 0.0
    expected = np.exp(2.001) * images @ texts.T + bias
    scores = clf.score_pairs(IMAGES, NAMES)
    np.testing.assert_allclose(scores, expected, rtol=0, atol=1e-5)


def test_bfloat16_with_the_scale_in_float32(clf):
    expected = clf.fit(classes=NAMES).decision_function(IMAGES)
    clf.set_params(dtype="bfloat16").fit(classes=NAMES)
    assert clf.logit_scale_ == pytest.approx(np.exp(2.001), rel=1e-6)
    # bfloat16 has 8 bits: 1 in 256 of cosines near 1, times the scale of 7.4.
    np.testing.assert_allclose(clf.decision_function(IMAGES), expected, atol=0.3)


def test_every_form_of_images_gives_the_same(clf):
    images = np.stack([image[:16, :16] for image in IMAGES])
    expected = clf.fit(classes=NAMES).predict_proba(images)
    clf.set_params(image_shape=(16, 16, 3))
    for form in (
        [Image.fromarray(image) for image in images],
        images / 255,
        torch.from_numpy(images).movedim(-1, 1),
        images.reshape(4, -1),
    ):
        np.testing.assert_array_equal(clf.predict_proba(form), expected)


def test_a_prompt_that_is_cut_is_named(resnet_folder, vit_folder):
    """20 tokens: a start, 18 words or letters, an end."""
    clf = CLIPZeroShotClassifier(model=resnet_folder, prompt_template="{}")
    words = " ".join(["cat"] * 18)
    clf.fit(classes=[words, "a dog"])  # just fits
    with pytest.warns(UserWarning, match="23 tokens.*reads 20: 'dog dog red' was cut"):
        cut = clf.fit(classes=[f"{words} dog dog red", "a dog"]).text_embeddings_
    np.testing.assert_array_equal(
        cut, clf.fit(classes=[words, "a dog"]).text_embeddings_
    )
    clf.set_params(model=vit_folder)
    with pytest.warns(UserWarning, match="22 tokens.*reads 20: 'st' was cut"):
        clf.fit(classes=["abcdefghijklmnopqrst", "b"])


# As an estimator ---------------------------------------------------------------------


def test_in_cross_val_score(resnet_folder):
    clf = CLIPZeroShotClassifier(model=resnet_folder)
    images = np.random.RandomState(0).randint(0, 256, (8, 16, 16, 3), dtype=np.uint8)
    y = np.array(NAMES[:2] * 4)
    labels = clone(clf).fit(classes=NAMES[:2]).predict(images)
    expected = [np.mean(labels[k : k + 4] == y[k : k + 4]) for k in (0, 4)]
    scores = cross_val_score(clf, images, y, cv=2)
    np.testing.assert_array_equal(np.sort(scores), np.sort(expected))


def test_pickles_hold_the_name_alone(clf):
    expected = clf.fit(classes=NAMES).predict_proba(IMAGES)
    file = pickle.dumps(clf)
    assert len(file) < 20_000
    clear_cache()
    np.testing.assert_array_equal(pickle.loads(file).predict_proba(IMAGES), expected)


# Where models come from --------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "open_clip:RN50/openai",
        "open_clip:RN50-quickgelu/openai",
        "open_clip:RN50/openai@v2",
        "timm/resnet50_clip.openai",
        "timm/resnet50_clip.openai@v2",
    ],
)
def test_from_the_cache_of_the_hub(name, cache, resnet_folder):
    clf = CLIPZeroShotClassifier(model=resnet_folder).fit(classes=NAMES)
    twin = CLIPZeroShotClassifier(model=name).fit(classes=NAMES)
    np.testing.assert_array_equal(twin.predict_proba(IMAGES), clf.predict_proba(IMAGES))


@pytest.mark.parametrize("name", ["open_clip:RN50/openai", "timm/resnet50_clip.openai"])
@pytest.mark.parametrize(
    "file", ["open_clip_config.json", "open_clip_model.safetensors"]
)
def test_a_cache_that_lacks_a_file(name, file, cache):
    (cache / file).unlink()
    match = f"model='{name}' can't be loaded.*the local cache .*the Hugging Face Hub"
    with pytest.raises(OSError, match=match):
        CLIPZeroShotClassifier(model=name).fit(classes=NAMES)


def test_what_is_not_in_the_cache_says_how_to_fetch_it(tmp_path, monkeypatch):
    pytest.importorskip("open_clip", reason=NEEDED)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    clear_cache()
    with pytest.raises(OSError, match="can't be loaded") as error:
        CLIPZeroShotClassifier(model="open_clip:RN50/openai").fit(classes=NAMES)
    for part in (
        "model='open_clip:RN50/openai'",
        "the local cache lacks it",
        "the Hugging Face Hub lacks it",
        "hf download timm/resnet50_clip.openai --local-dir",
    ):
        assert part in str(error.value)


@pytest.mark.parametrize(
    "name, possible",
    [
        ("RN50/opnai", ["RN50/openai", "RN50/yfcc15m", "RN50/cc12m"]),
        ("RN50", ["RN50/openai", "RN50/yfcc15m", "RN50/cc12m"]),
        ("ViT-B32/laion2b_s34b_b79k", ["ViT-B-32/laion2b_s34b_b79k"]),
        ("ViTamin-S/datacomp1b", []),  # a pickle
    ],
)
def test_a_name_that_open_clip_does_not_list(name, possible):
    pytest.importorskip("open_clip", reason=NEEDED)
    with pytest.raises(ValueError, match=r"open_clip.list_pretrained\(\)") as error:
        CLIPZeroShotClassifier(model=f"open_clip:{name}").fit(classes=NAMES)
    for part in [name, *possible]:
        assert f"'open_clip:{part}'" in str(error.value)


@pytest.mark.parametrize(
    "file, text, says",
    [
        ("open_clip_model.safetensors", None, "no open_clip_model.safetensors"),
        ("open_clip_model.safetensors", "cut short", r"\S"),
        ("open_clip_config.json", "{", r"\S"),
        ("open_clip_config.json", "{}", "model_cfg"),
        ("open_clip_config.json", json.dumps(CONFIGS["vit"]), r"state_dict"),
    ],
)
def test_a_folder_that_lacks_something(resnet_folder, tmp_path, file, text, says):
    shutil.copytree(resnet_folder, tmp_path / "copy")
    (tmp_path / "copy" / file).unlink()
    if text is None:  # a pickle is not read in its place
        torch.save({}, tmp_path / "copy" / "open_clip_pytorch_model.bin")
    else:
        (tmp_path / "copy" / file).write_text(text)
    with pytest.raises(OSError, match=f"the local folder says: .*{says}.*safetensors"):
        CLIPZeroShotClassifier(model=tmp_path / "copy").fit(classes=NAMES)


def test_without_open_clip(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "open_clip", None)
    (tmp_path / "open_clip_config.json").write_text(json.dumps(CONFIGS["resnet"]))
    for name in (tmp_path, "open_clip:RN50/openai"):
        with pytest.raises(
            ImportError, match=r'pip install "diffusion-sklearn\[open-c'
        ):
            CLIPZeroShotClassifier(model=name).fit(classes=NAMES)


def test_a_folder_in_both_layouts_is_read_by_transformers(
    clip_folder, tmp_path, monkeypatch
):
    monkeypatch.setitem(sys.modules, "open_clip", None)
    shutil.copytree(clip_folder, tmp_path / "both")
    config = json.dumps(CONFIGS["resnet"])
    (tmp_path / "both" / "open_clip_config.json").write_text(config)
    clf = CLIPZeroShotClassifier(model=clip_folder).fit(classes=NAMES)
    twin = CLIPZeroShotClassifier(model=tmp_path / "both").fit(classes=NAMES)
    np.testing.assert_array_equal(twin.predict_proba(IMAGES), clf.predict_proba(IMAGES))
