"""Reports in HTML: one file with all images inside, which needs no network."""

import numpy as np
from jinja2 import Environment, PackageLoader
from PIL import Image

from diffusion_sklearn.images._data_uri import image_uri
from diffusion_sklearn.images._pixels import read_square
from diffusion_sklearn.metrics import clopper_pearson, confidence_bins

N_BINS = 10  # of the reliability curve
N_MISTAKES = 12
MAX_CLASSES = 30  # of a whole confusion matrix
SIDE = 160  # pixels of a photo
LIKELIEST = (("label", "probability"), ("runner_up", "runner_up_probability"))


def write_report(path, title, facts, sections):
    """Write a report.

    Parameters
    ----------
    path : Path
    title : str
    facts : list of (str, object)
        Names and values of the table at the top.
    sections : list of dict
        With ``heading`` and ``text``; and a table (``columns``; ``rows``, a list of a
        name and its values; ``shaded``), the ``bins`` of a reliability curve or
        ``cards``. A card is a dict of ``title``; ``images``, arrays; and
        ``lines``: label, probability, and "right", "wrong" or "".
    """
    loader = PackageLoader("diffusion_sklearn.cli", "")
    environment = Environment(loader=loader, autoescape=True)
    environment.filters["data_uri"] = image_uri
    page = environment.get_template("report.html.jinja")
    text = page.render(title=title, facts=facts, sections=sections)
    path.write_text(text, "utf-8", errors="backslashreplace")  # names of files


def draw_evidence(image, evidence):
    """Draw evidence over a gray photo, in red where it is positive, else in blue.

    Parameters
    ----------
    image : ndarray of shape (h, w) or (h, w, 3), uint8
    evidence : ndarray of shape (size, size)

    Returns
    -------
    drawn : ndarray of shape (size, size, 3), uint8
    """
    gray = Image.fromarray(image).convert("L").resize(evidence.shape)
    gray = np.asarray(gray, float)[..., None]  # (size, size, 1)
    strength = evidence[..., None] / (np.abs(evidence).max() or 1)
    color = np.where(strength > 0, (178, 24, 43), (33, 102, 172))
    opacity = 0.8 * np.abs(strength)
    return (gray * (1 - opacity) + color * opacity).astype(np.uint8)


def evaluation_sections(rows, paths, classes, matrix):
    """Confusion matrix, reliability and most certain mistakes.

    Parameters
    ----------
    rows : list of dict
        Rows of predictions.csv, those without an error.
    paths : dict of str to Path
        File of each path in the rows.
    classes : list of str
    matrix : ndarray of shape (n_classes, n_classes), int64
        Images by true (row) and predicted (column) class.

    Returns
    -------
    sections : list of dict
        For :func:`write_report`.
    """
    bins = reliability_bins(
        np.array([row["probability"] for row in rows]),
        np.array([row["label"] == row["target"] for row in rows]),
    )
    error = sum(b["n"] * abs(b["accuracy"] - b["confidence"]) for b in bins) / len(rows)
    wrong = [row for row in rows if row["label"] != row["target"]]
    wrong = sorted(wrong, key=lambda row: -row["probability"])
    cards = [
        {
            "title": f"{row['target']}, in {row['path']}",
            "images": [read_square(paths[row["path"]], SIDE, 0)],
            "lines": [
                (row[name], row[p], "right" if row[name] == row["target"] else "wrong")
                for name, p in LIKELIEST
            ],
        }
        for row in wrong[:N_MISTAKES]
    ]
    return [
        _confusion_section(matrix, classes),
        {
            "heading": "Reliability",
            "text": "Calibrated probabilities lie on the dashed line. Vertical lines "
            "are exact 95 % intervals. Expected calibration error with "
            f"{N_BINS} bins: {error:.3f}.",
            "bins": bins,
        },
        {
            "heading": "Most certain mistakes",
            "text": f"{len(cards)} of {len(wrong)}, with the two likeliest classes.",
            "cards": cards,
        },
    ]


def _confusion_section(matrix, classes):
    section = {"heading": "Confusion matrix", "columns": ["true", *classes]}
    if len(classes) <= MAX_CLASSES:
        rows = list(zip(classes, matrix.tolist(), strict=True))
        text = "Images by true (row) and predicted (column) class."
        return section | {"text": text, "rows": rows, "shaded": True}
    off = matrix - np.diag(np.diag(matrix))
    most = np.argsort(-off, axis=None, kind="stable")[:MAX_CLASSES]
    pairs = zip(*np.unravel_index(most, off.shape), strict=True)
    rows = [(classes[i], (classes[j], off[i, j])) for i, j in pairs if off[i, j]]
    text = f"The most frequent confusions of {len(classes)} classes."
    columns = ["true", "predicted", "images"]
    return section | {"text": text, "columns": columns, "rows": rows}


def reliability_bins(confidence, correct):
    """Accuracy of predictions by their probability.

    Parameters
    ----------
    confidence : ndarray of shape (n,)
        Probability of each prediction.
    correct : ndarray of shape (n,), bool

    Returns
    -------
    bins : list of dict
        Those that are not empty: ``n``, the mean ``confidence``, the ``accuracy``, and
        its interval from ``low`` to ``high``.
    """
    places = confidence_bins(confidence, N_BINS)
    bins = []
    for place in np.unique(places):
        inside = correct[places == place]
        mean = float(confidence[places == place].mean())
        low, high = clopper_pearson(int(inside.sum()), len(inside))
        scores = {"accuracy": float(inside.mean()), "low": low, "high": high}
        bins.append({"n": len(inside), "confidence": mean} | scores)
    return bins
