"""The output of one layer of a network, as feature maps."""

import threading
from difflib import get_close_matches
from math import isqrt

import torch

PARTS = (
    "down_blocks",
    "mid_block",
    "up_blocks",
    "transformer_blocks",
    "joint_transformer_blocks",
    "single_transformer_blocks",
    "blocks",
)
"""Attributes of U-Nets and transformers in diffusers that hold blocks, in order."""


def find_layer(network, layer):
    """Resolve a `layer` parameter to the name of a module.

    Parameters
    ----------
    network : torch.nn.Module
        U-Net or transformer.
    layer : str or int
        "auto": the middle one of the blocks. An int: index of a block. Otherwise the
        name of a module.

    Returns
    -------
    name : str

    Raises
    ------
    ValueError
        If there is no such layer.
    """
    blocks = block_names(network)
    available = f"blocks {', '.join(blocks)}" if blocks else "no blocks of a known name"
    if isinstance(layer, str) and layer != "auto":
        names = [name for name, _ in network.named_modules() if name]
        if layer not in names:
            similar = get_close_matches(layer, names, n=1)
            raise ValueError(
                f"layer={layer!r} is no module of {type(network).__name__}"
                + (f" (did you mean {similar[0]!r}?)" if similar else "")
                + f", which has {available}; pass the name of a module of "
                "backbone_.network.named_modules()."
            )
        return layer
    # A U-Net has as many down blocks as up blocks: the middle is the mid block.
    index = (len(blocks) - 1) // 2 if layer == "auto" else layer
    if not -len(blocks) <= index < len(blocks):
        raise ValueError(
            f"layer={layer!r}, but {type(network).__name__} has {available}; pass an "
            "index of these, or the name of a module."
        )
    return blocks[index]


def block_names(network):
    """Names of a network's blocks, in the order in which it runs them.

    Parameters
    ----------
    network : torch.nn.Module
        U-Net or transformer of diffusers.

    Returns
    -------
    names : list of str
    """
    names = []
    for part in PARTS:
        blocks = getattr(network, part, None)
        if isinstance(blocks, torch.nn.ModuleList):
            names += [f"{part}.{index}" for index in range(len(blocks))]
        elif blocks is not None:
            names.append(part)
    return names


class _Reached(Exception):
    """Stops the forward pass after the layer."""


def layer_output(module, run):
    """Output of one module; the forward pass of its network stops there.

    Parameters
    ----------
    module : torch.nn.Module
        Part of the network.
    run : callable
        Without arguments; runs the network.

    Returns
    -------
    output : object
        Of the module; None if it was not run.
    """
    thread = threading.get_ident()

    def stop(module, args, output):
        # Another thread may be using the same network.
        if threading.get_ident() == thread:
            raise _Reached(output)

    with module.register_forward_hook(stop):
        try:
            run()
        except _Reached as reached:
            return reached.args[0]


def as_maps(output, n_rows, layer):
    """Convert the output of a layer to feature maps.

    Parameters
    ----------
    output : Tensor or tuple
        Maps (b, d, h, w), or tokens (b, n, d) row by row of the image. Of a tuple, the
        last tensor is used: blocks with text and image tokens return the image tokens
        last, those of a U-Net their output before a tuple of residuals.
    n_rows : int
        b.
    layer : str
        Name of the layer, for the message.

    Returns
    -------
    maps : Tensor of shape (b, d, h, w)
        (b, d, n, 1) for tokens that do not form a square.

    Raises
    ------
    ValueError
        If the output has another shape or type.
    """
    if isinstance(output, tuple):
        output = [part for part in output if isinstance(part, torch.Tensor)][-1]
    shape = tuple(getattr(output, "shape", ()))
    if len(shape) not in (3, 4) or shape[0] != n_rows:
        kind = f"a tensor of shape {shape}" if shape else type(output).__name__
        raise ValueError(
            f"layer={layer!r} gives {kind} for {n_rows} image(s); pass a layer that "
            "is run and gives tokens (n, tokens, d) or maps (n, d, height, width)."
        )
    if len(shape) == 4:
        return output
    side = isqrt(shape[1])
    grid = (side, side) if side * side == shape[1] else (shape[1], 1)
    return output.transpose(1, 2).unflatten(2, grid)  # (b, d, h, w)
