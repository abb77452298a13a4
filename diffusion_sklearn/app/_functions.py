"""Functions of the page: photos and settings in, HTML out; without Gradio."""

import csv
import io
import time

import numpy as np
from matplotlib.figure import Figure
from scipy.special import softmax
from sklearn.metrics import confusion_matrix

from diffusion_sklearn.app._templates import templates
from diffusion_sklearn.baselines import CLIPZeroShotClassifier
from diffusion_sklearn.images._data_uri import data_uri
from diffusion_sklearn.inspection import DenoisingErrorDisplay, EvidenceDisplay
from diffusion_sklearn.inspection._confusion import confusion_figure

N_BARS = 12  # classes shown of a photo
GROUP_SIZE = 8  # images between two updates of the table
COLUMNS = ("path", "folder", "label", "probability", "evaluations", "error")


def classify(settings, photos):
    """Classify photos, look by look.

    Parameters
    ----------
    settings : Settings
    photos : list of Photo

    Yields
    ------
    html : str
        The photos with the posterior so far, and CLIP's answer.
    ranking : list of list of str
        Classes of each photo, the likeliest first.

    Raises
    ------
    ValueError
        If there are no photos, or a setting is not possible.
    """
    if not photos:
        raise ValueError("Drop a photo, or pick an example.")
    clf = settings.fit()
    images = [photo.square for photo in photos]
    full = len(clf.trials_) * int(clf._n_prompts.sum())
    clip = _clip_answers(settings, clf, images)
    start = time.perf_counter()
    for look in clf._iter_looks(images):
        n_done = (~np.isnan(look.errors)).sum(axis=2)  # (n, k)
        yield _cards(photos, look, n_done, full, clip), None
    seconds = time.perf_counter() - start
    order = (-look.log_proba).argsort(axis=1, kind="stable")
    ranking = [clf.classes_[row].tolist() for row in order]
    yield _cards(photos, look, n_done, full, clip, seconds / len(photos)), ranking


def _clip_answers(settings, clf, images):
    """Posterior of CLIP for the same classes, or why there is none."""
    if settings.clip is None:
        return "No CLIP: start the page with --clip MODEL."
    template = settings.template.strip() or "auto"
    clip = CLIPZeroShotClassifier(model=settings.clip, prompt_template=template)
    try:
        return clip.fit(classes=clf.classes_).predict_proba(images)
    except (ValueError, OSError, ImportError) as error:
        return str(error)


def _cards(photos, look, n_done, full, clip, seconds=None):
    """Photos, posteriors and costs after a look; with `seconds`, the last."""
    proba, cards = np.exp(look.log_proba), []
    for k, photo in enumerate(photos):
        done, cost = n_done[k], look.n_evaluations[k]
        best, second = proba[k].argsort(kind="stable")[::-1][:2]
        active = done == done.max()
        cost = f"{cost:,} of {full:,} evaluations ({cost / full:.0%})"
        if seconds is None:
            text = templates.racing(active.sum(), len(active), cost)
        else:
            if done.max() < look.errors.shape[2]:  # the last look has decided
                active = np.arange(len(done)) == best
            winner = look.classes[best], proba[k, best]
            runner_up = look.classes[second], proba[k, second]
            text = templates.decided(*winner, *runner_up, cost, seconds)
        ours = _bars("Diffusion model", look.classes, proba[k], done, active)
        if isinstance(clip, str):
            theirs = templates.paragraph(clip)
        else:
            theirs = _bars("CLIP", look.classes, clip[k])
        cards.append(templates.card(photo, text, ours, theirs))
    return "".join(cards)


def _bars(title, classes, proba, n_done=None, active=None):
    """A table of classes with a bar for each probability."""
    rows = []
    for k in np.sort(proba.argsort(kind="stable")[::-1][:N_BARS]):
        kinds = ["dropped"] if active is not None and not active[k] else []
        kinds += ["best"] if k == proba.argmax() else []
        n_trials = None if n_done is None else n_done[k]
        rows.append((" ".join(kinds), classes[k], proba[k], n_trials))
    return templates.bars(title, rows, n_done is not None, len(classes) - N_BARS)


def compare(settings, photo, a, b):
    """Why class `a` fits a photo better than class `b`, or worse.

    Parameters
    ----------
    settings : Settings
    photo : Photo
    a, b : str
        Two classes.

    Returns
    -------
    html : str
        Evidence over the photo, and the error of both over the timesteps.

    Raises
    ------
    ValueError
        If both are the same.
    """
    if a == b:
        raise ValueError(f"Both classes are {a!r}: choose two.")
    clf = settings.fit([a, b])
    left, right = Figure(figsize=(4.6, 3.6)), Figure(figsize=(5, 3.6))
    ax = left.subplots()
    display = EvidenceDisplay.from_estimator(clf, photo.square, a, b, ax=ax)
    display.colorbar_.set_label("error with B minus error with A")
    DenoisingErrorDisplay.from_estimator(
        clf, photo.square, n_noises=4, timesteps=25, ax=right.subplots()
    )
    fraction = (np.asarray(display.evidence) > 0).mean()
    return templates.comparison(a, b, _figure_uri(left), _figure_uri(right), fraction)


def match_captions(settings, photos, captions):
    """Score two captions on two images, with both models.

    Parameters
    ----------
    settings : Settings
    photos : list of 2 Photo
    captions : list of 2 str
        That of the first image, and that of the second.

    Returns
    -------
    html : str

    Raises
    ------
    ValueError
        If an image or a caption is missing.
    """
    captions = [caption.strip() for caption in captions]
    if not all(captions) or any(photo is None for photo in photos):
        raise ValueError("Give two images and the caption of each.")
    images = [photo.square for photo in photos]
    models = {"Diffusion model": settings.make()}
    if settings.clip:
        models["CLIP"] = CLIPZeroShotClassifier(model=settings.clip)
    scores = {name: m.score_pairs(images, captions) for name, m in models.items()}
    results = [(name, pairs, softmax(pairs, axis=1)) for name, pairs in scores.items()]
    return templates.captions(results, 4 * settings.n_trials)


def classify_folder(settings, photos):
    """Classify many photos, group by group.

    Parameters
    ----------
    settings : Settings
        Without classes, they are the names of the folders.
    photos : list of Photo

    Yields
    ------
    html : str
        The table so far; at the end also a link that saves it as CSV, and a confusion
        matrix if the names of folders are classes.

    Raises
    ------
    ValueError
        If there are no photos, or a setting is not possible.
    """
    if not photos:
        raise ValueError("Choose a folder or a zip, or take the example.")
    clf, rows = settings.fit(folder_classes(settings, photos)), []
    for start in range(0, len(photos), GROUP_SIZE):
        group = photos[start : start + GROUP_SIZE]
        readable = [photo.square for photo in group if not photo.error]
        result = clf.denoising_errors(readable) if readable else None
        k = 0
        for photo in group:
            row = dict.fromkeys(COLUMNS, "") | {"path": photo.name}
            row |= {"folder": photo.folder, "error": photo.error}
            if not photo.error:
                best = result.log_proba[k].argmax()
                row["label"] = str(clf.classes_[best])
                row["probability"] = f"{np.exp(result.log_proba[k, best]):.4f}"
                row["evaluations"] = int(result.n_evaluations[k])
                k += 1
            rows.append(row)
        progress = templates.paragraph(f"{len(rows)} of {len(photos)} images.")
        yield progress + templates.predictions(COLUMNS, rows)
    yield _summary(rows, clf) + templates.predictions(COLUMNS, rows)


def folder_classes(settings, photos):
    """The classes of the settings, or else the names of the folders.

    Parameters
    ----------
    settings : Settings
    photos : list of Photo

    Returns
    -------
    names : list of str
    """
    return settings.names or sorted({p.folder for p in photos if p.folder})


def _summary(rows, clf):
    """Cost, the CSV to save and, where folders are classes, accuracy and confusions."""
    file = io.StringIO(newline="")
    writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    csv_uri = data_uri(file.getvalue().encode("utf-8", "backslashreplace"), "text/csv")
    done = [row for row in rows if not row["error"]]
    cost = np.mean([row["evaluations"] for row in done]) if done else 0
    facts = len(done), len(rows) - len(done), cost, csv_uri
    labels, classes = {row["folder"] for row in done}, set(clf.classes_.tolist())
    if not done or not labels <= classes:
        return templates.summary(*facts, None)
    target, predicted = zip(*((r["folder"], r["label"]) for r in done), strict=True)
    accuracy = np.mean(np.array(target) == predicted)
    matrix = confusion_matrix(target, predicted, labels=clf.classes_)
    source = _figure_uri(confusion_figure(matrix, clf.classes_))
    alt = "Confusion matrix: folders against predicted classes"
    return templates.summary(*facts, accuracy) + templates.plot(source, alt)


def _figure_uri(figure):
    """A figure as an address, for HTML."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100, bbox_inches="tight")
    return data_uri(buffer.getvalue())
