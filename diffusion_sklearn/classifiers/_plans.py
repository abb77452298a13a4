"""Plans of an estimator's predictions, from its parameters as they are now."""

import logging
from dataclasses import replace
from pathlib import Path

from sklearn.utils import check_random_state

from diffusion_sklearn.backbones._checksums import digest
from diffusion_sklearn.backbones._loading import (
    backbone_spec,
    get_backbone,
    get_unchanged,
)
from diffusion_sklearn.backbones._sources import get_or_make
from diffusion_sklearn.backbones._spec import describe
from diffusion_sklearn.engine._covariance import TrialCovariance
from diffusion_sklearn.engine._plan import Plan
from diffusion_sklearn.engine._trials import make_trials
from diffusion_sklearn.engine._weights import resolve_target, trial_weights

logger = logging.getLogger(__name__)

_ESTIMATOR_FOR = {
    "text": "ZeroShotDiffusionClassifier",
    "class": "ConditionalDiffusionClassifier",
}


def load_and_draw(clf):
    """The model of an estimator, and trials for it.

    Parameters
    ----------
    clf : estimator
        A diffusion classifier; need not be fitted.

    Returns
    -------
    spec : BackboneSpec
        With the model's fingerprint.
    trials : Trials

    Raises
    ------
    ValueError
        If the model is for the other estimator.
    OSError
        If the model can't be had.
    """
    spec = backbone_spec(clf.model, clf.device, clf.dtype)
    backbone = get_backbone(spec)
    if backbone.kind != clf._kind:
        raise ValueError(
            f"model={describe(clf.model)} is conditioned on {backbone.kind}, but "
            f"{type(clf).__name__} needs a model conditioned on {clf._kind}; use "
            f"{_ESTIMATOR_FOR[backbone.kind]} instead."
        )
    dtype = str(backbone.dtype).removeprefix("torch.")
    logger.info("%s on %s, %s", backbone.name, backbone.device, dtype)
    trials = make_trials(
        clf.timesteps,
        clf.n_trials,
        backbone.n_timesteps,
        check_random_state(clf.random_state),
    )
    return replace(spec, fingerprint=backbone.fingerprint()), trials


def model_and_trials(clf):
    """Those of `fit`, or new ones for an estimator that is not fitted.

    Parameters
    ----------
    clf : estimator
        A diffusion classifier.

    Returns
    -------
    spec, trials
        As :func:`load_and_draw` returns them.
    """
    fitted = hasattr(clf, "trials_")
    clf._check_parameters(len(clf.trials_) if fitted else clf.n_trials)
    if not fitted:
        return load_and_draw(clf)
    get_unchanged(clf._spec)
    return clf._spec, clf.trials_


def make_plan(clf, spec, trials, conditions, n_prompts, **changes):
    """A plan with the parameters of an estimator.

    Parameters
    ----------
    clf : estimator
        A diffusion classifier.
    spec, trials, conditions, n_prompts
        As in :class:`~diffusion_sklearn.engine._plan.Plan`.
    **changes
        Values of `pruning`, `guidance_scale` or `trial_covariance` in place of the
        estimator's.

    Returns
    -------
    plan : Plan
    """
    backbone, params = get_backbone(spec), {**vars(clf), **changes}
    image_size = clf.image_size or backbone.image_size
    has_guidance = params["guidance_scale"] != 1
    null = backbone.encode_null(clf.null_condition) if has_guidance else None
    target = resolve_target(clf.target, backbone)
    covariance = resolve_trial_covariance(
        params["trial_covariance"],
        backbone,
        clf.loss,
        target,
        is_usual=image_size == backbone.image_size and not has_guidance,
    )
    return Plan(
        spec,
        trials,
        conditions,
        n_prompts,
        weights=trial_weights(clf.timestep_weights, trials, backbone, clf.target),
        pruning=params["pruning"],
        loss=clf.loss,
        target=target,
        guidance_scale=params["guidance_scale"],
        null=null,
        image_size=image_size,
        batch_size=clf.batch_size,
        covariance=covariance,
    )


def fitted_plan(clf, **changes):
    """The plan of a fitted estimator, made once for the same parameters.

    Parameters
    ----------
    clf : estimator
        A fitted diffusion classifier.
    **changes
        A value of `pruning` in place of the estimator's.

    Returns
    -------
    plan : Plan

    Raises
    ------
    ValueError
        If the model has been changed since `fit`.
    """
    backbone, trials = get_unchanged(clf._spec), clf.trials_
    weights = trial_weights(clf.timestep_weights, trials, backbone, clf.target)
    covariance = clf.trial_covariance
    if isinstance(covariance, str | Path) and Path(covariance).is_file():
        covariance = covariance, Path(covariance).stat().st_mtime_ns
    key = (
        backbone,
        str(backbone.device),
        backbone.dtype,
        weights.tobytes(),
        repr(changes.get("pruning", clf.pruning)),
        covariance,
        clf.loss,
        clf.target,
        clf.guidance_scale,
        clf.null_condition,
        clf.image_size,
        clf.batch_size,
    )
    conditions, n_prompts = clf._conditions, clf._n_prompts

    def make():
        return make_plan(clf, clf._spec, trials, conditions, n_prompts, **changes)

    return get_or_make(clf._fit, key, make)


def fingerprint_of_errors(backbone):
    """Fingerprint of what errors depend on, whatever encodes the conditions.

    Parameters
    ----------
    backbone : Backbone
        The model.

    Returns
    -------
    fingerprint : str
    """
    parts = {"unet", "transformer", "vae", "scheduler"}
    own = {k: v for k, v in backbone.fingerprint().items() if k in parts}
    return digest(repr(sorted(own.items())).encode())


def resolve_trial_covariance(given, backbone, loss, target, is_usual):
    """The covariance of the errors of a loss and target.

    Parameters
    ----------
    given : TrialCovariance, str, Path or None
        The estimators' parameter.
    backbone : Backbone
        The model.
    loss, target : str
        Of the errors; `target` is a prediction type.
    is_usual : bool
        Whether images are of the model's own size and there is no guidance, as where
        the model's own covariance was learned.

    Returns
    -------
    covariance : TrialCovariance or None
        None: the race is by a test of means.

    Raises
    ------
    OSError
        If there is no such file.
    ValueError
        If it was learned with another model or another loss.
    """
    if given is None:
        return None
    if given == "auto":
        file = backbone.folder and backbone.folder / f"trial_covariance_{loss}.npz"
        if not is_usual or not file or not file.is_file():
            return None
        covariance = TrialCovariance.load(file)
        by_name = isinstance(getattr(backbone.spec, "model", None), str)
        if not by_name and covariance.model != fingerprint_of_errors(backbone):
            return None  # a pipeline object that was changed
        return covariance.in_space(loss, target, backbone.noise_schedule)
    if not isinstance(given, TrialCovariance):
        given = TrialCovariance.load(given)
    if given.model not in ("", fingerprint_of_errors(backbone)):
        raise ValueError(
            f"trial_covariance={given!r} was learned with another model than "
            f"{backbone.name}, or with this one in another dtype than "
            f"{backbone.dtype}; pass fit_trial_covariance(clf, X) of this one, or None."
        )
    covariance = given.in_space(loss, target, backbone.noise_schedule)
    if covariance is None:
        raise ValueError(
            f"trial_covariance={given!r} does not fit loss={loss!r} and "
            f"target={target!r}; learn one with these, or pass None."
        )
    return covariance
