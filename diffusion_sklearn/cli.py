"""Command line: ``diffusion-sklearn`` or ``python -m diffusion_sklearn``."""

import argparse
from pathlib import Path

from PIL import Image

from diffusion_sklearn import __version__
from diffusion_sklearn._demo import DEMOS


def main(argv=None):
    """Run the command line.

    Parameters
    ----------
    argv : list of str, default=None
        Arguments; None: those of the process.

    Returns
    -------
    status : int
        Exit status, 0 when all went well.
    """
    parser = argparse.ArgumentParser(
        prog="diffusion-sklearn",
        description="Conditional diffusion models as scikit-learn classifiers.",
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True)
    demo = commands.add_parser(
        "demo", help="classify 100 images that ship, with a model that ships"
    )
    demo.add_argument(
        "--model",
        choices=list(DEMOS),
        default="fashion-dit",
        help="fashion-dit classifies photos, fashion-scenes matches captions",
    )
    demo.add_argument(
        "--n-images", type=int, default=100, help="at most 1,000 photos or 800 scenes"
    )
    demo.add_argument(
        "--n-trials", type=int, default=None, help="trials for a class or caption"
    )
    demo.add_argument(
        "--output",
        type=Path,
        default=Path("diffusion-sklearn-demo.png"),
        help="where the picture goes",
    )
    args = parser.parse_args(argv)
    run, n_trials, most = DEMOS[args.model]
    n_trials = n_trials if args.n_trials is None else args.n_trials
    if not 1 <= args.n_images <= most:
        demo.error(f"--n-images={args.n_images} must lie between 1 and {most}")
    if n_trials < 1:
        demo.error(f"--n-trials={n_trials} must be 1 or more")
    if args.output.suffix not in Image.registered_extensions():
        demo.error(f"--output={args.output} must end in .png or another image suffix")
    if not args.output.absolute().parent.is_dir():
        demo.error(f"--output={args.output}: there is no such folder")
    run(args.n_images, n_trials, args.output)
    return 0
