"""The class-conditional family without an autoencoder: what is its own."""

import pytest
import torch

from diffusion_sklearn import load_backbone
from tests.backbones.test_families import IMAGES, classifier, pixels


def test_a_gray_model_of_pixels_reads_luminance():
    pipeline = pixels()
    pipeline.unet = type(pipeline.unet)(
        **{**pipeline.unet.config, "in_channels": 1, "out_channels": 1}
    )
    backbone = load_backbone(pipeline)
    x = torch.rand(2, 3, 8, 8)
    expected = 0.299 * x[:, :1] + 0.587 * x[:, 1:2] + 0.114 * x[:, 2:]
    torch.testing.assert_close(backbone.encode(x), expected)
    assert classifier(backbone).predict(IMAGES).shape == (3,)


def test_a_model_of_pixels_without_classes_is_refused():
    pipeline = pixels()
    pipeline.unet.register_to_config(num_class_embeds=None)
    with pytest.raises(ValueError, match="no num_class_embeds"):
        load_backbone(pipeline)


def test_a_model_of_pixels_has_no_null_class():
    clf = classifier(pixels())
    with pytest.raises(ValueError, match=r"no null class; pass null_condition=k"):
        clf.score_samples(IMAGES)
    clf.set_params(null_condition=5)
    with pytest.raises(ValueError, match=r"null_condition=5 is no class id.*0 to 4"):
        clf.score_samples(IMAGES)
    assert clf.set_params(null_condition=4).score_samples(IMAGES).shape == (3,)
