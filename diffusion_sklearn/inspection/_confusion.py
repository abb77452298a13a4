"""The figure of a confusion matrix."""

from sklearn.metrics import ConfusionMatrixDisplay

from diffusion_sklearn._versions import import_optional
from diffusion_sklearn.inspection._common import plain

MAX_CLASSES = 30  # with numbers in the cells


def confusion_figure(matrix, classes):
    """Draw a confusion matrix, with numbers if they can be read.

    Parameters
    ----------
    matrix : ndarray of shape (n_classes, n_classes)
        Images by true (row) and predicted (column) class.
    classes : ndarray of shape (n_classes,)

    Returns
    -------
    figure : matplotlib Figure

    Raises
    ------
    ImportError
        Without matplotlib.
    """
    side = min(4 + 0.35 * len(classes), 30)
    Figure = import_optional("matplotlib.figure", "plot").Figure
    figure = Figure(figsize=(side, side), layout="constrained")
    labels = list(map(plain, classes))
    ConfusionMatrixDisplay(matrix, display_labels=labels).plot(
        ax=figure.subplots(),
        include_values=len(classes) <= MAX_CLASSES,
        xticks_rotation="vertical",
        cmap="Blues",
        colorbar=len(classes) > MAX_CLASSES,
    )
    return figure
