"""All families pass check_backbone; each check fails for a backbone that is wrong."""

import pytest
import torch
from diffusers import DiffusionPipeline
from torch import nn

from diffusion_sklearn import Backbone, load_backbone
from diffusion_sklearn.backbones._conditions import map_tensors, repeat
from diffusion_sklearn.testing import check_backbone, tiny_pipelines
from diffusion_sklearn.testing._checks import CHECKS
from tests.models import BY_FAMILY, slow

PIPELINES = tiny_pipelines()
checks = {check.__name__: check for check in CHECKS}


def is_same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def states(pipeline):
    modules = {k: v for k, v in pipeline.components.items() if isinstance(v, nn.Module)}
    return {
        f"{k}.{name}": tensor.clone()
        for k, module in modules.items()
        for name, tensor in module.state_dict().items()
    }


# Every family passes ------------------------------------------------------------------


@pytest.mark.parametrize("name", BY_FAMILY)
def test_families_pass(name):
    pipeline = PIPELINES[name]()
    backbone = load_backbone(pipeline)
    if name == "PixArt-alpha":
        backbone.image_size = 8  # 4,096 tokens are slow
    before, scheduler = states(pipeline), dict(pipeline.scheduler.config)
    random_state = torch.get_rng_state()
    check_backbone(backbone)
    # The pipeline is as it was, and so is the global generator.
    assert is_same(states(pipeline), before)
    assert dict(pipeline.scheduler.config) == scheduler
    assert backbone.is_current() and not backbone.network._forward_pre_hooks
    assert torch.equal(torch.get_rng_state(), random_state)


@pytest.mark.parametrize(
    "name, scheduler",
    [
        ("DiT", "PNDM"),
        ("DiT", "EulerDiscrete"),
        *slow(
            ("DiT", "UniPCMultistep"),
            ("Stable Diffusion, velocity", "PNDM"),
            ("Stable Diffusion, velocity", "UniPCMultistep"),
            ("Stable Diffusion, velocity", "EulerDiscrete"),
        ),
    ],
)
# Of some samplers in diffusers.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_any_sampler_of_the_same_noise_schedule_passes(name, scheduler):
    import diffusers

    pipeline = PIPELINES[name]()
    cls = getattr(diffusers, f"{scheduler}Scheduler")
    pipeline.scheduler = cls.from_config(pipeline.scheduler.config)
    check_backbone(load_backbone(pipeline))


def test_a_bundled_model_passes():
    check_backbone(load_backbone("fashion-dit"))


def test_tiny_pipelines_are_the_same_at_every_call():
    torch.manual_seed(3)
    first = states(PIPELINES["Flux"]())
    drawn = torch.rand(1)
    torch.manual_seed(4)
    assert is_same(states(tiny_pipelines()["Flux"]()), first)
    torch.manual_seed(3)
    assert torch.equal(torch.rand(1), drawn)


# Each check fails ---------------------------------------------------------------------


def wrong(name, **methods):
    """A backbone of a tiny pipeline, with methods of its own that may call `right`."""
    pipeline = PIPELINES[name]()
    right = type(load_backbone(pipeline))
    # Without names of pipelines: other tests must not find it.
    namespace = {"pipelines": (), "right": right, **methods}
    return type("Wrong" + right.__name__, (right,), namespace)(pipeline)


def wrong_sign(self, noised, timesteps, conditions):
    return -self.right.forward(self, noised, timesteps, conditions)


def wrong_sign_of_input(self, noised, timesteps, conditions):
    return self.right.forward(self, -noised, timesteps, conditions)


def wrong_time(self, noised, timesteps, conditions):
    return self.right.forward(self, noised, timesteps + 1, conditions)


def scaled_time(self, noised, timesteps, conditions):
    return self.right.forward(self, noised, timesteps / 1000, conditions)


def shifted_time(self, noised, timesteps, conditions):
    """Of a flow whose network is given the time after the shift."""
    mu, sigma = 0.34375, timesteps / 1000  # for 32 pixels
    time = 1000 * mu / (mu + 1 / sigma - 1)
    return self.right.forward(self, noised, time, conditions)


def swapped_axes(self, noised, timesteps, conditions):
    return self.right.forward(self, noised.mT, timesteps, conditions).mT


def wrong_scale(self, pixels):
    return self.right.encode(self, pixels) * 0.18215


def wrong_shift(self, pixels):
    return self.right.encode(self, pixels) + 0.0609


def half_latents(self, pixels):
    return self.right.encode(self, pixels).half()


def wrong_noise(self, latents, noise, timesteps):
    return self.right.add_noise(self, latents, noise, timesteps - 1)


def ignored_condition(self, noised, timesteps, conditions):
    first = repeat(conditions[:1], len(conditions))
    return self.right.forward(self, noised, timesteps, first)


def no_condition(self, noised, timesteps, conditions):
    zeros = map_tensors(torch.zeros_like, conditions)
    return self.right.forward(self, noised, timesteps, zeros)


def centered_batch(self, noised, timesteps, conditions):
    output = self.right.forward(self, noised, timesteps, conditions)
    return output - output.mean(dim=0)


def order_of_batch(self, noised, timesteps, conditions):
    output = self.right.forward(self, noised, timesteps, conditions)
    return output * torch.arange(1, len(output) + 1).view(-1, 1, 1, 1)


def padded_to_the_longest(self, names):
    rows = self.right.condition(self, names)
    return rows + max(len(name) for name in names)


def null_of_a_prompt(self):
    return self.condition([""])


def two_rows_of_none(self):
    return self.condition(["", ""])


def short_null_condition(self):
    return torch.zeros(1, 3)


def infinite_null_condition(self):
    return torch.full_like(self.condition([""]), torch.inf)


def train_mode(self, noised, timesteps, conditions):
    output = self.forward(*self._inputs(noised, timesteps, conditions))
    return output[:, : noised.shape[1]].to(self.compute_dtype)


def left_in_evaluation_mode(self, noised, timesteps, conditions):
    self.network.eval()
    return self.right.predict(self, noised, timesteps, conditions)


def left_in_train_mode(self, names):
    self.pipeline.text_encoder.eval()
    conditions = self.right.condition(self, names)
    self.pipeline.text_encoder.train()
    return conditions


def learned_variance_left_in(self, noised, timesteps, conditions):
    return self.forward(*self._inputs(noised, timesteps, conditions))


def half_prediction(self, noised, timesteps, conditions):
    return self.right.predict(self, noised, timesteps, conditions).to(self.dtype)


def overflow(self, noised, timesteps, conditions):
    output = self.right.forward(self, noised, timesteps, conditions)
    return output * torch.inf if self.dtype == torch.bfloat16 else output


def coarse_time(self, noised, timesteps, conditions):
    if self.dtype == torch.bfloat16:
        timesteps = timesteps // 256 * 256
    return self.right.forward(self, noised, timesteps, conditions)


def another_class(self, names):
    return self.right.condition(self, [(name + 1) % 5 for name in names])


def another_prompt(self, names):
    return self.right.condition(self, [f"a photo of {name}" for name in names])


SD, XL = "Stable Diffusion 1.x, 2.x", "Stable Diffusion XL"
VELOCITY, IMAGE = "Stable Diffusion, velocity", "Stable Diffusion, image to image"
SD_3 = "Stable Diffusion 3 without T5"
WRONG = [
    ("check_attributes", "DiT", {"kind": "label"}),
    ("check_attributes", SD, {"kind": "class"}),
    ("check_shapes", "DiT", {"predict": learned_variance_left_in}),
    ("check_shapes", SD, {"encode": half_latents}),
    ("check_shapes", SD, {"latent_shape": lambda self, image_size: (4, 5, 5)}),
    ("check_errors", SD, {"add_noise": wrong_noise}),
    ("check_batches", SD, {"forward": centered_batch}),
    ("check_batches", "Flux", {"forward": order_of_batch}),
    ("check_batches", "Flux", {"forward": ignored_condition}),
    ("check_batches", SD, {"condition": padded_to_the_longest}),
    ("check_conditions", "DiT", {"forward": no_condition}),
    ("check_conditions", "Flux schnell", {"forward": no_condition}),
    ("check_null_condition", SD, {"null_condition": two_rows_of_none}),
    ("check_null_condition", SD, {"null_condition": short_null_condition}),
    ("check_null_condition", SD, {"null_condition": infinite_null_condition}),
    ("check_null_condition", "DiT", {"null_condition": null_of_a_prompt}),
    ("check_modes", "DiT", {"predict": train_mode}),
    ("check_modes", "DiT", {"predict": left_in_evaluation_mode}),
    ("check_modes", SD, {"condition": left_in_train_mode}),
    ("check_half_precision", SD, {"predict": half_prediction}),
    ("check_half_precision", SD, {"forward": overflow}),
    ("check_half_precision", "DiT", {"forward": coarse_time}),
    *[
        ("check_denoising_step", name, {"forward": forward})
        for name in (SD, VELOCITY, XL, SD_3, "Flux", "DiT")
        for forward in (wrong_sign, wrong_sign_of_input, wrong_time, scaled_time)
    ],
    ("check_latents", "Flux", {"forward": swapped_axes}),
    ("check_denoising_step", "U-Net on pixels", {"forward": wrong_sign}),
    ("check_denoising_step", "U-Net on pixels", {"forward": wrong_time}),
    ("check_denoising_step", "PixArt-Sigma", {"forward": wrong_time}),
    ("check_denoising_step", "Sana", {"forward": wrong_time}),
    *[
        ("check_denoising_step", name, {"forward": forward})
        for name in ("LCM", "SANA-Sprint")
        for forward in (wrong_sign, wrong_sign_of_input, wrong_time)
    ],
    ("check_latents", "SANA-Sprint", {"encode": wrong_scale}),
    *[
        ("check_denoising_step", name, {"forward": forward})
        for name in ("CogView 4", "HunyuanDiT", "DeepFloyd IF")
        for forward in (wrong_sign, wrong_sign_of_input, wrong_time, scaled_time)
    ],
    ("check_denoising_step", "CogView 4", {"forward": shifted_time}),
    ("check_latents", "CogView 4", {"encode": wrong_shift}),
    ("check_latents", "HunyuanDiT", {"encode": wrong_scale}),
    *[
        ("check_denoising_step", name, {"forward": forward})
        for name in (
            "Qwen-Image",
            "Z-Image",
            "Chroma",
            "FLUX.2",
            "HiDream",
            "Lumina 2",
            "AuraFlow",
        )
        for forward in (wrong_sign, wrong_sign_of_input, wrong_time, scaled_time)
    ],
    ("check_latents", "Qwen-Image", {"forward": swapped_axes}),
    ("check_latents", "FLUX.2", {"forward": swapped_axes}),
    ("check_latents", "FLUX.2", {"encode": wrong_scale}),
    ("check_latents", "FLUX.2", {"encode": wrong_shift}),
    ("check_denoising_step", "FLUX.2 klein", {"condition": another_prompt}),
    ("check_denoising_step", "HiDream", {"condition": another_prompt}),
    ("check_denoising_step", "Lumina 2", {"condition": another_prompt}),
    (
        "check_denoising_step",
        IMAGE,
        {"forward": wrong_sign},
    ),
    ("check_denoising_step", "DiT", {"condition": another_class}),
    ("check_denoising_step", XL, {"condition": another_prompt}),
    ("check_denoising_step", "Kolors", {"condition": another_prompt}),
    ("check_denoising_step", "Kolors", {"forward": wrong_sign}),
    ("check_denoising_step", "Kolors", {"forward": wrong_time}),
    ("check_latents", "Kolors", {"encode": wrong_scale}),
    *[
        ("check_latents", name, {"encode": encode})
        for name in (SD, XL, SD_3, "Flux", "DiT", "Qwen-Image", "Lumina 2", "AuraFlow")
        for encode in (wrong_scale, wrong_shift)
    ],
]


@pytest.mark.parametrize(
    "check, name, methods",
    [
        pytest.param(*case, marks=() if case[1] in (SD, "DiT") else pytest.mark.slow)
        for case in WRONG
    ],
)
def test_a_wrong_backbone_is_caught(check, name, methods):
    with pytest.raises(AssertionError):
        checks[check](wrong(name, **methods))


def test_messages_name_the_check():
    with pytest.raises(
        AssertionError, match=r"^check_errors: .*double loop.*add_noise"
    ):
        check_backbone(wrong("DiT", add_noise=wrong_noise))
    with pytest.raises(AssertionError, match=r"^check_latents: .*scale, shift"):
        check_backbone(wrong("DiT", encode=wrong_scale))
    with pytest.raises(ValueError, match=r"bfloat16, too coarse.*dtype='float32'"):
        check_backbone(load_backbone(PIPELINES["DiT"]().to(dtype=torch.bfloat16)))
    with pytest.raises(TypeError) as raised:
        check_backbone(wrong("DiT", forward=lambda self: None))
    assert raised.value.__notes__ == ["Raised in check_shapes."]


def test_weights_in_a_pickle_are_caught(tmp_path):
    backbone = wrong(
        "DiT", __reduce_ex__=lambda self, protocol: (list, (tuple(range(9999)),))
    )
    backbone.spec = load_backbone(PIPELINES["DiT"]()).spec
    with pytest.raises(AssertionError, match=r"pickle has \d+ bytes"):
        checks["check_pickle"](backbone)


# Pipelines that can't be called like those of diffusers -------------------------------


def make_own(call=None):
    """A backbone of a pipeline class of one's own."""
    made = PIPELINES["U-Net on pixels"]()

    class OwnPipeline(DiffusionPipeline):
        def __init__(self, unet, scheduler):
            super().__init__()
            self.register_modules(unet=unet, scheduler=scheduler)

    if call is not None:
        OwnPipeline.__call__ = call

    class OwnBackbone(Backbone):
        kind, n_labels = "class", 5
        labels = shared = {}  # noqa: RUF012

        def condition(self, names):
            return torch.tensor(names)

        def null_condition(self):
            raise ValueError("no null class")

        def forward(self, noised, timesteps, conditions):
            return self.network(noised, timesteps, class_labels=conditions).sample

    return OwnBackbone(OwnPipeline(made.unet, made.scheduler))


def test_a_pipeline_without_a_call_passes():
    check_backbone(make_own())


def test_a_pipeline_that_cannot_be_called_is_an_error():
    message = r"OwnPipeline.__call__ fails with the arguments \['height'\].*'speed'"
    with pytest.raises(AssertionError, match=message):
        check_backbone(make_own(lambda self, speed, height=8: None))
    with pytest.raises(AssertionError, match=r"did not call scheduler.step"):
        check_backbone(make_own(lambda self: None))
