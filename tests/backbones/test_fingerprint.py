"""What was changed in a model is noticed, and its own answer is given."""

import copy
import gc
import os
import pickle
import shutil
import subprocess
import sys
import weakref
from pathlib import Path

import numpy as np
import peft
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    EulerDiscreteScheduler,
    FirstBlockCacheConfig,
    StableDiffusionPipeline,
)
from diffusers.models.attention_processor import AttnProcessor
from sklearn.base import clone

from diffusion_sklearn import (
    ConditionalDiffusionClassifier,
    ZeroShotDiffusionClassifier,
    clear_cache,
    load_backbone,
)
from diffusion_sklearn.backbones._fingerprint import changed_parts, fingerprint, unseen
from tests.models import BY_FAMILY, PIPELINES, slow, tiny_sd

pytestmark = pytest.mark.filterwarnings("ignore:Already found a `peft_config`")
IMAGES = np.random.RandomState(0).randint(0, 256, (2, 8, 8, 3), dtype=np.uint8)


def text_classifier(model, **params):
    clf = ZeroShotDiffusionClassifier(model=model, n_trials=3, pruning=None, **params)
    return clf.set_params(prompt_template="a {} <x>", classes=["bee", "cat"])


def class_classifier(model, **params):
    clf = ConditionalDiffusionClassifier(
        model=model, n_trials=3, pruning=None, **params
    )
    return clf.set_params(class_ids=[1, 3], classes=["bee", "hound"])


def classifier(name, model, **params):
    make = text_classifier if name == "SD" else class_classifier
    return make(model, **params)


def errors(clf):
    return clf.denoising_errors(IMAGES).errors


# Changes -----------------------------------------------------------------------------


def make(name):
    if name != "SD":
        return PIPELINES[name]()
    pipeline = tiny_sd("epsilon")
    for adapter, seed in (("one", 1), ("two", 2)):
        torch.manual_seed(seed)
        config = peft.LoraConfig(r=2, target_modules=["to_k"], init_lora_weights=False)
        pipeline.unet.add_adapter(config, adapter)
    pipeline.set_adapters(["one"], [1.0])
    return pipeline


class Halving(AttnProcessor):
    def __init__(self, factor):
        super().__init__()
        self._factor = factor

    def __call__(self, *args, **kwargs):
        return super().__call__(*args, **kwargs) * self._factor


class Wrapped(AttnProcessor):
    def __init__(self, after):
        super().__init__()
        self.after = after

    def __call__(self, *args, **kwargs):
        return self.after(super().__call__(*args, **kwargs))


def another_scheduler(p):
    config = p.scheduler.config
    p.scheduler = DDIMScheduler.from_config(config, prediction_type="v_prediction")


def another_schedule(p):
    p.scheduler.alphas_cumprod.data[:] = p.scheduler.alphas_cumprod**2


def scheduler_config(p):
    p.scheduler.register_to_config(prediction_type="v_prediction")


def scale_of_autoencoder(p):
    p.vae.register_to_config(scaling_factor=0.3)


def freeu(p):
    p.enable_freeu(s1=0.9, s2=0.2, b1=1.5, b2=1.6)


def adapter_scale(p):
    p.set_adapters(["one"], [0.2])


def adapter_weights(p):
    p.set_adapters(["one", "two"], [0.7, 0.3])


def no_adapters(p):
    p.disable_lora()


def textual_inversion(p):
    p.load_textual_inversion({"<x>": torch.full((1, 8), 0.5)})


def attention_processor(p):
    p.unet.set_attn_processor(Halving(0.5))


def swapped_weights(p):
    weight = p.unet.conv_in.weight
    weight.data[[0, 1]] = weight.data[[1, 0]]


def numpy_edit_of_equal_sum(p):
    weight = p.unet.conv_out.weight.detach().numpy()
    weight[:] = weight[::-1].copy()


def swapped_classes(p):
    network = getattr(p, "transformer", None) or p.unet
    for name, weight in network.named_parameters():
        if "embedding_table" in name or name == "class_embedding.weight":
            weight.data[[1, 2]] = weight.data[[2, 1]]


def switch_of_a_module(p):
    p.unet.mid_block.resnets[0].output_scale_factor = 2.0


CHANGES = [
    *[
        ("SD", change)
        for change in (
            another_scheduler,
            adapter_scale,
        )
    ],
    *slow(
        *[
            ("SD", change)
            for change in (
                another_schedule,
                scheduler_config,
                scale_of_autoencoder,
                freeu,
                adapter_weights,
                no_adapters,
                textual_inversion,
                attention_processor,
                swapped_weights,
                numpy_edit_of_equal_sum,
            )
        ]
    ),
    ("DiT", swapped_classes),
    ("U-Net on pixels", swapped_classes),
    ("U-Net on pixels", switch_of_a_module),
]


@pytest.mark.parametrize(
    "name, change", CHANGES, ids=lambda x: getattr(x, "__name__", x)
)
def test_after_a_change_predictions_ask_for_fit_and_then_are_right(
    name, change, tmp_path
):
    """In place, as a copy for another dtype, and with errors stored before."""
    fresh = make(name)
    change(fresh)
    expected = errors(classifier(name, fresh).fit())
    pipeline = make(name)
    variants = [{}, {"dtype": "float64"}, {"memory": tmp_path}]
    fitted = [classifier(name, pipeline, **params).fit() for params in variants]
    before = [errors(clf) for clf in fitted]
    change(pipeline)
    for clf, old in zip(fitted, before, strict=True):
        with pytest.raises(ValueError, match="call fit again"):
            errors(clf)
        new = errors(clf.fit())
        np.testing.assert_allclose(new, expected, rtol=1e-4, atol=1e-5)
        assert np.abs(new - old).max() > 1e-3


def test_half_of_a_change_is_no_answer():
    """Adapters of the text encoder too: the prompts were encoded with another scale."""
    pipeline = make("SD")
    config = peft.LoraConfig(r=2, target_modules=["k_proj"], init_lora_weights=False)
    pipeline.text_encoder.add_adapter(config, "one")
    clf = text_classifier(pipeline).fit()
    pipeline.set_adapters(["one"], [0.2])
    for method in (clf.predict, clf.score_samples):
        with pytest.raises(ValueError, match=r"after fit \(text_encoder, unet\)"):
            method(IMAGES)
    with pytest.raises(ValueError, match="call fit again"):
        clf.score_pairs(IMAGES, ["a cat", "a dog"])


def test_copies_are_let_go():
    pipeline = tiny_sd("epsilon")
    copies = []
    for k in range(3):
        pipeline.unet.conv_in.bias.data += k
        clf = text_classifier(pipeline, dtype="float64").fit()
        copies.append(weakref.ref(clf.backbone_.pipeline))
    del clf
    gc.collect()
    assert [copy() is None for copy in copies] == [True, True, False]
    original = weakref.ref(pipeline)
    del pipeline
    gc.collect()
    assert original() is None and copies[-1]() is None


def elsewhere(clf):
    """A pickled estimator after its pipeline is gone, as in another process."""
    data = pickle.dumps(clf)
    pipeline = weakref.ref(clf.model)
    del clf
    gc.collect()
    assert pipeline() is None
    return pickle.loads(data)


def test_a_pipeline_in_half_precision_is_rounded_elsewhere_too(sd_folder):
    """A float32 copy of a float16 pipeline is not the float32 of the folder."""

    def fitted():
        half = StableDiffusionPipeline.from_pretrained(sd_folder, dtype=torch.float16)
        return text_classifier(half, dtype="float32").fit()

    np.testing.assert_array_equal(errors(elsewhere(fitted())), errors(fitted()))


def test_an_unfitted_pickle_does_not_forget_a_scheduler(sd_folder):
    def unfitted(change):
        pipeline = StableDiffusionPipeline.from_pretrained(sd_folder)
        change(pipeline)
        return text_classifier(pipeline)

    same = elsewhere(unfitted(lambda p: None))
    np.testing.assert_array_equal(
        errors(same.fit()), errors(text_classifier(sd_folder).fit())
    )
    with pytest.raises(OSError, match=r"what is found there \(scheduler: changed"):
        elsewhere(unfitted(another_scheduler)).fit()


# The same model ----------------------------------------------------------------------


@pytest.mark.parametrize("name", BY_FAMILY)
def test_it_is_the_same_wherever_it_is_loaded_and_after_use(name, tmp_path):
    pipeline = PIPELINES[name]()
    before = fingerprint(pipeline)
    pipeline.save_pretrained(tmp_path, safe_serialization=True)
    loaded = load_backbone(tmp_path, dtype="float32")
    assert changed_parts(before, loaded.fingerprint()) == ""
    in_place = load_backbone(pipeline)
    size = min(in_place.image_size, 16)
    in_place.predict(
        torch.ones(1, *in_place.latent_shape(size)),
        torch.tensor([3]),
        in_place.condition([1] if in_place.kind == "class" else ["a bee"]),
    )
    assert changed_parts(before, in_place.fingerprint()) == ""
    assert unseen(pipeline) == unseen(loaded.pipeline) == ""


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64, torch.float8_e4m3fn])
def test_every_bit_of_a_weight_counts(dtype):
    pipeline = PIPELINES["DiT"]()
    network = pipeline.transformer
    network.register_buffer("odd", torch.arange(2**14 + 7).to(dtype)[1:])
    network.odd_flags = torch.tensor([True, False, True])
    for module, name in ((network, "odd"), (network, "odd_flags")):
        tensor = getattr(module, name)
        for k in (0, len(tensor) // 2, len(tensor) - 1):
            before = fingerprint(pipeline)
            byte = tensor[k : k + 1].view(torch.uint8)
            byte[0] ^= 1
            assert changed_parts(before, fingerprint(pipeline)) == "transformer"
            byte[0] ^= 1
            assert fingerprint(pipeline) == before


def test_two_signs_and_an_order():
    pipeline = PIPELINES["DiT"]()
    weight = pipeline.transformer.proj_out_2.weight.data
    before = fingerprint(pipeline)
    weight[0, :2] *= -1
    assert fingerprint(pipeline) != before
    weight[0, :2] *= -1
    weight[0] = weight[0].flip(0)
    assert fingerprint(pipeline) != before


CODE = """
import torch
from diffusers.models.attention_processor import AttnProcessor
FACTOR, FUNCTION, DEFAULT, WORDS = {numbers}
def scaled(x):
    return x * FUNCTION
def make(inside):
    class Mine(AttnProcessor):
        of_class = {of_class}
        @property
        def of_property(self):
            return {of_property}
        @torch.no_grad()
        def decorated(self, x):
            return x * {decorated}
        def __call__(self, *args, factor=DEFAULT, **kwargs):
            x = scaled(super().__call__(*args, **kwargs)) * factor * FACTOR * inside
            x = self.decorated(x) * self.of_class * self.of_property
            return x if kwargs.keys() & {{"a", "b", "c", "d"}} else x
    return Mine
"""


def processor(**changes):
    """An attention processor as a user would write it in a notebook."""
    numbers = [changes.get(name, 1) for name in ("factor", "function", "default")]
    inline = {"of_class": 1, "of_property": 1, "decorated": 1} | changes
    module = {"__name__": "notebook"}
    exec(CODE.format(numbers=[*numbers, "abc"], **inline), module)
    return module["make"](changes.get("closure", 1))()


@pytest.mark.parametrize(
    "what",
    [
        "default",
        "of_class",
        *slow("factor", "function", "closure", "of_property", "decorated"),
    ],
)
def test_code_of_a_user_with_another_number(what, tmp_path):
    pipeline = tiny_sd("epsilon")
    clf = text_classifier(pipeline, memory=tmp_path)
    pipeline.unet.set_attn_processor(processor())
    before, plain = fingerprint(pipeline), errors(clf.fit())
    pipeline.unet.set_attn_processor(processor())
    assert fingerprint(pipeline) == before
    pipeline.unet.set_attn_processor(processor(**{what: 0.5}))
    assert changed_parts(fingerprint(pipeline), before) == "unet"
    assert np.abs(errors(clf.fit()) - plain).max() > 1e-4  # not those that were kept


@pytest.mark.slow
def test_code_of_a_user_in_another_process():
    """The order of a set of str is another one there."""
    code = (
        "from tests.backbones.test_fingerprint import *; p = tiny_sd('epsilon');"
        "p.unet.set_attn_processor(processor()); print(fingerprint(p)['unet'])"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | {"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in "12"
    }
    assert len(digests) == 1


def test_which_block_is_there_twice():
    pipeline = PIPELINES["DiT"]()
    blocks = pipeline.transformer.transformer_blocks
    first, second = blocks[0], copy.deepcopy(blocks[0])
    second.ff.net[0].proj.weight.data[:] *= 2
    digests = []
    for order in ([first, second, first], [first, second, second]):
        pipeline.transformer.transformer_blocks = torch.nn.ModuleList(order)
        digests.append(fingerprint(pipeline))
    assert changed_parts(*digests) == "transformer"


def test_state_of_sampling_and_training_is_no_change():
    pipeline = tiny_sd("epsilon")
    clf = text_classifier(pipeline).fit()
    expected = errors(clf)
    pipeline.set_progress_bar_config(disable=True)
    pipeline("a bee", num_inference_steps=2, height=8, width=8, output_type="latent")
    pipeline.unet.train().requires_grad_(False)
    pipeline.unet.enable_gradient_checkpointing()
    np.testing.assert_array_equal(errors(clf), expected)


def test_an_enabled_cache():
    pipeline = PIPELINES["Flux"]()
    before = fingerprint(pipeline)
    pipeline.transformer.enable_cache(FirstBlockCacheConfig(threshold=0.1))
    first = fingerprint(pipeline)
    assert changed_parts(before, first) == "transformer"
    with pytest.raises(ValueError, match="transformer reuses outputs of earlier"):
        load_backbone(pipeline, dtype="float64")
    pipeline.transformer.disable_cache()
    assert fingerprint(pipeline) == before
    pipeline.transformer.enable_cache(FirstBlockCacheConfig(threshold=0.2))
    assert fingerprint(pipeline) not in (before, first)


# What it can't see -------------------------------------------------------------------


def hook(p):
    p.unet.mid_block.register_forward_hook(lambda module, args, out: out * 0.5)


def hook_in_place(p):
    def halve(module, args, out):
        out.mul_(0.5)

    p.unet.mid_block.register_forward_hook(halve)


def pre_hook(p):
    p.unet.conv_out.register_forward_pre_hook(lambda module, args: (args[0] * 0.5,))


def replaced_forward(p):
    forward = p.unet.conv_out.forward
    p.unet.conv_out.forward = lambda x: forward(x) * 0.5


def replaced_function(p):
    p.unet.set_attn_processor(Wrapped(lambda x: x * 0.5))


@pytest.mark.parametrize(
    "change",
    [hook, *slow(hook_in_place, pre_hook), replaced_forward, *slow(replaced_function)],
)
def test_what_is_not_seen_is_refused_where_it_could_be_missed(change, tmp_path):
    tiny_sd("epsilon").save_pretrained(tmp_path / "model")
    pipeline = StableDiffusionPipeline.from_pretrained(tmp_path / "model")
    clf = text_classifier(pipeline, memory=tmp_path / "kept").fit()
    plain = errors(clf)
    change(pipeline)
    with pytest.raises(ValueError, match=r"memory=.*unet.*Remove it, or pass memory"):
        errors(clf.fit())
    with pytest.raises(ValueError, match=r"dtype='float64' need a copy.*unet"):
        clone(clf).set_params(memory=None, dtype="float64").fit()
    clf.set_params(memory=None)
    assert np.abs(errors(clf) - plain).max() > 1e-3  # in place it is evaluated
    twin = pickle.loads(pickle.dumps(clf))
    np.testing.assert_array_equal(errors(twin), errors(clf))  # in this process
    del pipeline, twin
    # A frame above would keep the pipeline.
    clf = [clf]
    with pytest.raises(OSError, match=r"what no pickle holds \(.*unet.*n_jobs=None"):
        errors(elsewhere(clf.pop()))


def test_a_class_whose_forward_was_replaced(monkeypatch, tmp_path):
    clf = text_classifier(tiny_sd("epsilon"), memory=tmp_path).fit()
    errors(clf)
    cls = type(clf.backbone_.network.mid_block)
    forward = cls.forward
    monkeypatch.setattr(cls, "forward", lambda *args, **kw: forward(*args, **kw) * 0.5)
    with pytest.raises(ValueError, match=rf"a changed {cls.__name__}.forward"):
        errors(clf.fit())


def test_hooks_that_only_watch(tmp_path):
    pipeline, shapes, n = tiny_sd("epsilon"), [], [0]

    class Counter:
        n = 0

        def count(self, module, args, output):
            if args:
                self.n += len(args[0])

    counter = Counter()
    clf = text_classifier(pipeline, memory=tmp_path).fit()
    for watch in (counter.count, lambda m, args, out: shapes.append(args[0].shape)):
        pipeline.unet.register_forward_hook(watch)
    errors(clf)
    assert counter.n == 12 and len(shapes) > 0
    pipeline.unet.register_forward_hook(lambda m, args, out: shapes.append(n) or out)
    assert "a forward hook on unet" in unseen(pipeline)


# Names and folders -------------------------------------------------------------------


def save_another(folder):
    pipeline = tiny_sd("epsilon")
    for weight in pipeline.unet.parameters():
        weight.data.mul_(0.9)
    pipeline.save_pretrained(folder, safe_serialization=True)
    return pipeline


@pytest.mark.parametrize("n_jobs", [None, pytest.param(2, marks=pytest.mark.slow)])
def test_a_folder_saved_anew_is_loaded_anew(n_jobs, tmp_path, sd_folder):
    folder = tmp_path / "model"
    shutil.copytree(sd_folder, folder)
    clf = text_classifier(folder, n_jobs=n_jobs, memory=folder / "kept").fit()
    first = errors(clf)
    np.testing.assert_array_equal(errors(clf), first)  # with the file in the folder
    expected = errors(text_classifier(save_another(folder)).fit())
    with pytest.raises(ValueError, match=r"changed after fit \(unet\)"):
        errors(clf)
    np.testing.assert_allclose(errors(clf.fit()), expected, rtol=1e-5)
    assert np.abs(first - expected).max() > 1e-3


@pytest.mark.slow
def test_a_changed_chat_template_is_read(tmp_path):
    PIPELINES["Z-Image"]().save_pretrained(tmp_path)
    backbone = load_backbone(tmp_path)
    file = tmp_path / "tokenizer" / "chat_template.jinja"
    file.write_text("{{ messages[0].content }}, " + file.read_text())
    before, now = (b.condition(["cat"]) for b in (backbone, load_backbone(tmp_path)))
    assert before.mask.sum() != now.mask.sum()


def test_saved_again_unchanged_or_gone(tmp_path, sd_folder):
    folder = tmp_path / "model"
    shutil.copytree(sd_folder, folder)
    clf = text_classifier(folder).fit()
    expected = errors(clf)
    shutil.rmtree(folder)
    np.testing.assert_array_equal(errors(clf), expected)
    shutil.copytree(sd_folder, folder)
    np.testing.assert_array_equal(errors(clf), expected)


def test_a_loaded_pipeline_that_was_changed_is_not_the_folder(sd_folder):
    clf = text_classifier(sd_folder).fit()
    expected = errors(clf)
    pipeline = clf.backbone_.pipeline
    freeu(pipeline)
    for run in (errors, lambda c: c.fit()):
        with pytest.raises(ValueError, match=r"changed after it was loaded \(unet\)"):
            run(clf)
    changed = errors(text_classifier(pipeline).fit())
    assert np.abs(changed - expected).max() > 1e-3
    clear_cache()
    np.testing.assert_array_equal(errors(clf.fit()), expected)


def test_a_backbone_is_made_again_after_a_change_of_its_parts():
    pipeline = tiny_sd("epsilon")
    backbone = load_backbone(pipeline)
    another_scheduler(pipeline)
    assert not backbone.is_current()
    with pytest.raises(ValueError, match=r"call load_backbone\(backbone.pipeline\) ag"):
        text_classifier(backbone).fit()
    assert load_backbone(pipeline).prediction_type == "velocity"


@pytest.mark.slow
@pytest.mark.parametrize("as_backbone", [False, True])
def test_workers_do_not_forget_a_scheduler_or_hook(as_backbone, sd_folder):
    pipeline = StableDiffusionPipeline.from_pretrained(Path(sd_folder))
    model = load_backbone(pipeline) if as_backbone else pipeline
    expected = errors(text_classifier(model).fit())
    found = errors(text_classifier(model, n_jobs=2).fit())
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    config = pipeline.scheduler.config
    pipeline.scheduler = EulerDiscreteScheduler.from_config(
        config, prediction_type="v_prediction"
    )
    model = load_backbone(pipeline) if as_backbone else pipeline
    clf = text_classifier(model, n_jobs=2).fit()
    with pytest.raises(OSError, match=r"differs from what is found there \(scheduler"):
        errors(clf)
    hook(pipeline)
    with pytest.raises(OSError, match=r"what no pickle holds \(a forward hook on unet"):
        errors(clf.fit())


def test_a_pipeline_loaded_from_a_path(sd_folder, tmp_path):
    pipeline = StableDiffusionPipeline.from_pretrained(Path(sd_folder))
    clf = text_classifier(pipeline, memory=tmp_path).fit()
    expected = errors(text_classifier(pipeline).fit())
    np.testing.assert_array_equal(errors(clf), expected)
    assert clf.backbone_.name == sd_folder
