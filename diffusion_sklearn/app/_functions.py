"""What the page does: uploads and settings in, HTML out. Knows no Gradio."""

import base64
import csv
import io
import shlex
import time
import zipfile
from dataclasses import dataclass
from html import escape
from pathlib import Path, PurePosixPath

import numpy as np
from matplotlib.figure import Figure
from PIL import Image
from scipy.special import softmax
from sklearn.metrics import ConfusionMatrixDisplay

from diffusion_sklearn.backbones._loading import load_backbone
from diffusion_sklearn.baselines import CLIPZeroShotClassifier
from diffusion_sklearn.classifiers import (
    ConditionalDiffusionClassifier,
    ZeroShotDiffusionClassifier,
)
from diffusion_sklearn.classifiers._prompts import read_prompts as read_prompts_file
from diffusion_sklearn.datasets import (
    Scene,
    load_fashion_photos,
    load_fashion_winoground,
    make_fashion_scenes,
)
from diffusion_sklearn.images._pixels import read_square
from diffusion_sklearn.images._read import HINTS, ImageError
from diffusion_sklearn.inspection import DenoisingErrorDisplay, EvidenceDisplay

MAX_PHOTOS, MAX_CLASSES, MAX_TRIALS, MAX_FILES = 8, 50, 250, 200
MAX_BYTES, MAX_UNPACKED = 20 * 2**20, 100 * 2**20  # of a file, of a zip's content
N_BARS = 12  # classes shown of a photo
GROUP_SIZE = 8  # images between two updates of the table
SEPARATOR = ",,"  # of folders, in names that the browser sends
COLUMNS = ("path", "folder", "label", "probability", "evaluations", "error")

_SCENES = (
    (Scene(("bag",), ("red",)), "blue bag, green bag, red bag, red sandal, red shirt"),
    (
        Scene(("dress",), ("yellow",)),
        "white dress, yellow coat, yellow dress, yellow shirt, yellow trouser",
    ),
    (
        Scene(("pullover", "bag"), ("yellow", "green"), "right of"),
        "green bag right of a yellow pullover, green pullover right of a yellow bag, "
        "yellow bag right of a green pullover, yellow pullover right of a green bag",
    ),
    (
        Scene(("sneaker", "coat"), ("blue", "white"), "below"),
        "blue coat below a white sneaker, blue sneaker below a white coat, "
        "white coat below a blue sneaker, white sneaker below a blue coat",
    ),
)
_PAIRS = (9, 14, 15)  # of load_fashion_winoground: attribute, relation, both swapped


@dataclass(frozen=True)
class Photo:
    """An image at the model's size, and where it came from.

    Parameters
    ----------
    name : str
        Its file, with the folders.
    square : ndarray of shape (size, size[, 3]) or None
        None if it can't be read.
    folder : str, default=""
        The folder that it is in.
    error : str, default=""
        Why it can't be read.
    caption : str, default=""
        Of an example.
    """

    name: str
    square: object
    folder: str = ""
    error: str = ""
    caption: str = ""

    @property
    def file(self):
        """Name of a file with the pixels."""
        return f"{PurePosixPath(self.name).stem}.png"

    @property
    def source(self):
        """The pixels as an address, for HTML."""
        buffer = io.BytesIO()
        pixels = self.square
        if pixels.dtype != np.uint8:  # floats in [0, 1]
            pixels = np.rint(pixels * 255).astype(np.uint8)
        Image.fromarray(pixels).save(buffer, "png")
        return _data_uri(buffer.getvalue())

    @property
    def html(self):
        """The image, with its name as a link that saves what the model sees."""
        source, name = self.source, escape(self.name)
        return (
            f'<figure><img class="photo" alt="{name}" src="{source}"><figcaption>'
            f'<a download="{escape(self.file)}" href="{source}">{name}</a>'
            "</figcaption></figure>"
        )


@dataclass(frozen=True)
class Settings:
    """What the page is set to.

    Parameters
    ----------
    model : str
        Hub id, folder or bundled name.
    clip : str or None
        Model of the CLIP beside it.
    classes : str, default=""
        One a line.
    template : str, default=""
        Prompt template; empty: the model's own.
    prompts : dict, default=None
        Prompts by label, before the template.
    n_trials : int, default=100
        For each class.
    """

    model: str
    clip: str | None
    classes: str = ""
    template: str = ""
    prompts: dict | None = None
    n_trials: int = 100

    @property
    def names(self):
        """The classes as a list."""
        lines = [line.strip() for line in self.classes.splitlines()]
        return [line for line in lines if line] or list(self.prompts or ())

    @property
    def params(self):
        """Parameters of the estimator; the prompts as a file."""
        params = {"model": self.model, "n_trials": int(self.n_trials)}
        if self.prompts:
            params["prompts"] = "prompts.csv"
        elif self.template.strip():
            params["prompt_template"] = self.template.strip()
        return params

    def make(self):
        """The estimator with these settings, not fitted.

        Returns
        -------
        clf : estimator

        Raises
        ------
        ValueError
            If there are too many trials.
        """
        if not 1 <= self.n_trials <= MAX_TRIALS:
            raise ValueError(f"{self.n_trials} trials: set 1 to {MAX_TRIALS}.")
        if load_backbone(self.model).kind == "class":
            return ConditionalDiffusionClassifier(**self.params)
        clf = ZeroShotDiffusionClassifier(**self.params)
        return clf.set_params(prompts=self.prompts)

    def fit(self, names=None):
        """The fitted estimator.

        Parameters
        ----------
        names : list of str, default=None
            The classes; None: those of the settings.

        Returns
        -------
        clf : estimator

        Raises
        ------
        ValueError
            If there are too few or too many classes, or the model lacks one.
        """
        names = self.names if names is None else names
        if not 2 <= len(names) <= MAX_CLASSES:
            raise ValueError(
                f"{len(names)} classes: type 2 to {MAX_CLASSES}, one a line."
            )
        return self.make().fit(classes=names)

    def command(self, files, classes, **options):
        """The command line that gives the same result.

        Parameters
        ----------
        files : list of str
        classes : list of str
        **options
            Further options.

        Returns
        -------
        command : str
        """
        if any("," in name for name in classes):
            options["classes_file"] = "classes.txt"
        else:
            options["classes"] = ",".join(classes)
        words = ["diffusion-sklearn", "classify", *files]
        for name, value in (self.params | options).items():
            words += [f"--{name.replace('_', '-')}", str(value)]
        return shlex.join(words)

    def code(self, call, **values):
        """The Python lines that give the same result.

        Parameters
        ----------
        call : str
            What is called of `clf`, and of `clip` if there is one.
        **values
            Named in lines of their own; with `classes` the estimators are fitted.

        Returns
        -------
        code : str
        """
        fit = ".fit(classes=classes)" if "classes" in values else ""
        estimators = {"clf": (type(self.make()).__name__, self.params)}
        if self.clip:
            params = {"model": self.clip}
            if "prompt_template" in self.params:
                params["prompt_template"] = self.params["prompt_template"]
            estimators["clip"] = "CLIPZeroShotClassifier", params
        names = ", ".join(sorted(name for name, _ in estimators.values()))
        lines = [f"from diffusion_sklearn import {names}", ""]
        lines += [f"{name} = {value!r}" for name, value in values.items()]
        for variable, (name, params) in estimators.items():
            arguments = ", ".join(f"{key}={value!r}" for key, value in params.items())
            lines.append(f"{variable} = {name}({arguments}){fit}")
            lines.append(f"print({variable}.{call})")
        return "\n".join(lines)


def copy_boxes(command, code):
    """HTML of a command and of Python lines, each with a button that copies it.

    Parameters
    ----------
    command, code : str

    Returns
    -------
    html : str
    """
    copy = "navigator.clipboard.writeText(this.parentNode.nextSibling.innerText)"
    return "".join(
        f'<p>{name} <button class="copy" onclick="{copy}" aria-label="Copy {name}">'
        f'copy</button></p><pre tabindex="0" aria-label="{name}">{escape(text)}</pre>'
        for name, text in (("Command", command), ("Python", code))
    )


def example_photos(model):
    """Photos that ship, with classes to choose from.

    Parameters
    ----------
    model : str
        The page's model.

    Returns
    -------
    examples : list of (Photo, str)
        With the classes, one a line.
    """
    if model == "fashion-scenes":
        scenes, classes = zip(*_SCENES, strict=True)
        images = make_fashion_scenes(
            len(scenes), split="test", scenes=scenes, random_state=2
        ).images
        names = [scene.caption for scene in scenes]
        classes = [text.replace(", ", "\n") for text in classes]
    else:
        photos = load_fashion_photos()
        images, names = photos.images[:4], photos.names[:4]
        classes = ["\n".join(photos.target_names)] * 4
    photos = [_example(i, n) for i, n in zip(images, names, strict=True)]
    return list(zip(photos, classes, strict=True))


def example_pairs():
    """Pairs of scenes that ship, each with two captions of the same words.

    Returns
    -------
    examples : list of (list of 2 Photo, list of 2 str)
    """
    data = load_fashion_winoground()
    return [
        (
            [
                _example(image, f"scene {k}")
                for k, image in enumerate(data.images[i], 1)
            ],
            data.captions[i].tolist(),
        )
        for i in _PAIRS
    ]


def example_folder(model):
    """Labelled photos that ship, as of a folder with a sub-folder for each class.

    Parameters
    ----------
    model : str
        The page's model.

    Returns
    -------
    photos : list of Photo
    """
    if model == "fashion-scenes":
        data = make_fashion_scenes(24, split="test", n_items=1)
        images, labels = data.images, [scene.items[0] for scene in data.scenes]
    else:
        data = load_fashion_photos()
        images, labels = data.images[:24], data.names[:24]
    return [
        Photo(f"{label}/{k}.png", image, str(label))
        for k, (image, label) in enumerate(zip(images, labels, strict=True))
    ]


def _example(image, name):
    return Photo(f"{name.replace(' ', '-')}.png", image, caption=str(name))


def read_photos(paths, model):
    """Read uploaded files, each an image.

    Parameters
    ----------
    paths : list of str
    model : str
        The page's model, whose size the images are brought to.

    Returns
    -------
    photos : list of Photo

    Raises
    ------
    ValueError
        If there are too many, or one can't be read.
    """
    if len(paths) > MAX_PHOTOS:
        raise ValueError(
            f"{len(paths)} photos: drop up to {MAX_PHOTOS}; the tab Folder takes more."
        )
    size = load_backbone(model).image_size
    photos = [_read(Path(path).name, _content(path), size) for path in paths]
    for photo in photos:
        if photo.error:
            raise ValueError(photo.error)
    return photos


def read_folder(paths, model):
    """Read a folder's files, whose names hold their folders, or a zip.

    Nothing of a zip is written to the disk.

    Parameters
    ----------
    paths : list of str
        The files, or one zip.
    model : str
        The page's model.

    Returns
    -------
    photos : list of Photo
        Those that can't be read hold an error.

    Raises
    ------
    ValueError
        If there are no images, too many, or too much data; or the zip is broken,
        encrypted or has names that lead out of it.
    """
    size = load_backbone(model).image_size
    if len(paths) == 1 and Path(paths[0]).suffix.lower() == ".zip":
        contents = _unzip(paths[0])
    else:
        contents = (
            (Path(p).name.replace(SEPARATOR, "/"), _content(p)) for p in _few(paths)
        )
    suffixes = Image.registered_extensions()
    photos = [
        _read(name, content, size)
        for name, content in contents
        if Path(name).suffix.lower() in suffixes
    ]
    if not photos:
        raise ValueError("No images: their names end in .png, .jpg, .webp ...")
    return sorted(photos, key=lambda photo: photo.name)


def read_prompts(path):
    """Read the prompts of the classes by name.

    Parameters
    ----------
    path : str
        A CSV with the columns prompt, classname and classidx.

    Returns
    -------
    prompts : dict of str to list of str

    Raises
    ------
    ValueError
        If it is no such file.
    """
    prompts = read_prompts_file(path)
    return {name: texts for name, texts in prompts.items() if isinstance(name, str)}


def _few(files):
    if len(files) > MAX_FILES:
        raise ValueError(
            f"{len(files)} files: the page takes {MAX_FILES}; use "
            "diffusion-sklearn classify FOLDER for more."
        )
    return files


def _content(path):
    data = Path(path).read_bytes()
    if len(data) > MAX_BYTES:
        raise ValueError(f"{Path(path).name} has more than {MAX_BYTES // 2**20} MB.")
    return data


def _unzip(path):
    """Yield names and contents of the files in a zip, within the limits."""
    try:
        with zipfile.ZipFile(path) as archive:
            files = _few([item for item in archive.infolist() if not item.is_dir()])
            total = 0
            for item in files:
                parts = PurePosixPath(item.filename.replace("\\", "/"))
                if parts.is_absolute() or ".." in parts.parts or ":" in item.filename:
                    raise ValueError(
                        f"The zip has a file {item.filename!r}, outside of its folder."
                    )
                if any(part[0] in "._" for part in parts.parts):
                    continue
                with archive.open(item) as file:  # its stated size may be false
                    data = file.read(MAX_BYTES + 1)
                total += len(data)
                if len(data) > MAX_BYTES or total > MAX_UNPACKED:
                    raise ValueError(
                        f"The zip unpacks to too much: {MAX_BYTES // 2**20} MB a file, "
                        f"{MAX_UNPACKED // 2**20} MB in all."
                    )
                yield str(parts), data
    except (zipfile.BadZipFile, RuntimeError, NotImplementedError, EOFError) as error:
        raise ValueError(f"The zip can't be read; pack it anew. ({error})") from error


def _read(name, content, size):
    folder = PurePosixPath(name).parent.name
    try:
        square = read_square({"bytes": content, "path": name}, size, 0)
    except ImageError as error:
        hint = next(h for kind, h in HINTS if isinstance(error.__cause__, kind))
        return Photo(name, None, folder, f"{name} {hint}.")
    return Photo(name, square, folder)


def classify(settings, photos):
    """Classify photos, look by look.

    Parameters
    ----------
    settings : Settings
    photos : list of Photo

    Yields
    ------
    html : str
        The photos with the posterior so far, and CLIP's answer.
    ranking : list of list of str
        Classes of each photo, the likeliest first.

    Raises
    ------
    ValueError
        If there are no photos, or a setting is not possible.
    """
    if not photos:
        raise ValueError("Drop a photo, or pick an example.")
    clf = settings.fit()
    images = [photo.square for photo in photos]
    full = len(clf.trials_) * int(clf._n_prompts.sum())
    clip = _clip_answers(settings, clf, images)
    start = time.perf_counter()
    for look in clf._iter_looks(images):
        n_done = (~np.isnan(look.errors)).sum(axis=2)  # (n, k)
        yield _cards(photos, look, n_done, full, clip), None
    seconds = time.perf_counter() - start
    order = (-look.log_proba).argsort(axis=1, kind="stable")
    ranking = [clf.classes_[row].tolist() for row in order]
    yield _cards(photos, look, n_done, full, clip, seconds / len(photos)), ranking


def _clip_answers(settings, clf, images):
    """Posterior of CLIP for the same classes, or why there is none."""
    if settings.clip is None:
        return "No CLIP: start the page with --clip MODEL."
    template = settings.template.strip() or "auto"
    clip = CLIPZeroShotClassifier(model=settings.clip, prompt_template=template)
    try:
        return clip.fit(classes=clf.classes_).predict_proba(images)
    except (ValueError, OSError, ImportError) as error:
        return str(error)


def _cards(photos, look, n_done, full, clip, seconds=None):
    """Photos, posteriors and costs after a look; with `seconds`, the last."""
    proba, cards = np.exp(look.log_proba), []
    for k, photo in enumerate(photos):
        done, cost = n_done[k], look.n_evaluations[k]
        best, second = proba[k].argsort(kind="stable")[::-1][:2]
        active = done == done.max()
        cost_text = f"{cost:,} of {full:,} evaluations ({cost / full:.0%})"
        if seconds is None:
            text = f"{active.sum()} of {len(active)} classes left, {cost_text}."
        else:
            if done.max() < look.errors.shape[2]:  # the last look has decided
                active = np.arange(len(done)) == best
            text = (
                f"<strong>{escape(str(look.classes[best]))}</strong> wins with "
                f"{proba[k, best]:.1%}, ahead of {escape(str(look.classes[second]))} "
                f"with {proba[k, second]:.1%}. Cost: {cost_text}, {seconds:.1f} s."
            )
        ours = _bars("Diffusion model", look.classes, proba[k], done, active)
        theirs = f"<p>{escape(clip)}</p>" if isinstance(clip, str) else None
        theirs = theirs or _bars("CLIP", look.classes, clip[k])
        cards.append(
            f'<article class="card">{photo.html}<div><p>{text}</p>'
            f'<div class="pair">{ours}{theirs}</div></div></article>'
        )
    return "".join(cards)


def _bars(title, classes, proba, n_done=None, active=None):
    """A table of classes with a bar for each probability."""
    shown = np.sort(proba.argsort(kind="stable")[::-1][:N_BARS])
    rows = []
    for k in shown:
        kinds = ["" if active is None or active[k] else "dropped"]
        kinds += ["best"] if k == proba.argmax() else []
        trials = "" if n_done is None else f"<td>{n_done[k]}</td>"
        rows.append(
            f'<tr class="{" ".join(kinds)}"><th scope="row">{escape(str(classes[k]))}'
            f'<div class="bar" style="width:{100 * proba[k]:.1f}%"></div></th>'
            f"<td>{proba[k]:.1%}</td>{trials}</tr>"
        )
    more = len(classes) - len(shown)
    more = f"<p>and {more} classes of less probability</p>" if more else ""
    trials = "" if n_done is None else '<th scope="col">trials</th>'
    return (
        f'<div><table class="bars"><caption>{title}</caption><thead><tr>'
        '<th scope="col">class</th><th scope="col">probability</th>'
        f"{trials}</tr></thead><tbody>{''.join(rows)}</tbody></table>{more}</div>"
    )


def compare(settings, photo, a, b):
    """Why class `a` fits a photo better than class `b`, or worse.

    Parameters
    ----------
    settings : Settings
    photo : Photo
    a, b : str
        Two classes.

    Returns
    -------
    html : str
        Evidence over the photo, and the error of both over the timesteps.

    Raises
    ------
    ValueError
        If both are the same.
    """
    if a == b:
        raise ValueError(f"Both classes are {a!r}: choose two.")
    clf = settings.fit([a, b])
    left, right = Figure(figsize=(4.6, 3.6)), Figure(figsize=(5, 3.6))
    ax = left.subplots()
    display = EvidenceDisplay.from_estimator(clf, photo.square, a, b, ax=ax)
    display.colorbar_.set_label("error with B minus error with A")
    red = f"{(np.asarray(display.evidence) > 0).mean():.0%} of the photo"
    DenoisingErrorDisplay.from_estimator(
        clf, photo.square, n_noises=4, timesteps=25, ax=right.subplots()
    )
    a, b = escape(a), escape(b)
    return (
        f'<div class="pair">{_figure(left, f"Evidence for {a} or {b} over the photo")}'
        f"{_figure(right, f'Denoising error of {a} and {b} at each timestep')}</div>"
        f"<p>Red: with {a} the noise is predicted better ({red}). Blue: with {b}. "
        "The curves: the lower line is the class that fits better. At a small timestep "
        "the photo has little noise, at a large one hardly anything is left of it.</p>"
    )


def match_captions(settings, photos, captions):
    """Score two captions on two images, with both models.

    Parameters
    ----------
    settings : Settings
    photos : list of 2 Photo
    captions : list of 2 str
        That of the first image, and that of the second.

    Returns
    -------
    html : str

    Raises
    ------
    ValueError
        If an image or a caption is missing.
    """
    captions = [caption.strip() for caption in captions]
    if not all(captions) or any(photo is None for photo in photos):
        raise ValueError("Give two images and the caption of each.")
    images = [photo.square for photo in photos]
    models = {"Diffusion model": settings.make()}
    if settings.clip:
        models["CLIP"] = CLIPZeroShotClassifier(model=settings.clip)
    tables = []
    for name, model in models.items():
        scores = model.score_pairs(images, captions)  # (2, 2)
        proba = softmax(scores, axis=1)
        n_right = int((proba.diagonal() > 0.5).sum())
        verdict = ("wrong on both", "right on one of two", "right on both")[n_right]
        rows = "".join(
            f'<tr><th scope="row">image {i + 1}</th>'
            + "".join(
                f'<td class="{"best" if proba[i, j] > 0.5 else ""}">{proba[i, j]:.1%}'
                f"<br><small>score {scores[i, j]:.1f}</small></td>"
                for j in (0, 1)
            )
            + f"<td>{'right' if proba[i, i] > 0.5 else 'wrong'}</td></tr>"
            for i in (0, 1)
        )
        tables.append(
            f'<div><table class="grid"><caption>{name}: {verdict}</caption>'
            '<thead><tr><td></td><th scope="col">caption 1</th><th scope="col">caption '
            f'2</th><th scope="col">choice</th></tr></thead><tbody>{rows}</tbody>'
            "</table></div>"
        )
    return (
        f'<div class="pair">{"".join(tables)}</div><p>A row tells how probable each '
        "caption is for the image; chance gets both right a quarter of the time. Cost: "
        f"{4 * settings.n_trials:,} network evaluations.</p>"
    )


def classify_folder(settings, photos):
    """Classify many photos, group by group.

    Parameters
    ----------
    settings : Settings
        Without classes, they are the names of the folders.
    photos : list of Photo

    Yields
    ------
    html : str
        The table so far; at the end also a link that saves it as CSV, and a confusion
        matrix if the names of folders are classes.

    Raises
    ------
    ValueError
        If there are no photos, or a setting is not possible.
    """
    if not photos:
        raise ValueError("Choose a folder or a zip, or take the example.")
    clf, rows = settings.fit(folder_classes(settings, photos)), []
    for start in range(0, len(photos), GROUP_SIZE):
        group = photos[start : start + GROUP_SIZE]
        readable = [photo.square for photo in group if not photo.error]
        result = clf.denoising_errors(readable) if readable else None
        k = 0
        for photo in group:
            row = dict.fromkeys(COLUMNS, "") | {"path": photo.name}
            row |= {"folder": photo.folder, "error": photo.error}
            if not photo.error:
                best = result.log_proba[k].argmax()
                row["label"] = str(clf.classes_[best])
                row["probability"] = f"{np.exp(result.log_proba[k, best]):.4f}"
                row["evaluations"] = int(result.n_evaluations[k])
                k += 1
            rows.append(row)
        yield f"<p>{len(rows)} of {len(photos)} images.</p>{_table(rows)}"
    yield _summary(rows, clf) + _table(rows)


def folder_classes(settings, photos):
    """The classes of the settings, or else the names of the folders.

    Parameters
    ----------
    settings : Settings
    photos : list of Photo

    Returns
    -------
    names : list of str
    """
    return settings.names or sorted({p.folder for p in photos if p.folder})


def _table(rows):
    head = "".join(f'<th scope="col">{name}</th>' for name in COLUMNS)
    body = "".join(
        f'<tr class="{"wrong" if row["error"] else ""}">'
        + "".join(f"<td>{escape(str(value))}</td>" for value in row.values())
        + "</tr>"
        for row in rows
    )
    return (
        '<div class="scroll" tabindex="0" role="region" aria-label="Predictions">'
        f'<table class="grid"><thead><tr>{head}</tr></thead><tbody>{body}</tbody>'
        "</table></div>"
    )


def _summary(rows, clf):
    """Cost, the CSV to save and, where folders are classes, accuracy and confusions."""
    file = io.StringIO(newline="")
    writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    link = _data_uri(file.getvalue().encode("utf-8", "backslashreplace"), "text/csv")
    done = [row for row in rows if not row["error"]]
    cost = np.mean([row["evaluations"] for row in done]) if done else 0
    text = f"{len(done)} images, {len(rows) - len(done)} that can't be read. "
    text += f"Cost: {cost:.0f} evaluations an image. "
    text += f'<a download="labels.csv" href="{link}">Download CSV</a>'
    labels, classes = {row["folder"] for row in done}, set(clf.classes_.tolist())
    if not done or not labels <= classes:
        return f"<p>{text}</p>"
    target, predicted = zip(*((r["folder"], r["label"]) for r in done), strict=True)
    accuracy = np.mean(np.array(target) == predicted)
    side = 2.5 + 0.4 * len(classes)
    figure = Figure(figsize=(side + 0.5, side))
    ConfusionMatrixDisplay.from_predictions(
        target,
        predicted,
        labels=clf.classes_,
        xticks_rotation="vertical",
        cmap="Blues",
        colorbar=False,
        ax=figure.subplots(),
    )
    image = _figure(figure, "Confusion matrix: folders against predicted classes")
    return f"<p>Accuracy {accuracy:.1%}. {text}</p>{image}"


def _figure(figure, alt):
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100, bbox_inches="tight")
    return f'<img class="figure" alt="{alt}" src="{_data_uri(buffer.getvalue())}">'


def _data_uri(data, kind="image/png"):
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
