"""Checks that a Backbone is right, as check_estimator is for an estimator."""

import copy
import pickle

import numpy as np
import torch

from diffusion_sklearn.backbones._conditions import concatenate, repeat, to_dict
from diffusion_sklearn.backbones._devices import modules_of
from diffusion_sklearn.classifiers import (
    ConditionalDiffusionClassifier,
    ZeroShotDiffusionClassifier,
)
from diffusion_sklearn.testing._common import (
    assert_close,
    assert_output,
    copy_backbone,
    make_images,
    make_inputs,
    to_tensor,
    two_names,
)
from diffusion_sklearn.testing._one_step import check_denoising_step, check_latents

MAX_PICKLE = 10_000  # bytes


def check_backbone(backbone):
    """Check that a Backbone is right.

    Runs all checks of the package, as scikit-learn's
    :func:`~sklearn.utils.estimator_checks.check_estimator` does for an estimator. A
    wrong sign, time, scale or shift raises no error by itself and makes every
    prediction wrong.

    Parameters
    ----------
    backbone : Backbone
        In float32, as ``load_backbone(pipeline)`` returns it. Pass a tiny pipeline with
        random weights: the model is copied several times, once in float64, and run some
        dozen times. Images have the side ``backbone.image_size``, which may be set to a
        smaller one before. The backbone itself stays as it is.

    Raises
    ------
    AssertionError
        If a check fails. The message names the check, what differs, and what to look
        at.
    ValueError
        If the model is in half precision.

    See Also
    --------
    tiny_pipelines : Tiny pipelines of the supported families.

    Notes
    -----
    The checks, in this order:

    - ``check_attributes``: ``kind``, and of a class-conditional model its ``labels``.
    - ``check_shapes``: shapes and dtypes of latents, conditions and predictions.
    - ``check_batches``: permuted rows give permuted predictions, and a row alone gives
      the same as in a batch.
    - ``check_errors``: the errors of the estimators equal a double loop in float64, one
      image, trial and condition at a time.
    - ``check_conditions``: another condition gives another prediction.
    - ``check_null_condition``: the null condition works or raises ValueError.
    - ``check_modes``: modules run in evaluation mode and get their mode back.
    - ``check_pickle``: the pickle holds no weights and leads to the same model; left
      out for a backbone without a ``spec``.
    - ``check_half_precision``: in bfloat16, predictions are nearly the same.
    - ``check_denoising_step``: the pipeline's own ``__call__`` denoises from a timestep
      to the end in one step, and the backbone predicts the same clean latents.
    - ``check_latents``: from the latents of an image, the pipeline decodes what its
      autoencoder encoded.

    The last two are left out if the pipeline class has no ``__call__``. They run a copy
    of the pipeline with a plain sampler of the same noise schedule (DDPM, or Euler's
    for a flow), without guidance (the backbone's ``no_guidance``). They pass the
    arguments of diffusers that ``__call__`` has, such as ``prompt``, ``class_labels``,
    ``latents`` and ``height``, and ``max_sequence_length`` if the backbone has an
    attribute of that name.

    Examples
    --------
    >>> from diffusion_sklearn import load_backbone
    >>> from diffusion_sklearn.testing import check_backbone, tiny_pipelines
    >>> backbone = load_backbone(tiny_pipelines()["DiT"]())
    >>> check_backbone(backbone)

    A backbone whose output has the wrong sign:

    >>> class WrongSign(type(backbone)):
    ...     pipelines = ()
    ...
    ...     def forward(self, noised, timesteps, conditions):
    ...         return -super().forward(noised, timesteps, conditions)
    >>> check_backbone(WrongSign(backbone.pipeline))  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    AssertionError: check_denoising_step: at timestep 250 the predicted clean latents...
    """
    if backbone.dtype not in (torch.float32, torch.float64):
        raise ValueError(
            f"The model is in {backbone.dtype}, too coarse to compare results; pass "
            "load_backbone(..., dtype='float32')."
        )
    for check in CHECKS:
        try:
            check(backbone)
        except AssertionError as error:
            raise AssertionError(f"{check.__name__}: {error}") from error
        except Exception as error:
            error.add_note(f"Raised in {check.__name__}.")
            raise


# The checks ---------------------------------------------------------------------------


def check_attributes(backbone):
    """It says what it is conditioned on, and a class-conditional one its classes."""
    assert backbone.kind in ("text", "class"), (
        f"kind is {backbone.kind!r}, not 'text' or 'class'."
    )
    if backbone.kind == "class":
        for name, cls in {"labels": dict, "shared": dict, "n_labels": int}.items():
            assert isinstance(getattr(backbone, name, None), cls), (
                f"a class-conditional Backbone has an attribute {name}, which is of "
                f"type {cls.__name__}; see the notes of Backbone."
            )


@torch.no_grad()
def check_shapes(backbone):
    """Latents, conditions and predictions have the right shapes and dtypes."""
    size, dtype = backbone.image_size, backbone.compute_dtype
    noised, timesteps, conditions = make_inputs(backbone)
    shape = (3, *backbone.latent_shape(size))
    assert noised.shape == shape, (
        f"encode and add_noise return shape {tuple(noised.shape)}, and "
        f"latent_shape({size}) says {shape[1:]}; see latent_channels, vae_factor and "
        "_latent_side."
    )
    latents = backbone.encode(to_tensor(make_images(backbone, 1)))
    hint = "see that latents stay in compute_dtype"
    assert_output("encode", latents, (1, *shape[1:]), dtype, hint)
    assert_output("add_noise", noised, shape, dtype, hint)
    for tensor in to_dict(backbone.condition(two_names(backbone))).values():
        n_rows = len(tensor)
        assert n_rows == 2, f"condition returns {n_rows} rows for two names."
    outputs = {"predict": [backbone.predict(noised, timesteps, conditions)]}
    if backbone.learns_variance:
        both = backbone.predict_with_variance(noised, timesteps, conditions)
        outputs["predict_with_variance"] = both
    for name, tensors in outputs.items():
        for tensor in tensors:
            assert_output(name, tensor, shape, dtype, "see what forward returns")


@torch.no_grad()
def check_batches(backbone):
    """Rows of a batch do not depend on each other, nor on their order."""
    inputs = make_inputs(backbone)
    batch, order = backbone.predict(*inputs), [2, 0, 1]
    permuted = backbone.predict(*(x[order] for x in inputs))
    assert_close(
        permuted, batch[order], "permuted rows give other predictions; see forward"
    )
    alone = [backbone.predict(*(x[i : i + 1] for x in inputs)) for i in range(3)]
    assert_close(
        torch.cat(alone),
        batch,
        "a row alone gives another prediction than in a batch; see forward for what is "
        "computed across rows",
    )
    names = two_names(backbone)
    together = to_dict(backbone.condition(names))
    for name, alone in to_dict(
        concatenate([backbone.condition([name]) for name in names])
    ).items():
        assert_close(
            alone,
            together[name],
            "condition gives other rows for a name alone; see whether it pads to the "
            "longest",
        )


@torch.no_grad()
def check_errors(backbone):
    """The errors of the estimators equal a double loop in float64."""
    double, names = copy_backbone(backbone, torch.float64), two_names(backbone)
    params = {"n_trials": 3, "pruning": None, "target": "native", "batch_size": 5}
    if double.kind == "class":
        clf = ConditionalDiffusionClassifier(model=double, **params)
    else:
        clf = ZeroShotDiffusionClassifier(model=double, prompt_template="{}", **params)
    images = make_images(double, 2)
    errors = clf.fit(classes=names).denoising_errors(images).errors  # (n, k, m)
    conditions = [double.condition([name]) for name in names]
    expected = np.zeros_like(errors)
    for i, image in enumerate(images):
        x = double.encode(to_tensor(image[None]))
        noise = torch.from_numpy(clf.trials_.noise(x.shape[1:])).to(x)
        for j, t in enumerate(clf.trials_.timesteps.tolist()):
            alpha, sigma = (float(w) for w in double.noise_schedule.coefficients(t))
            eps = noise[j : j + 1]
            x_t = alpha * x + sigma * eps
            target = {"epsilon": eps, "sample": x}.get(double.prediction_type)
            if target is None:  # the velocity of a flow, or of Salimans and Ho (2022)
                is_flow = np.isclose(alpha + sigma, 1, atol=1e-6)
                target = eps - x if is_flow else alpha * eps - sigma * x
            for k, condition in enumerate(conditions):
                timestep = torch.tensor([t], device=x.device)
                predicted = double.predict(x_t, timestep, condition)
                expected[i, k, j] = (predicted - target).square().mean()
    assert_close(
        errors,
        expected,
        "denoising_errors differ from a double loop over images and trials; see "
        "encode, add_noise and prediction_and_target",
        tolerance=1e-5,
    )


@torch.no_grad()
def check_conditions(backbone):
    """Another condition gives another prediction."""
    noised, timesteps, _ = make_inputs(backbone)
    conditions = backbone.condition(two_names(backbone))
    first, second = (
        backbone.predict(noised, timesteps, conditions[[row] * 3]) for row in range(2)
    )
    difference = (first - second).abs().amax() / first.abs().amax()
    assert difference > 1e-5, (
        f"{two_names(backbone)} give the same prediction; see whether forward hands "
        "the conditions to the network, and that no weight of the network is zero."
    )


@torch.no_grad()
def check_null_condition(backbone):
    """The null condition is a row like others, or there is none: ValueError."""
    noised, timesteps, conditions = make_inputs(backbone)
    try:
        null = backbone.null_condition()
    except ValueError:
        return
    except Exception as error:
        raise AssertionError(
            f"null_condition raises {type(error).__name__}; implement it, and raise "
            "ValueError if the model has none."
        ) from error
    for name, tensor in to_dict(conditions).items():
        shape, hint = (1, *tensor.shape[1:]), "raise ValueError if the model has none"
        assert_output("null_condition", to_dict(null)[name], shape, tensor.dtype, hint)
    predicted = backbone.predict(noised, timesteps, repeat(null, 3))
    assert predicted.isfinite().all(), "null_condition gives NaN or infinity."


@torch.no_grad()
def check_modes(backbone):
    """Modules run in evaluation mode, and get their mode back."""
    backbone = copy_backbone(backbone, backbone.dtype)
    whole = torch.nn.ModuleDict(modules_of(backbone.pipeline))
    used = set()
    for name, module in whole.named_modules():
        module.register_forward_pre_hook(
            lambda module, _, name=name: used.add(name) if module.training else None
        )
    for training in (True, False):
        whole.train(training)
        backbone.predict(*make_inputs(backbone))
        assert not used, (
            f"{min(used)} runs in train mode, with dropout; run it within "
            "evaluation_mode, as Backbone.predict does."
        )
        modules = whole.named_modules()
        changed = [name for name, module in modules if module.training != training]
        assert not changed, (
            f"{changed[0]}.training was {training} and is {not training} afterwards; "
            "give modules their mode back."
        )


@torch.no_grad()
def check_pickle(backbone):
    """A pickle is small and leads to the same model; a copy is the backbone itself."""
    assert copy.deepcopy(backbone) is backbone, "a deep copy is another backbone."
    if backbone.spec is None:  # made by hand, with nothing to load it from
        return
    pickled = pickle.dumps(backbone)
    assert len(pickled) < MAX_PICKLE, (
        f"the pickle has {len(pickled)} bytes: it must hold the spec alone; see "
        "__reduce_ex__."
    )
    inputs = make_inputs(backbone)
    assert_close(
        pickle.loads(pickled).predict(*inputs),
        backbone.predict(*inputs),
        "the unpickled backbone predicts something else; see what is set outside of "
        "the pipeline",
    )


@torch.no_grad()
def check_half_precision(backbone):
    """In bfloat16, predictions are nearly the same, and in float32."""
    half, inputs = copy_backbone(backbone, torch.bfloat16), make_inputs(backbone)
    predicted = half.predict(*inputs)
    latents = half.encode(to_tensor(make_images(half, 1)))
    for name, tensor in {"encode": latents, "predict": predicted}.items():
        hint = "the model is in bfloat16, its errors are computed in float32"
        assert_output(name, tensor, tensor.shape, torch.float32, hint)
    for tensor in to_dict(half.condition(two_names(half))).values():
        assert tensor.isfinite().all(), "condition in bfloat16 gives NaN or infinity."
    full = backbone.predict(*inputs)
    difference = (predicted - full).norm() / full.norm()
    assert difference < 0.5, (  # some networks, as Flux's, round the time themselves
        f"predictions in bfloat16 differ by {difference:.0%}; see which inputs of the "
        "network, such as times and sizes, are rounded."
    )


CHECKS = (
    check_attributes,
    check_shapes,
    check_batches,
    check_errors,
    check_conditions,
    check_null_condition,
    check_modes,
    check_pickle,
    check_half_precision,
    check_denoising_step,
    check_latents,
)
