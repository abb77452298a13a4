"""What the page does: photos and settings in, HTML out. Knows no Gradio."""

import csv
import io
import time
from html import escape

import numpy as np
from matplotlib.figure import Figure
from scipy.special import softmax
from sklearn.metrics import ConfusionMatrixDisplay

from diffusion_sklearn.baselines import CLIPZeroShotClassifier
from diffusion_sklearn.images._data_uri import data_uri
from diffusion_sklearn.inspection import DenoisingErrorDisplay, EvidenceDisplay

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
        cost_text = f"{cost:,} of {full:,} evaluations ({cost / full:.0%})"
        if seconds is None:
            text = f"{active.sum()} of {len(active)} classes left, {cost_text}."
        else:
            if done.max() < look.errors.shape[2]:  # the last look has decided
                active = np.arange(len(done)) == best
            text = (
                f"<strong>{escape(str(look.classes[best]))}</strong> wins with "
                f"{proba[k, best]:.1%}, ahead of {escape(str(look.classes[second]))} "
                f"with {proba[k, second]:.1%}. Cost: {cost_text}, {seconds:.1f} s."
            )
        ours = _bars("Diffusion model", look.classes, proba[k], done, active)
        theirs = f"<p>{escape(clip)}</p>" if isinstance(clip, str) else None
        theirs = theirs or _bars("CLIP", look.classes, clip[k])
        cards.append(
            f'<article class="card">{photo.html}<div><p>{text}</p>'
            f'<div class="pair">{ours}{theirs}</div></div></article>'
        )
    return "".join(cards)


def _bars(title, classes, proba, n_done=None, active=None):
    """A table of classes with a bar for each probability."""
    shown = np.sort(proba.argsort(kind="stable")[::-1][:N_BARS])
    rows = []
    for k in shown:
        kinds = ["" if active is None or active[k] else "dropped"]
        kinds += ["best"] if k == proba.argmax() else []
        trials = "" if n_done is None else f"<td>{n_done[k]}</td>"
        rows.append(
            f'<tr class="{" ".join(kinds)}"><th scope="row">{escape(str(classes[k]))}'
            f'<div class="bar" style="width:{100 * proba[k]:.1f}%"></div></th>'
            f"<td>{proba[k]:.1%}</td>{trials}</tr>"
        )
    more = len(classes) - len(shown)
    more = f"<p>and {more} classes of less probability</p>" if more else ""
    trials = "" if n_done is None else '<th scope="col">trials</th>'
    return (
        f'<div><table class="bars"><caption>{title}</caption><thead><tr>'
        '<th scope="col">class</th><th scope="col">probability</th>'
        f"{trials}</tr></thead><tbody>{''.join(rows)}</tbody></table>{more}</div>"
    )


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
    red = f"{(np.asarray(display.evidence) > 0).mean():.0%} of the photo"
    DenoisingErrorDisplay.from_estimator(
        clf, photo.square, n_noises=4, timesteps=25, ax=right.subplots()
    )
    a, b = escape(a), escape(b)
    return (
        f'<div class="pair">{_figure(left, f"Evidence for {a} or {b} over the photo")}'
        f"{_figure(right, f'Denoising error of {a} and {b} at each timestep')}</div>"
        f"<p>Red: with {a} the noise is predicted better ({red}). Blue: with {b}. "
        "The curves: the lower line is the class that fits better; faint lines are of "
        "one noise each, thick ones their mean. At a small timestep the photo has "
        "little noise, at a large one hardly anything is left of it.</p>"
    )


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
    tables = []
    for name, model in models.items():
        scores = model.score_pairs(images, captions)  # (2, 2)
        proba = softmax(scores, axis=1)
        n_right = int((proba.diagonal() > 0.5).sum())
        verdict = ("wrong on both", "right on one of two", "right on both")[n_right]
        rows = "".join(
            f'<tr><th scope="row">image {i + 1}</th>'
            + "".join(
                f'<td class="{"best" if proba[i, j] > 0.5 else ""}">{proba[i, j]:.1%}'
                f"<br><small>score {scores[i, j]:.1f}</small></td>"
                for j in (0, 1)
            )
            + f"<td>{'right' if proba[i, i] > 0.5 else 'wrong'}</td></tr>"
            for i in (0, 1)
        )
        tables.append(
            f'<div><table class="grid"><caption>{name}: {verdict}</caption>'
            '<thead><tr><td></td><th scope="col">caption 1</th><th scope="col">caption '
            f'2</th><th scope="col">choice</th></tr></thead><tbody>{rows}</tbody>'
            "</table></div>"
        )
    return (
        f'<div class="pair">{"".join(tables)}</div><p>A row tells how probable each '
        "caption is for the image; chance gets both right a quarter of the time. Cost: "
        f"{4 * settings.n_trials:,} network evaluations.</p>"
    )


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
        yield f"<p>{len(rows)} of {len(photos)} images.</p>{_table(rows)}"
    yield _summary(rows, clf) + _table(rows)


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


def _table(rows):
    head = "".join(f'<th scope="col">{name}</th>' for name in COLUMNS)
    body = "".join(
        f'<tr class="{"wrong" if row["error"] else ""}">'
        + "".join(f"<td>{escape(str(value))}</td>" for value in row.values())
        + "</tr>"
        for row in rows
    )
    return (
        '<div class="scroll" tabindex="0" role="region" aria-label="Predictions">'
        f'<table class="grid"><thead><tr>{head}</tr></thead><tbody>{body}</tbody>'
        "</table></div>"
    )


def _summary(rows, clf):
    """Cost, the CSV to save and, where folders are classes, accuracy and confusions."""
    file = io.StringIO(newline="")
    writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    link = data_uri(file.getvalue().encode("utf-8", "backslashreplace"), "text/csv")
    done = [row for row in rows if not row["error"]]
    cost = np.mean([row["evaluations"] for row in done]) if done else 0
    text = f"{len(done)} images, {len(rows) - len(done)} that can't be read. "
    text += f"Cost: {cost:.0f} evaluations an image. "
    text += f'<a download="labels.csv" href="{link}">Download CSV</a>'
    labels, classes = {row["folder"] for row in done}, set(clf.classes_.tolist())
    if not done or not labels <= classes:
        return f"<p>{text}</p>"
    target, predicted = zip(*((r["folder"], r["label"]) for r in done), strict=True)
    accuracy = np.mean(np.array(target) == predicted)
    side = 2.5 + 0.4 * len(classes)
    figure = Figure(figsize=(side + 0.5, side))
    ConfusionMatrixDisplay.from_predictions(
        target,
        predicted,
        labels=clf.classes_,
        xticks_rotation="vertical",
        cmap="Blues",
        colorbar=False,
        ax=figure.subplots(),
    )
    image = _figure(figure, "Confusion matrix: folders against predicted classes")
    return f"<p>Accuracy {accuracy:.1%}. {text}</p>{image}"


def _figure(figure, alt):
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100, bbox_inches="tight")
    return f'<img class="figure" alt="{alt}" src="{data_uri(buffer.getvalue())}">'
