"""Layout of the page, and the server that shows it."""

import functools
import os
from dataclasses import replace
from html import escape
from pathlib import Path

import gradio as gr
from PIL import Image

from diffusion_sklearn.app import _functions as page
from diffusion_sklearn.app import _photos, _settings
from diffusion_sklearn.app._server import Guard
from diffusion_sklearn.app._templates import templates
from diffusion_sklearn.backbones._families import BUNDLED
from diffusion_sklearn.backbones._loading import load_backbone

FOLDER = Path(__file__).parent
MAX_WAITING = 64  # events in the queue
SECONDS_KEPT = 300  # of an upload
INTRO = """<h1>Diffusion models as classifiers</h1>
<p>A model that can draw a class can also tell how well the class explains a photo. Each
trial adds noise to the photo, and the model predicts that noise from each class: the
better the predictions, the more probable the class. A prediction for one class is an
evaluation of the model. The classes race: one that falls behind is dropped, which saves
the rest of its trials. CLIP, beside it, compares the photo with the names of the
classes in one step. Model: <code>{model}</code>. Uploads stay on the computer that runs
this page and are deleted after five minutes.</p>"""

QUIET = {"show_progress": "minimal"}
ONE_AT_A_TIME = {"concurrency_id": "model", "concurrency_limit": 1}

EXPECTED = (ValueError, OSError, ImportError, RuntimeError, FloatingPointError)
"""Errors that are shown as they are."""


def shown(function):
    """Wrap a generator so that expected errors are a message on the page."""

    @functools.wraps(function)
    def wrapped(*args):
        try:
            yield from function(*args)
        except EXPECTED as error:
            text = escape(str(error), quote=False)  # it is shown as HTML
            raise gr.Error(text, print_exception=False) from None

    return wrapped


def make_page(model, clip):
    """Lay out the page.

    Parameters
    ----------
    model : str
        Hub id, folder or bundled name.
    clip : str or None
        Model of the CLIP beside it.

    Returns
    -------
    blocks : gradio.Blocks
    """
    base = _settings.Settings(model, clip)
    is_text = load_backbone(model).kind == "text"
    with gr.Blocks(
        title="diffusion-sklearn",
        analytics_enabled=False,
        fill_width=True,
        delete_cache=(60, SECONDS_KEPT),
    ) as blocks:
        gr.HTML(INTRO.format(model=escape(model)))
        with gr.Accordion("Options", open=False, render=False) as options:
            n_trials = gr.Slider(
                5, _settings.MAX_TRIALS, 100, step=5, label="Trials for each class"
            )
            template = gr.Textbox(
                label="Prompt template, with {} for the class (empty: the model's own)",
                max_length=500,
                visible=is_text,
            )
            prompts = gr.State()
            file = gr.File(
                label="CSV of prompts (columns prompt, classname, classidx)",
                file_types=[".csv"],
                height=150,
                visible=is_text,
            )
            file.change(
                _read_prompts,
                file,
                prompts,
                show_progress="hidden",
                api_name="read_prompts",
            )
        settings = [template, prompts, n_trials]

        with gr.Tab("Classify"):
            _classify_tab(base, settings)
        if is_text:
            with gr.Tab("Which caption?"):
                _captions_tab(base, settings)
        with gr.Tab("Folder"):
            _folder_tab(base, settings)
        options.render()
    return blocks.queue(max_size=MAX_WAITING, default_concurrency_limit=4)


def _collect(base, classes, template, prompts, n_trials):
    """Settings with the values of the page, which are None where it is empty."""
    return replace(
        base,
        classes=classes or "",
        template=template or "",
        prompts=prompts,
        n_trials=n_trials,
    )


@shown
def _read_prompts(path):
    yield _photos.read_prompts(path) if path else None


def _example_buttons(photos):
    """A button with a thumbnail for each."""
    names = [f"example-{k}" for k in range(len(photos))]
    styles = "".join(
        f"#{name} {{ background-image: url({photo.source}); }}"
        for name, photo in zip(names, photos, strict=True)
    )
    gr.HTML(f"<style>{styles}</style><p>or an example:</p>")
    return [
        gr.Button(photo.caption, size="sm", elem_id=name, elem_classes="example")
        for name, photo in zip(names, photos, strict=True)
    ]


def _copy_boxes():
    with gr.Accordion("The same by a command or in Python", open=False):
        return gr.HTML("<p>Nothing has run.</p>", elem_classes="out")


def _classify_tab(base, settings):
    examples = _photos.example_photos(base.model)
    photos, run_photos = gr.State([], time_to_live=3600), gr.State([])
    with gr.Row():
        with gr.Column():
            upload = gr.File(
                label=f"Photos, up to {_photos.MAX_PHOTOS}",
                file_count="multiple",
                height=150,
            )
            buttons = _example_buttons([photo for photo, _ in examples])
        with gr.Column():
            classes = gr.Textbox(label="Classes, one a line", lines=7, max_length=10000)
            with gr.Row():
                run = gr.Button("Classify", variant="primary")
                stop = gr.Button("Stop")
    out = gr.HTML(elem_classes="out")
    with gr.Column(visible=False) as why:
        gr.HTML("<h2>Why?</h2>")
        with gr.Row():
            which = gr.Dropdown(label="Photo", type="index")
            a, b = (gr.Dropdown(label=f"Class {name}", min_width=260) for name in "AB")
            again = gr.Button("Compare A with B")
        evidence = gr.HTML(elem_classes="out")
    copies = _copy_boxes()

    @shown
    def read(paths):
        loaded = _photos.read_photos(paths or [], base.model)
        yield None, loaded, templates.preview(loaded), gr.update(visible=False)

    @shown
    def start(photos, *values):
        setting = _collect(base, *values)
        for html, ranking in page.classify(setting, photos):
            if ranking is None:
                yield html, *[gr.skip()] * 6
        first, classes = ranking[0], sorted(ranking[0])
        files = [photo.file for photo in photos]
        names = [f"{k}: {photo.name}" for k, photo in enumerate(photos, 1)]
        command = setting.command(files, setting.names)
        call = "predict_proba(photos)"
        code = setting.code(call, photos=files, classes=setting.names)
        yield (
            html,
            photos,
            gr.update(visible=True),
            gr.update(choices=names, value=names[0], visible=len(names) > 1),
            gr.update(choices=classes, value=first[0]),
            gr.update(choices=classes, value=first[1]),
            templates.copy_boxes(command, code),
        )

    @shown
    def explain(photos, which, a, b, *values):
        yield page.compare(_collect(base, "", *values), photos[which or 0], a, b)

    results = [out, run_photos, why, which, a, b, copies]
    outputs = [upload, photos, out, why]
    upload.upload(read, upload, outputs, api_name="read_photos", **QUIET)
    event = run.click(
        start,
        [photos, classes, *settings],
        results,
        api_name="classify",
        **ONE_AT_A_TIME,
    )
    pair = [run_photos, which, a, b, *settings]
    event.success(explain, pair, evidence, **ONE_AT_A_TIME)
    again.click(explain, pair, evidence, **ONE_AT_A_TIME)
    stop.click(None, cancels=[event])
    for button, (photo, text) in zip(buttons, examples, strict=True):
        button.click(
            lambda photo=photo, text=text: (
                [photo],
                text,
                templates.preview([photo]),
                gr.update(visible=False),
            ),
            None,
            [photos, classes, out, why],
            show_progress="hidden",
        )


def _captions_tab(base, settings):
    examples, states, captions, previews = _photos.example_pairs(), [], [], []

    @shown
    def read(path):
        (photo,) = _photos.read_photos([path], base.model)
        yield None, photo, templates.preview([photo])

    with gr.Row():
        for k in (1, 2):
            with gr.Column():
                upload = gr.File(label=f"Image {k}", height=150, elem_id=f"image-{k}")
                previews.append(gr.HTML())
                captions.append(
                    gr.Textbox(label=f"Caption of image {k}", max_length=500)
                )
                states.append(gr.State(time_to_live=3600))
                outputs = [upload, states[-1], previews[-1]]
                upload.upload(
                    read, upload, outputs, api_name=f"read_image_{k}", **QUIET
                )
    gr.HTML("<p>or an example:</p>")
    with gr.Row():
        buttons = [gr.Button(" / ".join(texts), size="sm") for _, texts in examples]
    run = gr.Button("Match", variant="primary")
    out = gr.HTML(elem_classes="out")
    copies = _copy_boxes()

    @shown
    def start(photo, other, caption, other_caption, *values):
        setting, texts = _collect(base, "", *values), [caption, other_caption]
        html = page.match_captions(setting, [photo, other], texts)
        setting = replace(setting, template="{}", prompts=None)
        files = [photo.file, other.file]
        command = setting.command(files, texts, pruning="none")
        code = replace(setting, template="").code(
            "score_pairs(photos, captions)", photos=files, captions=texts
        )
        yield html, templates.copy_boxes(command, code)

    run.click(start, [*states, *captions, *settings], [out, copies], **ONE_AT_A_TIME)
    for button, (pair, texts) in zip(buttons, examples, strict=True):
        button.click(
            lambda pair=pair, texts=texts: (
                *pair,
                *texts,
                *(templates.preview([photo]) for photo in pair),
                "",
            ),
            None,
            [*states, *captions, *previews, out],
            show_progress="hidden",
        )


def _folder_tab(base, settings):
    photos = gr.State([], time_to_live=3600)
    with gr.Row():
        with gr.Column():
            folder = gr.File(
                label="A folder", file_count="directory", height=150, elem_id="folder"
            )
            archive = gr.File(
                label="or a zip", file_types=[".zip"], height=150, elem_id="zip"
            )
            example = gr.Button("or 24 labelled photos that ship", size="sm")
        with gr.Column():
            classes = gr.Textbox(
                label="Classes, one a line (empty: the names of the folders)",
                lines=7,
                max_length=10000,
            )
            with gr.Row():
                run = gr.Button("Classify the folder", variant="primary")
                stop = gr.Button("Stop")
    out = gr.HTML(elem_classes="out")
    copies = _copy_boxes()

    @shown
    def read(paths):
        paths = [paths] if isinstance(paths, str) else paths or []
        loaded = _photos.read_folder(paths, base.model)
        yield None, loaded, _count(loaded)

    @shown
    def start(photos, *values):
        setting = _collect(base, *values)
        for html in page.classify_folder(setting, photos):
            yield html, gr.skip()
        names = page.folder_classes(setting, photos)
        call = 'predict(sorted(Path(folder).rglob("*.*")))'
        code = setting.code(call, folder="FOLDER", classes=names)
        code = f"from pathlib import Path\n{code}"
        command = setting.command(["FOLDER"], names)
        yield gr.skip(), templates.copy_boxes(command, code)

    for upload in folder, archive:
        upload.upload(
            read, upload, [upload, photos, out], api_name="read_folder", **QUIET
        )
    event = run.click(
        start, [photos, classes, *settings], [out, copies], **ONE_AT_A_TIME
    )
    stop.click(None, cancels=[event])

    def take_example():
        loaded = _photos.example_folder(base.model)
        return loaded, _count(loaded)

    example.click(take_example, None, [photos, out], show_progress="hidden")


def _count(photos):
    return f"<p>{len(photos)} images. Now press “Classify the folder”.</p>"


def launch(model, clip, host, port):
    """Show the page until the process is stopped.

    Parameters
    ----------
    model : str or None
        Hub id, folder or bundled name; None: "fashion-scenes".
    clip : str or None
        Model of the CLIP beside it; None: "fashion-clip" beside a bundled model, else
        none.
    host : str
        Address to listen on.
    port : int

    Raises
    ------
    OSError
        If the port is taken, or a model can't be loaded.
    """
    model = model or "fashion-scenes"
    clip = clip or ("fashion-clip" if model in BUNDLED else None)
    Image.MAX_IMAGE_PIXELS = 25_000_000  # Pillow refuses twice as many
    blocks = make_page(model, clip)
    print(f"http://{host}:{port}  (Ctrl-C stops it)", flush=True)
    blocks.launch(
        server_name=host,
        server_port=port,
        share=False,
        quiet=True,
        inbrowser=os.isatty(1),
        max_file_size=_photos.MAX_UNPACKED,
        state_session_capacity=200,
        enable_monitoring=False,
        ssr_mode=False,
        mcp_server=False,
        pwa=False,
        footer_links=[],
        app_kwargs={"middleware": [(Guard, (), {})]},
        theme=gr.themes.Base(
            primary_hue="blue",
            neutral_hue="gray",
            font=["system-ui", "sans-serif"],
            font_mono=["ui-monospace", "monospace"],
        ),
        css_paths=FOLDER / "page.css",
        head_paths=FOLDER / "head.html",
    )
