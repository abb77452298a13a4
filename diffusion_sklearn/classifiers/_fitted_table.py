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
    timesteps = clf.trials_.timesteps
    if hasattr(clf, "prompts_"):
        kind, conditions = "prompts", [text for texts in clf.prompts_ for text in texts]
    else:
        kind, conditions = "class ids", clf.class_ids_
    rows = {
        "model": f"{describe(clf.model)}, device {clf.device}, dtype {clf.dtype}",
        "classes": _first(clf.classes_),
        kind: _first(conditions),
        "trials": f"{len(timesteps)}, timesteps {timesteps.min()} to {timesteps.max()}",
        "trial covariance": _covariance(clf),
        "cost": _cost(clf),
    }
    cells = "".join(
        f"<tr><th>{name}</th><td style='text-align: left'>{escape(value)}</td></tr>"
        for name, value in rows.items()
    )
    return f"<table><caption>After fit</caption>{cells}</table>"


def _first(values):
    shown = ", ".join(map(str, values[:MAX_SHOWN]))
    return f"{len(values)}: {shown}{', ...' if len(values) > MAX_SHOWN else ''}"


def _covariance(clf):
    if clf.trial_covariance is None:
        return "none: a race tests means"
    if not isinstance(clf.trial_covariance, str) or clf.trial_covariance != "auto":
        return "given"
    known = "known, the model's own" if clf._has_covariance else "not known"
    return f"auto: {known} at fit"


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
