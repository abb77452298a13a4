"""Every family from every place: the same errors as those of the pipeline object."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pytest
import torch
from joblib import Parallel, delayed

from diffusion_sklearn import load_backbone
from diffusion_sklearn.testing import check_backbone
from tests.backbones.layouts import (
    errors_of,
    size_of,
    write_folder,
    write_single_file,
    write_variant,
)
from tests.models import PIPELINES

pytestmark = pytest.mark.slow


@dataclass
class Model:
    """A tiny pipeline of a family, and where it is written."""

    family: str
    root: Path

    @cached_property
    def pipeline(self):
        pipeline = PIPELINES[self.family]()
        if self.family.startswith("Stable Diffusion 3"):  # no file has this projection
            torch.nn.init.eye_(pipeline.text_encoder.text_projection.weight)
        return pipeline

    @cached_property
    def folder(self):
        return write_folder(self.pipeline, self.root / "folder")

    @cached_property
    def errors(self):
        return errors_of(self.pipeline, self.size)

    @cached_property
    def size(self):
        return size_of(self.pipeline)


@pytest.fixture(scope="module", params=PIPELINES)
def model(request, tmp_path_factory):
    """One for all tests of a family."""
    return Model(request.param, tmp_path_factory.mktemp("model"))


def test_folder(model):
    backbone = load_backbone(model.folder)
    assert backbone.fingerprint() == load_backbone(model.pipeline).fingerprint()
    actual = errors_of(backbone, model.size)
    np.testing.assert_allclose(actual, model.errors, rtol=1e-5)
    backbone.image_size = model.size
    check_backbone(backbone)


def test_variant(model):
    """The errors of the weights that were rounded, in float32."""
    backbone = load_backbone(write_variant(model.pipeline, model.root / "variant"))
    rounded = PIPELINES[model.family]()
    for name, part in rounded.components.items():
        if isinstance(part, torch.nn.Module):
            weights = getattr(model.pipeline, name).state_dict()
            part.load_state_dict({k: round_half(w) for k, w in weights.items()})
    assert backbone.fingerprint() == load_backbone(rounded).fingerprint()
    actual = errors_of(backbone, model.size)
    np.testing.assert_allclose(actual, errors_of(rounded, model.size), rtol=1e-5)


def round_half(weight):
    return weight.half().to(weight.dtype) if weight.is_floating_point() else weight


def test_single_file(model):
    file = write_single_file(model.family, model.pipeline, model.root / "a.safetensors")
    if file is None:
        with pytest.raises(ValueError, match="from a single file; pass a folder"):
            load_backbone(save_network(model), config=model.folder)
        return
    backbone = load_backbone(file, config=model.folder)
    assert backbone.fingerprint() == load_backbone(model.pipeline).fingerprint()
    actual = errors_of(backbone, model.size)
    np.testing.assert_allclose(actual, model.errors, rtol=1e-5)
    half = load_backbone(file, config=model.folder, dtype="bfloat16").fingerprint()
    assert half == load_backbone(model.folder, dtype="bfloat16").fingerprint()


def save_network(model):
    """A file with the network of a family that is never in one."""
    network = load_backbone(model.pipeline).network
    network.save_pretrained(model.root / "network", safe_serialization=True)
    return next((model.root / "network").glob("*.safetensors"))


def test_worker(model):
    """From the folder and from a pickled backbone, in a process of joblib's."""
    backbone = load_backbone(model.folder)
    for sent in (model.folder, backbone):
        (actual,) = Parallel(2, "loky")([delayed(errors_of)(sent, model.size)])
        np.testing.assert_allclose(actual, model.errors, rtol=1e-5)
