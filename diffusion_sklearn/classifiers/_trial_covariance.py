"""The trial covariance, learned from unlabelled images."""

import numpy as np
from sklearn.utils import check_random_state

from diffusion_sklearn.classifiers._evaluate import errors_of
from diffusion_sklearn.classifiers._plans import fingerprint_of_errors, make_plan
from diffusion_sklearn.engine._covariance import learn_covariance
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
    plan = make_plan(
        clf,
        clf._spec,
        trials,
        clf._conditions[np.isin(of_class, subset)],
        clf._n_prompts[subset],
        pruning=None,
        trial_covariance=None,
    )
    errors = errors_of(clf, plan, images, use_memory=False)
    return learn_covariance(
        errors,
        plan.weights,
        timesteps,
        loss=clf.loss,
        target=plan.target,
        model=fingerprint_of_errors(backbone),
    )
