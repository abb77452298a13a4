"""The table of families: from the classes, with sizes that equal the published ones."""

import json

import diffusers
import pytest

from benchmarks.speed import model_sizes
from diffusion_sklearn.backbones._families import families
from diffusion_sklearn.testing import tiny_pipelines
from diffusion_sklearn.testing._checks import CHECKS
from docs._ext.families import describe_families
from docs._ext.results import RESULTS
from tests.testing import test_testing


@pytest.fixture(scope="module")
def rows():
    return describe_families()


def test_every_pipeline_class_is_in_the_table(rows):
    in_package = {
        f"``{name}``"
        for name, cls in families().items()
        if cls.__module__.startswith("diffusion_sklearn.")
    }
    classes = [row["pipeline classes"] for row in rows]
    listed = ", ".join(classes).split(", ")
    assert sorted(listed) == sorted(in_package)


def test_facts_are_those_of_the_classes(rows):
    by_name = {row["family"]: row for row in rows}
    dit, lumina = by_name["DiT"], by_name["Lumina-Image 2"]
    sd = by_name["Stable Diffusion 1.x and 2.x"]
    sd3 = by_name["Stable Diffusion 3 and 3.5"]
    assert dit["predicts"] == "epsilon, variance" and dit["condition"] == "class"
    assert dit["default window"] == "all timesteps" and dit["text encoders"] == ""
    assert lumina["predicts"] == "flow velocity"
    assert lumina["condition"] == "tokens, mask"
    assert lumina["text encoders"] == "``Gemma2Model``"
    assert lumina["published models"] == "Lumina-Image 2: 2.6 B, 5.2 GB"
    assert sd["predicts"] == "epsilon or velocity" and sd["default target"] == "epsilon"
    assert sd3["default target"] == "velocity"
    assert sd3["default window"] == "sigma 0.71 to 0.95"
    assert sd3["text encoders"] == "``CLIPTextModelWithProjection``, ``T5EncoderModel``"


def test_all_checks_run_on_every_tiny_pipeline(rows):
    (mark,) = test_testing.test_families_pass.pytestmark
    assert [param.values for param in mark.args[1]] == [
        (name,) for name in tiny_pipelines()
    ]
    checks = [row["checks, on tiny pipelines"].split(" on ") for row in rows]
    assert {int(n_checks) for n_checks, _ in checks} == {len(CHECKS)}
    assert sum(int(n_pipelines) for _, n_pipelines in checks) == len(tiny_pipelines())


@pytest.mark.slow
@pytest.mark.parametrize("model", model_sizes.MODELS)
@pytest.mark.filterwarnings("ignore:.FluxPosEmbed:FutureWarning")  # of diffusers
def test_counted_weights_equal_the_published_number(model):
    pipeline, cls, config, _, published = model_sizes.MODELS[model]
    assert hasattr(diffusers, pipeline)
    n_weights = model_sizes.count(diffusers, cls, config)
    assert model_sizes.rounds_to(n_weights, published)
    result = json.loads((RESULTS / "speed" / "model_sizes.json").read_text("utf-8"))
    (row,) = [row for row in result["rows"] if row["model"] == model]
    assert row["counted"] == n_weights and row["published"] == published


def test_rounding():
    assert model_sizes.rounds_to(2_567_463_684, "2.6 B")
    assert not model_sizes.rounds_to(2_567_463_684, "2.5 B")
    assert model_sizes.rounds_to(859_520_964, "860 M")
    assert not model_sizes.rounds_to(859_400_000, "860 M")


def test_a_network_of_another_size_is_an_error(monkeypatch):
    pipeline, cls, config, texts, _ = model_sizes.MODELS["Sana 0.6B"]
    other = {"Sana 0.6B": (pipeline, cls, config, texts, "0.7 B")}
    monkeypatch.setattr(model_sizes, "MODELS", other)
    monkeypatch.setattr(model_sizes, "ENCODERS", {})
    with pytest.raises(AssertionError, match=r"Sana 0.6B: 591,747,872 .* not 0.7 B"):
        model_sizes.measure()
