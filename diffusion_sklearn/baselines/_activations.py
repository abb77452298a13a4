"""What a layer of a network computes, caught on its way through the network."""

import threading
from difflib import get_close_matches
from math import isqrt

import torch

PARTS = (
    "down_blocks",
    "mid_block",
    "up_blocks",
    "transformer_blocks",
    "single_transformer_blocks",
)
"""Where U-Nets and transformers of diffusers keep their blocks, in their order."""


def find_layer(network, layer):
    """Name of the module that a `layer` parameter stands for.

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
    listed = f"blocks {', '.join(blocks)}" if blocks else "no blocks of a known name"
    if isinstance(layer, str) and layer != "auto":
        names = [name for name, _ in network.named_modules() if name]
        if layer not in names:
            near = get_close_matches(layer, names, n=1)
            raise ValueError(
                f"layer={layer!r} is no module of {type(network).__name__}"
                + (f" (did you mean {near[0]!r}?)" if near else "")
                + f", which has {listed}; pass the name of a module of "
                "backbone_.network.named_modules()."
            )
        return layer
    # A U-Net has as many blocks on the way down as up: the middle is the mid block.
    index = (len(blocks) - 1) // 2 if layer == "auto" else layer
    if not -len(blocks) <= index < len(blocks):
        raise ValueError(
            f"layer={layer!r}, but {type(network).__name__} has {listed}; pass an "
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
        found = getattr(network, part, None)
        if isinstance(found, torch.nn.ModuleList):
            names += [f"{part}.{index}" for index in range(len(found))]
        elif found is not None:
            names.append(part)
    return names


class _Reached(Exception):
    """The layer has been run; the rest of the network is of no interest."""


def layer_output(module, run):
    """Output of one module, caught while its network runs up to there.

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
    outputs, thread = [], threading.get_ident()

    def catch(module, args, output):
        # Another thread may be using the same network.
        if threading.get_ident() == thread:
            outputs.append(output)
            raise _Reached

    hook = module.register_forward_hook(catch)
    try:
        run()
    except _Reached:
        pass
    finally:
        hook.remove()
    return outputs[0] if outputs else None


def as_maps(output, n_rows, layer):
    """Output of a layer as feature maps.

    Parameters
    ----------
    output : Tensor or tuple
        Maps (b, d, h, w), or tokens (b, n, d) row by row of the image. Of a tuple, the
        last tensor: blocks that see text and image give the image's tokens last, those
        of a U-Net give their output before a tuple of residuals.
    n_rows : int
        b.
    layer : str
        Name of the layer, for the message.

    Returns
    -------
    maps : Tensor of shape (b, d, h, w)
        Tokens that fill no square are (b, d, n, 1).

    Raises
    ------
    ValueError
        If the output is of another kind.
    """
    if isinstance(output, tuple):
        output = [part for part in output if isinstance(part, torch.Tensor)][-1]
    shape = tuple(getattr(output, "shape", ()))
    if len(shape) not in (3, 4) or shape[0] != n_rows:
        found = f"a tensor of shape {shape}" if shape else type(output).__name__
        raise ValueError(
            f"layer={layer!r} gives {found} for {n_rows} image(s); pass a layer that "
            "is run and gives tokens (n, tokens, d) or maps (n, d, height, width)."
        )
    if len(shape) == 4:
        return output
    side = isqrt(shape[1])
    grid = (side, side) if side * side == shape[1] else (shape[1], 1)
    return output.transpose(1, 2).unflatten(2, grid)  # (b, d, h, w)
