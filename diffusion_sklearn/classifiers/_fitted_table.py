"""The fitted state of a diffusion classifier as HTML, for notebooks."""

from html import escape

from diffusion_sklearn.backbones._spec import describe
from diffusion_sklearn.engine._pruning import evaluation_bounds

MAX_SHOWN = 3  # prompts


def fitted_table(clf):
    """Describe what `fit` made, without loading a model that is not loaded.

    Parameters
    ----------
    clf : estimator
        Fitted.

    Returns
    -------
    html : str
        A table.
    """
    spec, timesteps = clf._spec, clf.trials_.timesteps
    device = f"device {spec.device}, dtype {spec.dtype}"
    span = f"timesteps {timesteps.min()} to {timesteps.max()}"
    rows = {
        "model": f"{describe(clf.model)}, {device}",
        "classes": _first(clf.classes_),
        **_conditions(clf),
        "trials": f"{len(timesteps)}, {span}, seed {clf.trials_.seed}",
        "trial covariance": _covariance(clf),
        "cost": _cost(clf),
    }
    cells = "".join(
        f"<tr><th style='text-align:left'>{name}</th>"
        f"<td style='text-align:left'>{escape(str(value))}</td></tr>"
        for name, value in rows.items()
    )
    return f"<table><caption>After fit</caption>{cells}</table>"


def _first(values):
    shown = ", ".join(map(str, values[:MAX_SHOWN]))
    more = ", ..." if len(values) > MAX_SHOWN else ""
    return f"{len(values)}: {shown}{more}"


def _conditions(clf):
    if hasattr(clf, "class_ids_"):
        return {"class ids": _first(clf.class_ids_)}
    return {"prompts": _first([text for texts in clf.prompts_ for text in texts])}


def _covariance(clf):
    given = clf.trial_covariance
    if given is None:
        return "none: a race tests means"
    if not isinstance(given, str) or given != "auto":
        return "given"
    at_fit, is_known = clf._covariance_at_fit
    if at_fit != covariance_settings(clf):
        return "auto: that of the model for these parameters, if it has one"
    return "known: the model's own" if is_known else "not known: a race tests means"


def covariance_settings(clf):
    """Parameters that decide which covariance "auto" stands for.

    Parameters
    ----------
    clf : estimator

    Returns
    -------
    settings : tuple
    """
    return clf.loss, clf.target, clf.guidance_scale, clf.image_size


def _cost(clf):
    n_classes, n_trials = clf.n_classes_, len(clf.trials_)
    if clf.prefilter_ is not None:
        n_classes = min(n_classes, clf.n_candidates)
    _, most = evaluation_bounds(clf.pruning, n_trials, n_classes)
    most *= int(clf._n_prompts.max())
    if clf.guidance_scale != 1:
        most += n_trials
    text = f"at most {most:,} network evaluations an image"
    if isinstance(clf.prefilter_, str):
        text += ", and those of the prefilter"
    return text
