"""A small residual network: how it is made, trained and run."""

import copy
import math

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from tqdm.auto import tqdm

SAMPLES_AT_ONCE = 256  # where nothing is trained


class ResidualBlock(nn.Module):
    """x + two convolutions, each after batch normalization and a ReLU.

    Parameters
    ----------
    width : int
        Channels.
    kernel : int
        Side of the convolutions.
    """

    def __init__(self, width, kernel):
        super().__init__()
        layers = []
        for _ in range(2):
            conv = nn.Conv2d(width, width, kernel, padding="same", bias=False)
            layers += [nn.BatchNorm2d(width), nn.ReLU(), conv]
        self.layers = nn.Sequential(*layers)

    def forward(self, x):
        """The sum, of the shape of x, (b, width, h, w)."""
        return x + self.layers(x)


def make_resnet(feature_shape, n_classes, width, n_blocks):
    """A residual network from feature maps to logits.

    Parameters
    ----------
    feature_shape : tuple of int
        (channels, height, width) of a feature map.
    n_classes : int
        Length of the output.
    width, n_blocks : int
        Channels of the residual blocks, and how many there are.

    Returns
    -------
    network : torch.nn.Module
        Takes (b, channels, height, width), gives (b, n_classes).
    """
    kernel = 1 if feature_shape[1:] == (1, 1) else 3
    return nn.Sequential(
        # Whatever the scale of the features: their mean and spread over all batches.
        nn.BatchNorm2d(feature_shape[0], affine=False, momentum=None),
        nn.Conv2d(feature_shape[0], width, kernel, padding="same", bias=False),
        *(ResidualBlock(width, kernel) for _ in range(n_blocks)),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(width, n_classes),
    )


def hold_out(targets, fraction, rng):
    """Choose samples for validation, evenly spread over the classes.

    Parameters
    ----------
    targets : ndarray of shape (n,), int64
        Class of each sample.
    fraction : float
        How many of them; two at least are left.
    rng : RandomState
        Chooses.

    Returns
    -------
    mask : ndarray of shape (n,), bool
    """
    n = len(targets)
    n_held_out = min(int(fraction * n), n - 2)
    order = rng.permutation(n)
    order = order[np.argsort(targets[order], kind="stable")]
    mask = np.zeros(n, bool)
    places = (2 * np.arange(n_held_out) + 1) * n // (2 * max(n_held_out, 1))
    mask[order[places]] = True
    return mask


def train(
    network,
    X,
    targets,
    held_out,
    rng,
    *,
    learning_rate,
    batch_size,
    max_epochs,
    patience,
    verbose,
):
    """Train until the loss no longer falls, and leave the best weights.

    Parameters
    ----------
    network : torch.nn.Module
        From :func:`make_resnet`; trained in place, on its device.
    X : ndarray of shape (n, channels, height, width)
        Feature maps.
    targets : ndarray of shape (n,), int64
        Their classes.
    held_out : ndarray of shape (n,), bool
        Those whose loss tells when to stop; if none, that of training does.
    rng : RandomState
        Shuffles.
    learning_rate, batch_size, max_epochs, patience, verbose : object
        As in the estimator.

    Returns
    -------
    history : dict of str to list of float
        "loss", "validation_loss" and "validation_accuracy" of each epoch.
    best_epoch : int
        Of the lowest loss.

    Raises
    ------
    FloatingPointError
        If training diverged.
    """
    optimizer = torch.optim.AdamW(network.parameters(), lr=learning_rate)
    history = {"loss": [], "validation_loss": [], "validation_accuracy": []}
    watched = history["validation_loss" if held_out.any() else "loss"]
    best, best_epoch = None, 0
    trained = np.flatnonzero(~held_out)
    bar = tqdm(total=max_epochs, unit="epoch", disable=not verbose)
    with bar:
        for epoch in range(max_epochs):
            order = rng.permutation(trained)
            history["loss"].append(
                _train_epoch(network, X, targets, order, batch_size, optimizer)
            )
            loss, accuracy = _evaluate(network, X[held_out], targets[held_out])
            history["validation_loss"].append(loss)
            history["validation_accuracy"].append(accuracy)
            bar.set_postfix({k: v[-1] for k, v in history.items()}, refresh=False)
            bar.update()
            if not math.isfinite(watched[-1]):
                raise FloatingPointError(
                    f"The loss is {watched[-1]} after {epoch + 1} epoch(s) with "
                    f"learning_rate={learning_rate}; pass a lower one."
                )
            if best is None or watched[epoch] < watched[best_epoch]:
                best, best_epoch = copy.deepcopy(network.state_dict()), epoch
            elif patience is not None and epoch - best_epoch >= patience:
                break
    network.load_state_dict(best)
    network.eval().requires_grad_(False)
    return history, best_epoch


def _train_epoch(network, X, targets, order, batch_size, optimizer):
    """One pass over the samples in an order; mean loss."""
    network.train()
    # Batch normalization needs two samples in every batch.
    n_steps = max(1, min(math.ceil(len(order) / batch_size), len(order) // 2))
    total = 0.0
    for rows in np.array_split(order, n_steps):
        logits = network(_to_tensor(X[rows], network))  # (b, n_classes)
        labels = torch.from_numpy(targets[rows]).to(logits.device)
        loss = F.cross_entropy(logits, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += len(rows) * loss.item()
    return total / len(order)


def _evaluate(network, X, targets):
    """Mean loss and accuracy; NaN where there are no samples."""
    if len(X) == 0:
        return math.nan, math.nan
    logits, labels = compute_logits(network, X), torch.from_numpy(targets)
    accuracy = float((logits.argmax(dim=1) == labels).double().mean())
    return F.cross_entropy(logits, labels).item(), accuracy


@torch.inference_mode()
def compute_logits(network, X):
    """Logits of feature maps, with nothing trained.

    Parameters
    ----------
    network : torch.nn.Module
        From :func:`make_resnet`.
    X : ndarray of shape (n, channels, height, width)
        Feature maps.

    Returns
    -------
    logits : Tensor of shape (n, n_classes), float64
        On the CPU.
    """
    network.eval()
    parts = []
    for start in range(0, len(X), SAMPLES_AT_ONCE):
        rows = np.arange(start, min(start + SAMPLES_AT_ONCE, len(X)))
        parts.append(network(_to_tensor(X[rows], network)).cpu().double())
    return torch.cat(parts)


def _to_tensor(X, network):
    """Rows of features, which must be writable, where the network is."""
    weight = network[1].weight
    return torch.from_numpy(X).to(weight.device, weight.dtype)
