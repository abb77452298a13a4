"""The command ``evaluate``: the images of a folder, or a data set of the paper."""

import numpy as np
from sklearn.utils import Bunch

from diffusion_sklearn.cli._classify import make_classifier
from diffusion_sklearn.cli._compare import compare
from diffusion_sklearn.cli._scores import evaluate_images, format_score
from diffusion_sklearn.datasets._load import read_table
from diffusion_sklearn.images._folders import read_class_folders


def run_evaluate(args):
    """Classify labelled images and print the scores.

    Parameters
    ----------
    args : Namespace
        The parsed arguments.

    Returns
    -------
    skipped : dict of str to str
        Error of each file that could not be read, by path.
    n_images : int
        Number of files.
    """
    if args.dataset is not None:
        return compare(args)
    options = ("dataset_folder", "split", "data_home", "max_images", "baseline", "json")
    for name in options:
        if getattr(args, name):
            args.fail(f"--{name.replace('_', '-')} goes with --dataset")
    images, target, classes = read_class_folders(args.folder, exclude=args.output)
    names = [name.replace("_", " ") for name in classes]
    if args.names is not None:
        table = read_table(args.names)
        missing = [name for name in classes if name not in table]
        if missing:
            raise ValueError(
                f"--names={args.names} lacks the folders {', '.join(missing[:5])}; "
                "give each a line: folder, tab, name."
            )
        names = [table[name] for name in classes]
    data = Bunch(
        images=images,
        target=np.array(target),
        classes=np.array(classes),
        class_names=names,
        folder=args.folder,
    )
    report = evaluate_images(make_classifier(args), data, args)
    print(f"{'images':<22} {report['n_images']}")
    for name, score in report["scores"].items():
        print(f"{name:<22} {format_score(score)}")
    cost = report["evaluations"]
    print(
        f"{'evaluations':<22} {cost['mean']:.0f} an image, 95 % below "
        f"{cost['percentile_95']:.0f}"
    )
    print(f"{'seconds':<22} {report['seconds']:.1f}")
    print(f"{'written to':<22} {args.output}")
    return report["skipped"], len(images)
