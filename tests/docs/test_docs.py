"""The code of README.md and of the docstrings runs as it stands."""

import doctest
import importlib
import inspect
import pkgutil
import re
from pathlib import Path

import pytest
from PIL import Image

import diffusion_sklearn

README = Path(__file__).parents[2] / "README.md"
API = README.parent / "docs" / "reference" / "api.rst"
PUBLIC = (
    "",
    ".backbones",
    ".baselines",
    ".datasets",
    ".inspection",
    ".metrics",
    ".testing",
)
BLOCK = re.compile(r"(<!-- needs a download -->\n)?```(\w+)\n(.*?)```", re.DOTALL)


MODULES = [
    module.name
    for module in pkgutil.walk_packages(
        diffusion_sklearn.__path__, "diffusion_sklearn."
    )
    if not module.name.endswith("__main__")
]


@pytest.mark.slow
@pytest.mark.parametrize("name", MODULES)
def test_docstrings(name):
    failed, _ = doctest.testmod(importlib.import_module(name))
    assert failed == 0


def public_names():
    for place in PUBLIC:
        module = importlib.import_module(f"diffusion_sklearn{place}")
        for name in module.__all__:
            value = getattr(module, name)
            if not inspect.ismodule(value):
                yield f"{place}.{name}".lstrip("."), value


def public_methods(name, cls):
    """Methods, properties and class methods that the package defines."""
    for method in dir(cls):
        function = getattr(inspect.getattr_static(cls, method), "__func__", None)
        function = function or inspect.getattr_static(cls, method)
        function = getattr(function, "fget", function)
        ours = str(getattr(function, "__module__", "")).startswith("diffusion_sklearn")
        if ours and not method.startswith("_") and inspect.isfunction(function):
            yield f"{name}.{method}", getattr(cls, method)


def examples_that_run(obj):
    text = inspect.cleandoc(obj.__doc__ or "")
    _, _, section = text.partition("Examples\n--------\n")
    examples = doctest.DocTestParser().get_examples(section)
    return [one for one in examples if not one.options.get(doctest.SKIP)]


NAMES = dict(public_names())


@pytest.mark.parametrize("name", NAMES)
def test_public_name_has_an_example_that_runs(name):
    lines = [one.source for one in examples_that_run(NAMES[name])]
    shown = [line for line in lines if not line.startswith(("from ", "import "))]
    used = re.compile(rf"\b{name.split('.')[-1]}\b")
    assert any(used.search(source) for source in shown), (
        f"{name} is in no line of an Examples section that runs"
    )


def test_public_methods_have_docstrings():
    classes = {name: obj for name, obj in NAMES.items() if inspect.isclass(obj)}
    methods = dict(pair for item in classes.items() for pair in public_methods(*item))
    assert "ErrorStore.clear" in methods
    assert [name for name, obj in methods.items() if not obj.__doc__] == []


def test_api_lists_all_public_names():
    listed = re.findall(r"^   ([\w.]+)$", API.read_text("utf-8"), re.MULTILINE)
    # The same object may be reached from the package and from a part of it.
    reached = {id(NAMES[name]) for name in listed}
    assert [name for name, obj in NAMES.items() if id(obj) not in reached] == []


def blocks(language):
    return [m for m in BLOCK.finditer(README.read_text("utf-8")) if m[2] == language]


@pytest.mark.slow
def test_readme_python(capsys):
    here = [block for block in blocks("python") if not block[1]]
    namespace = {}
    for block in here:
        exec(compile(block[3], "README.md", "exec"), namespace)
    printed = " ".join(capsys.readouterr().out.split())
    assert len(here) == 3
    assert "'ankle boot' 'pullover' 'trouser'" in printed
    assert "'n_trials'" in printed
    first, second = namespace["classes"][:2]
    assert f"['{first}' '{second}']" in printed
    diffusion, clip = map(float, printed.split()[-2:])
    assert diffusion > clip


def test_readme_of_the_hub_model(monkeypatch, sd_folder, tmp_path):
    """The same lines, with a tiny model in the place of the one to download."""
    block = next(block[3] for block in blocks("python") if block[1])
    cls = diffusion_sklearn.ZeroShotDiffusionClassifier
    monkeypatch.setitem(cls.__init__.__kwdefaults__, "model", sd_folder)
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    for name in ("1.jpg", "2.png"):
        Image.new("RGB", (40, 30), "red").save(f"photos/{name}")
    namespace = {}
    exec(compile(block, "README.md", "exec"), namespace)
    assert len(namespace["clf"].predict(["photos/1.jpg", "photos/2.png"])) == 2


@pytest.mark.parametrize(
    "needed", ["diffusion-sklearn demo", "diffusion-sklearn app", "pytest"]
)
def test_three_commands(needed):
    commands = [block[3].strip() for block in blocks("bash")]
    assert len(commands) == 3
    assert sum(command.endswith(needed) for command in commands) == 1
    assert all("pip install -c constraints.txt" in command for command in commands)


def test_readme_fits_on_two_screens():
    lines = README.read_text("utf-8").splitlines()
    assert len(lines) <= 110
    citation = [line for line in lines if line.startswith("  ")]
    assert [line for line in lines if len(line) > 100 and line not in citation] == []


def test_readme_links_exist():
    links = re.findall(r"\]\((?!http)([^)]+)\)", README.read_text("utf-8"))
    assert len(links) > 8
    assert [link for link in links if not (README.parent / link).exists()] == []


def test_no_number_is_left_to_be_filled_in():
    root = README.parent
    pages = [*root.glob("docs/**/*.rst"), *root.glob("docs/**/*.jinja")]
    texts = [README, *pages, *root.glob("diffusion_sklearn/**/*.md")]
    assert len(texts) > 5
    assert not [str(path) for path in texts if "@@" in path.read_text("utf-8")]
