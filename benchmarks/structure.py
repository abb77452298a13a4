"""Structure of the package: frames, modules at the root, imports, lines of code.

    python -m benchmarks.structure --revision 18ae233

Prints the frames of the package between ``predict`` and the network, the modules at its
root, the verdict of import-linter, and the lines of code of each folder and of each
family's file, without docstrings and blank lines; with ``--revision`` those of an
earlier commit too. Exits with 1 if there are more than 9 frames or 5 modules, or if an
import is not allowed.
"""

import argparse
import ast
import inspect
import io
import shutil
import subprocess
import sys
import tarfile
import tomllib
import traceback
from collections import Counter
from pathlib import Path

from diffusion_sklearn import ConditionalDiffusionClassifier
from diffusion_sklearn.backbones._families import families
from diffusion_sklearn.datasets import load_fashion_photos

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "diffusion_sklearn"
MAX_FRAMES = 9
MAX_ROOT_MODULES = 5


def frames_to_network():
    """Names of the functions from ``predict`` to the family's ``forward``.

    Those of the default classifier on fashion-dit; where forward passes differ, the
    longest list.
    """
    photos = load_fashion_photos()
    clf = ConditionalDiffusionClassifier(model="fashion-dit")
    clf.fit(classes=photos.target_names)
    stacks = []

    def record_stack(network, args):
        frames = [frame for frame, _ in traceback.walk_stack(None)]  # innermost first
        codes = [frame.f_code for frame in reversed(frames)]
        ours = [
            code for code in codes if Path(code.co_filename).is_relative_to(PACKAGE)
        ]
        names = [code.co_name for code in ours]
        stacks.append([_describe(code) for code in ours[names.index("predict") :]])

    hook = clf.backbone_.network.register_forward_pre_hook(record_stack)
    try:
        clf.predict(photos.images[:1])
    finally:
        hook.remove()
    return max(stacks, key=len)


def _describe(code):
    """A function as file:name."""
    file = Path(code.co_filename).relative_to(PACKAGE)
    return f"{file}: {code.co_qualname}"


def root_modules():
    """Names of the modules that lie in no folder of the package."""
    return sorted(path.name for path in PACKAGE.glob("*.py"))


def lint_imports():
    """Whether import-linter finds no broken contract, and what it says.

    True where pyproject.toml has no contract.
    """
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    if "importlinter" not in settings["tool"]:
        return True, "no [tool.importlinter] in pyproject.toml"
    beside = Path(sys.executable).parent / "lint-imports"
    command = str(beside) if beside.exists() else shutil.which("lint-imports")
    if command is None:
        return False, "import-linter is not installed"
    done = subprocess.run(
        [command, "--no-cache", "--no-logo"], cwd=ROOT, capture_output=True, text=True
    )
    return done.returncode == 0, done.stdout + done.stderr


def count_lines(source):
    """Number of lines that are neither blank nor part of a docstring."""
    lines = {n for n, line in enumerate(source.splitlines(), 1) if line.strip()}
    for node in ast.walk(ast.parse(source)):
        is_text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if is_text and isinstance(node.value.value, str):
            lines -= set(range(node.lineno, node.end_lineno + 1))
    return len(lines)


def lines_by_folder(sources):
    """Lines of code of each folder of the package; its root is ``.``.

    Parameters
    ----------
    sources : dict of str to str
        Path in the repository, and source.

    Returns
    -------
    counts : Counter
    """
    counts = Counter()
    for path, source in sources.items():
        folders = Path(path).parts[1:-1]
        counts[folders[0] if folders else "."] += count_lines(source)
    return counts


def sources_here():
    """Path and source of each module of this checkout."""
    paths = PACKAGE.rglob("*.py")
    return {str(path.relative_to(ROOT)): path.read_text("utf-8") for path in paths}


def sources_at(revision):
    """Path and source of each module of a commit."""
    modules = f":(glob){PACKAGE.name}/**/*.py"
    archive = subprocess.run(
        ["git", "-C", str(ROOT), "archive", revision, modules],
        check=True,
        stdout=subprocess.PIPE,
    ).stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as files:
        return {
            member.name: files.extractfile(member).read().decode("utf-8")
            for member in files
            if member.isfile()
        }


def lines_by_family():
    """Lines of code of each file with a family, by its name."""
    files = {Path(inspect.getfile(cls)) for cls in families().values()}
    return {path.name: count_lines(path.read_text("utf-8")) for path in files}


def print_lines(revision):
    here = lines_by_folder(sources_here())
    print("\nlines of code, without docstrings and blank lines")
    if revision is None:
        for folder, n in sorted(here.items()):
            print(f"{folder:<14}{n:>8,}")
        print(f"{'total':<14}{here.total():>8,}")
        return
    before = lines_by_folder(sources_at(revision))
    print(f"{'':<14}{'here':>8}{revision[:12]:>14}")
    for folder in sorted({*here, *before}):
        print(f"{folder:<14}{here[folder]:>8,}{before[folder]:>14,}")
    print(
        f"{'total':<14}{here.total():>8,}{before.total():>14,}"
        f"   ratio {here.total() / before.total():.3f}"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--revision", default=None, help="an earlier commit")
    args = parser.parse_args()
    frames, modules = frames_to_network(), root_modules()
    contracts_kept, verdict = lint_imports()
    print(f"{len(frames)} frames from predict to the network, at most {MAX_FRAMES}")
    for name in frames:
        print(f"  {name}")
    print(f"\n{len(modules)} modules at the root, at most {MAX_ROOT_MODULES}")
    print(f"  {', '.join(modules)}")
    print(f"\nimport-linter: {verdict.strip()}")
    print_lines(args.revision)
    print("\nlines of code of each family")
    for name, n in sorted(lines_by_family().items(), key=lambda item: item[1]):
        print(f"{name:<28}{n:>4}")
    within = len(frames) <= MAX_FRAMES and len(modules) <= MAX_ROOT_MODULES
    sys.exit(0 if within and contracts_kept else 1)


if __name__ == "__main__":
    main()
