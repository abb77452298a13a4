"""The filters of a training set, against counts by hand and plain NumPy."""

import numpy as np
import pytest
import torch
from diffusers.pipelines.stable_diffusion.safety_checker import (
    StableDiffusionSafetyChecker,
)
from PIL import Image
from safetensors.numpy import save_file
from scipy.special import expit
from transformers import CLIPConfig

from diffusion_sklearn.baselines._contrastive import get_contrastive
from diffusion_sklearn.datasets._filters import training_filter_report
from diffusion_sklearn.datasets._scorers import (
    ClipAestheticScorer,
    ClipSafetyScorer,
    SafetyCheckerScorer,
)
from diffusion_sklearn.metrics import clopper_pearson
from tests.models import tiny_clip

RANDOM = np.random.RandomState(0)
IMAGES = RANDOM.randint(0, 256, (5, 9, 12, 3), dtype=np.uint8)
HIDDEN = [
    (RANDOM.randn(6, 8), RANDOM.randn(6)),
    (RANDOM.randn(4, 6), RANDOM.randn(4)),
    (RANDOM.randn(1, 4), RANDOM.randn(1)),
]


@pytest.fixture(scope="module")
def embeddings(clip_folder):
    return get_contrastive(clip_folder, None, "cpu", "auto").embed_images(IMAGES)


def test_counts_by_hand():
    """Thresholds are met from above and from below, ends included."""
    sizes = [(512, 512), (511, 900), (900, 600), (2000, 512), (64, 64)]
    images = [Image.new("L", size) for size in sizes]
    beauty = {512: 4.5, 511: 9.0, 600: 4.4, 64: 5.0}
    danger = {512: 0.1, 511: 0.0, 600: 0.0, 64: 0.11}
    report = training_filter_report(
        images,
        aesthetic=lambda some: [beauty[min(image.size)] for image in some],
        nsfw=lambda some: np.array([danger[min(image.size)] for image in some]),
    )
    passes = {
        "resolution": [1, 0, 1, 1, 0],
        "aesthetic": [1, 1, 0, 1, 1],
        "safe": [1, 1, 1, 1, 0],
        "aesthetic+safe": [1, 1, 0, 1, 0],
        "resolution+aesthetic+safe": [1, 0, 0, 1, 0],
    }
    assert {k: v.astype(int).tolist() for k, v in report.passes.items()} == passes
    for name, right in passes.items():
        assert report.shares[name] == sum(right) / 5
        assert report.intervals[name] == clopper_pearson(sum(right), 5)
    assert report.scores["resolution"].tolist() == [512, 511, 600, 512, 64]


def test_filters_without_scorers_are_left_out(tmp_path):
    Image.new("RGB", (30, 20)).save(tmp_path / "a.png")
    images = [str(tmp_path / "a.png")] * 70  # more than a scorer sees at once
    seen = []

    def score(some):
        seen.append(len(some))
        return np.zeros(len(some))

    report = training_filter_report(images, resolution=20, nsfw=score)
    assert list(report.shares.items()) == [
        ("resolution", 1.0),
        ("safe", 1.0),
        ("resolution+safe", 1.0),
    ]
    assert seen == [64, 6] and report.n == 70
    assert list(training_filter_report(images, resolution=21).shares) == ["resolution"]


def test_bad_scorers_are_named():
    with pytest.raises(ValueError, match=r"aesthetic gave an array of shape \(1,\)"):
        training_filter_report(IMAGES, aesthetic=lambda some: [1.0])
    with pytest.raises(ValueError, match=r"nsfw gave .* not finite"):
        training_filter_report(IMAGES, nsfw=lambda some: [np.nan] * len(some))
    with pytest.raises(ValueError, match="images is empty"):
        training_filter_report([])


def test_linear_head(clip_folder, embeddings, tmp_path):
    weight, bias = RANDOM.randn(1, 8).astype(np.float32), np.float32([0.3])
    by_hand = embeddings.astype(np.float64) @ weight[0] + 0.3
    save_file({"weight": weight, "bias": bias}, tmp_path / "head.safetensors")
    for head in ([(weight, bias)], tmp_path / "head.safetensors"):
        scorer = ClipAestheticScorer(clip_folder, head=head, device="cpu")
        np.testing.assert_allclose(scorer(list(IMAGES)), by_hand, atol=1e-5)
    report = training_filter_report(
        IMAGES, aesthetic=scorer, min_aesthetic=np.median(by_hand) - 1e-5
    )
    assert report.shares["aesthetic"] == 3 / 5


def test_layers_go_by_number(clip_folder, embeddings):
    """Linear layers alone are one matrix; with ReLU and a sigmoid they are not."""
    names = ["layers.10", "layers.2", "layers.0"]
    head = {}
    for name, (weight, bias) in zip(names, HIDDEN[::-1], strict=True):
        head |= {f"{name}.weight": weight, f"{name}.bias": bias}
    (a, b), (c, d), (e, f) = HIDDEN
    by_hand = embeddings @ (e @ c @ a)[0] + (e @ (c @ b + d) + f)
    scores = ClipAestheticScorer(clip_folder, head=head)(IMAGES)
    np.testing.assert_allclose(scores, by_hand, atol=1e-4)
    hidden = np.maximum(embeddings @ a.T + b, 0)
    hidden = np.maximum(hidden @ c.T + d, 0)
    proba = ClipSafetyScorer(clip_folder, head=head)(IMAGES)
    np.testing.assert_allclose(proba, expit(hidden @ e[0] + f), atol=1e-5)
    assert ((proba > 0) & (proba < 1)).all()


def test_bad_heads_are_named(clip_folder):
    with pytest.raises(ValueError, match="each layer needs a weight and a bias"):
        ClipAestheticScorer(clip_folder, head={"weight": np.zeros((1, 8))})
    for head in ([], HIDDEN[:2], HIDDEN[::2], [(np.zeros(8), np.zeros(1))]):
        with pytest.raises(ValueError, match="that fit each other, the last with one"):
            ClipAestheticScorer(clip_folder, head=head)
    scorer = ClipAestheticScorer(clip_folder, head=HIDDEN[2:])
    with pytest.raises(ValueError, match="head takes vectors of 4 numbers"):
        scorer(IMAGES)


def test_safety_checker(tmp_path):
    """It objects where the cosine with a concept is above that concept's threshold."""
    clip, _, processor = tiny_clip("clip")
    config = CLIPConfig.from_dict(clip.config.to_dict())
    checker = StableDiffusionSafetyChecker(config).eval()
    pixels = processor(list(IMAGES), return_tensors="pt").pixel_values
    with torch.inference_mode():
        vectors = checker.visual_projection(checker.vision_model(pixels)[1])
    vectors = torch.nn.functional.normalize(vectors).double().numpy()
    concept = vectors.mean(axis=0)
    cosines = vectors @ concept / np.linalg.norm(concept)
    threshold = np.sort(cosines)[[1, 2]].mean()
    checker.concept_embeds.data[0] = torch.tensor(concept)
    checker.concept_embeds_weights.data[:] = 2.0  # no cosine is above
    checker.special_care_embeds_weights.data[:] = 2.0
    checker.concept_embeds_weights.data[0] = threshold
    flags = SafetyCheckerScorer(checker, processor)(IMAGES)
    clear = np.abs(cosines - threshold) > 1e-3  # it rounds to three digits
    assert clear.sum() >= 2
    assert (flags[clear] == (cosines > threshold)[clear]).all()
    checker.save_pretrained(tmp_path / "checker")
    again = SafetyCheckerScorer(str(tmp_path / "checker"), processor)(IMAGES)
    assert (again == flags).all() and set(flags) <= {0.0, 1.0}
