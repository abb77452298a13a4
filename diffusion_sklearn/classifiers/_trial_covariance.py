"""The trial covariance: learned from unlabelled images, or the model's own."""

import numpy as np
from sklearn.utils import check_random_state

from diffusion_sklearn.backbones._checksums import digest
from diffusion_sklearn.engine._covariance import TrialCovariance, learn_covariance
from diffusion_sklearn.engine._trials import Trials, thin

N_TRIALS, MAX_CLASSES = 100, 20


def fit_trial_covariance(clf, X):
    """Learn what the race predicts with, from unlabelled images.

    Every image gets all of 100 even trials for every class, or for 20 of them at
    random where there are more. The covariance of these errors over trials then serves
    any other number of trials, any timesteps, noise and classes, with this model and
    this loss; best the default trials of the same `random_state`, as their noise is the
    same. Ten images are enough for most purposes (``benchmarks/accuracy/race.py``). The
    race is longer for images of larger errors than these, such as noisy ones.

    Parameters
    ----------
    clf : ZeroShotDiffusionClassifier or ConditionalDiffusionClassifier
        Fitted.
    X : list, array-like or Tensor of n_images
        Images, as for ``clf.predict``, like those to come.

    Returns
    -------
    trial_covariance : TrialCovariance
        For the parameter `trial_covariance` of estimators with the same model and
        loss. Its ``save(path)`` writes it to a ``.npz`` file, whose path will do too.

    Raises
    ------
    ValueError
        If `clf` has a single class.

    Examples
    --------
    >>> from diffusion_sklearn import ConditionalDiffusionClassifier
    >>> from diffusion_sklearn import fit_trial_covariance
    >>> from diffusion_sklearn.datasets import load_fashion_photos
    >>> images = load_fashion_photos().images
    >>> clf = ConditionalDiffusionClassifier(model="fashion-dit", trial_covariance=None)
    >>> clf = clf.fit(classes=["bag", "sandal", "trouser"])
    >>> covariance = fit_trial_covariance(clf, images[:5])
    >>> faster = clf.set_params(trial_covariance=covariance)
    >>> faster.predict(images[5:7]).tolist()
    ['trouser', 'trouser']
    """
    images = clf._check_images(X)
    if clf.n_classes_ < 2:
        raise ValueError(
            f"A trial covariance is one of differences between classes, and clf has "
            f"only {clf.classes_.tolist()}; fit it with two classes or more."
        )
    backbone = clf.backbone_
    timesteps = thin(np.arange(backbone.n_timesteps), N_TRIALS)
    trials = Trials(timesteps, clf.trials_.seed)
    subset = np.arange(clf.n_classes_)
    if len(subset) > MAX_CLASSES:
        subset = check_random_state(1).choice(subset, MAX_CLASSES, replace=False)
        subset.sort()
    of_class = np.arange(clf.n_classes_).repeat(clf._n_prompts)
    plan = clf._make_plan(
        clf._spec,
        trials,
        clf._conditions[np.isin(of_class, subset)],
        clf._n_prompts[subset],
        pruning=None,
        trial_covariance=None,
    )
    errors = clf._errors_of(plan, images, use_memory=False)
    return learn_covariance(
        errors,
        plan.weights,
        timesteps,
        loss=clf.loss,
        target=plan.target,
        model=_fingerprint(backbone),
    )


def _fingerprint(backbone):
    """Fingerprint of what the errors depend on, whatever encodes the conditions."""
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
    if isinstance(given, str) and given == "auto":
        file = backbone.folder and backbone.folder / f"trial_covariance_{loss}.npz"
        if not is_usual or not file or not file.is_file():
            return None
        covariance = TrialCovariance.load(file)
        by_name = isinstance(getattr(backbone.spec, "model", None), str)
        if not by_name and covariance.model != _fingerprint(backbone):
            return None  # a pipeline object that was changed
        return covariance.in_space(loss, target, backbone.noise_schedule)
    if not isinstance(given, TrialCovariance):
        given = TrialCovariance.load(given)
    if given.model not in ("", _fingerprint(backbone)):
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
