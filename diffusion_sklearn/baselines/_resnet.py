"""A small residual network: architecture, training and inference."""

import math

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from diffusion_sklearn.backbones._batches import BatchSize, in_batches

SAMPLES_PER_BATCH = 256  # for inference


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
        Channels and number of the residual blocks.

    Returns
    -------
    network : torch.nn.Module
        Takes (b, channels, height, width), gives (b, n_classes).
    """
    kernel = 1 if feature_shape[1:] == (1, 1) else 3
    return nn.Sequential(
        # Standardizes the features, whatever their scale.
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
    """Choose samples for validation, a near equal fraction of every class.

    Parameters
    ----------
    targets : ndarray of shape (n,), int64
        Class of each sample.
    fraction : float
        Of the samples; at least two are left for training.
    rng : RandomState

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


def train_epoch(network, X, targets, order, batch_size, optimizer):
    """Train on the samples once.

    Parameters
    ----------
    network : torch.nn.Module
        From :func:`make_resnet`; trained in place, on its device.
    X : ndarray of shape (n, channels, height, width)
        Feature maps.
    targets : ndarray of shape (n,), int64
        Their classes.
    order : ndarray of int
        Indices of the samples.
    batch_size : int
        Samples in a step.
    optimizer : torch.optim.Optimizer

    Returns
    -------
    loss : float
        Mean over the samples.
    """
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


def evaluate(network, X, targets):
    """Mean loss and accuracy; NaN without samples.

    Parameters
    ----------
    network, X, targets
        As in :func:`train_epoch`.

    Returns
    -------
    loss, accuracy : float
    """
    if len(X) == 0:
        return math.nan, math.nan
    logits, labels = compute_logits(network, X), torch.from_numpy(targets)
    accuracy = (logits.argmax(dim=1) == labels).double().mean()
    return F.cross_entropy(logits, labels).item(), accuracy.item()


@torch.inference_mode()
def compute_logits(network, X):
    """Logits of feature maps.

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
    batches = in_batches(
        lambda rows: network(_to_tensor(X[rows], network)).cpu().double(),
        len(X),
        BatchSize(SAMPLES_PER_BATCH),
    )
    return torch.cat(list(batches))


def _to_tensor(X, network):
    weight = network[1].weight
    return torch.tensor(X, device=weight.device, dtype=weight.dtype)
