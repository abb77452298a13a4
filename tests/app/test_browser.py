"""The page in a real browser, used as a person would; and what its server refuses."""

import http.client
import json
import shutil
import urllib.request
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest
from PIL import Image

from benchmarks.speed.app_load import serve
from diffusion_sklearn.app import _photos
from diffusion_sklearn.datasets import load_fashion_photos

playwright = pytest.importorskip("playwright.sync_api")
axe = pytest.importorskip("axe_playwright_python.sync_playwright")
CHROMIUM = shutil.which("chromium")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        find_spec("gradio") is None,
        reason='no gradio (pip install "diffusion-sklearn[app]")',
    ),
    pytest.mark.skipif(
        CHROMIUM is None, reason="no chromium (apt-get install chromium)"
    ),
]
TIMEOUT = 60_000  # ms; the machine may be busy


@pytest.fixture(scope="module")
def server():
    """Port of the page, and the folder of its temporary files."""
    with serve() as (port, folder, process):
        yield port, folder
        process.terminate()
        process.wait(60)
        left = {path.name.partition("_")[0] for path in folder.iterdir()}
        assert left <= {"log", "torchinductor"}  # the latter of torch; no upload


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=CHROMIUM)
        yield opened
        opened.close()


@pytest.fixture
def tab(server, browser, request):
    """The page, opened; nothing may be loaded from elsewhere, and no script fail."""
    width = getattr(request, "param", 1100)
    context = browser.new_context(
        viewport={"width": width, "height": 900},
        permissions=["clipboard-read", "clipboard-write"],
    )
    opened, elsewhere, errors = context.new_page(), [], []
    address = f"http://127.0.0.1:{server[0]}/"

    def check(request):
        if not request.url.startswith((address, "data:", "blob:")):
            elsewhere.append(request.url)

    opened.on("request", check)
    opened.on("pageerror", lambda error: errors.append(error))
    opened.set_default_timeout(TIMEOUT)
    opened.goto(address)
    opened.get_by_role("button", name="Classify", exact=True).wait_for()
    yield opened
    context.close()
    assert elsewhere == [] and errors == []
    assert "Traceback" not in (server[1] / "log").read_text()


def check_accessible(tab):
    tab.wait_for_function("document.querySelector('.pending, .generating') === null")
    tab.wait_for_timeout(500)  # faded while it is computed
    violations = axe.Axe().run(tab).response["violations"]
    serious = [v for v in violations if v["impact"] in ("serious", "critical")]
    assert [(v["id"], v["nodes"][0]["html"]) for v in serious] == []


def open_tab(tab, name):
    """Switch to a tab, which on a small screen may be in the menu behind it."""
    if not tab.get_by_role("tab", name=name).is_visible():
        tab.locator(".overflow-menu > button").click()
        tab.get_by_role("button", name=name, exact=True).click()
    else:
        tab.get_by_role("tab", name=name).click()


def button(tab, name):
    return tab.get_by_role("button", name=name, exact=True)


def save_photos(folder, n=2):
    """Scenes as files; the first two are a red bag and a yellow dress."""
    paths = []
    for photo, _ in _photos.example_photos("fashion-scenes")[:n]:
        paths.append(folder / photo.file)
        Image.fromarray(photo.square).resize((320, 320), 0).save(paths[-1])
    return paths


@pytest.mark.parametrize("tab", [1100, 400], indirect=True)
def test_classify_uploads(tab, tmp_path):
    tab.locator("input[type=file]").first.set_input_files(save_photos(tmp_path))
    tab.get_by_alt_text("a-yellow-dress.png").wait_for()
    tab.get_by_label("Classes, one a line").first.fill(
        "red bag\nyellow dress\nblue coat"
    )
    button(tab, "Classify").click()
    tab.get_by_text("red bag wins with").wait_for()
    tab.get_by_text("yellow dress wins with").wait_for()
    assert tab.get_by_text("of 300 evaluations").count() == 2  # 3 classes, 100 trials
    assert tab.locator("table.bars").count() == 4  # ours and CLIP's, of two photos
    assert tab.locator("tr.dropped").count() > 0
    assert tab.locator("tr.best .bar").first.bounding_box()["width"] > 20
    tab.get_by_alt_text("Evidence for red bag").wait_for()
    tab.get_by_alt_text("Denoising error of red bag").wait_for()

    tab.get_by_label("Class B").click()
    tab.get_by_role("option", name="yellow dress").click()
    button(tab, "Compare A with B").click()
    tab.get_by_alt_text("Evidence for red bag or yellow dress").wait_for()
    for name in "The same by a command or in Python", "Options":
        tab.get_by_role("button", name=name).filter(visible=True).click()
    command = tab.get_by_label("Command", exact=True).inner_text()
    assert "--classes 'red bag,yellow dress,blue coat'" in command
    tab.get_by_role("button", name="Copy Command").click()
    assert tab.evaluate("navigator.clipboard.readText()") == command
    check_accessible(tab)
    width = tab.evaluate("document.documentElement.scrollWidth")
    assert width <= tab.viewport_size["width"]


def test_the_posterior_builds_up(tab):
    tab.evaluate(
        """() => { window.seen = new Set(); new MutationObserver(() => {
          for (const p of document.querySelectorAll(".card p")) seen.add(p.innerText);
        }).observe(document.body,
          {subtree: true, childList: true, characterData: true}); }"""
    )
    button(tab, "a red bag").click()
    tab.get_by_alt_text("a-red-bag.png").wait_for()
    names = load_fashion_photos().target_names
    classes = [f"{color} {item}" for color in ("red", "blue") for item in names]
    tab.get_by_label("Classes, one a line").first.fill("\n".join(classes))
    button(tab, "Classify").click()
    tab.get_by_text("wins with").wait_for()
    looks = [text for text in tab.evaluate("[...seen]") if "classes left" in text]
    assert len(looks) >= 2
    costs = [int(text.split("left, ")[1].split()[0]) for text in looks]
    assert costs == sorted(set(costs))


def test_by_keyboard(tab):
    def press_until(locator, key="Tab"):
        for _ in range(40):
            if locator.evaluate("e => e === document.activeElement"):
                return
            tab.keyboard.press(key)
        raise AssertionError(f"{locator} is not reached by {key}")

    press_until(button(tab, "a red bag"))
    tab.keyboard.press("Enter")
    tab.get_by_alt_text("a-red-bag.png").wait_for()
    press_until(tab.get_by_label("Classes, one a line").first)
    tab.keyboard.press("Control+a")
    tab.keyboard.type("red bag\nblue bag")
    press_until(button(tab, "Classify"))
    tab.keyboard.press("Enter")
    tab.get_by_text("red bag wins with").wait_for()
    tab.get_by_role("tab", name="Classify").focus()
    press_until(tab.get_by_role("tab", name="Which caption?"))
    tab.keyboard.press("Enter")
    button(tab, "Match").wait_for()


def test_wrong_input_is_a_message(tab, tmp_path):
    button(tab, "Classify").click()
    tab.get_by_text("Drop a photo, or pick an example.").wait_for()
    button(tab, "a red bag").click()
    tab.get_by_alt_text("a-red-bag.png").wait_for()
    tab.get_by_label("Classes, one a line").first.fill("red bag\n<u>teapot")
    button(tab, "Classify").click()
    tab.get_by_text("<u>teapot").first.wait_for()
    (tmp_path / "bad.png").write_bytes(b"none")
    tab.locator("input[type=file]").first.set_input_files(tmp_path / "bad.png")
    tab.get_by_text("bad.png is no image; remove it").wait_for()
    assert tab.get_by_text("Traceback").count() == 0


@pytest.mark.parametrize("tab", [1100, 400], indirect=True)
def test_which_caption(tab):
    open_tab(tab, "Which caption?")
    tab.get_by_role("button", name="an ankle boot left of a trouser /").click()
    tab.get_by_alt_text("scene-2.png").wait_for()
    assert tab.get_by_label("Caption of image 1").input_value() == (
        "an ankle boot left of a trouser"
    )
    button(tab, "Match").click()
    tab.get_by_text("Diffusion model: right on both").wait_for()
    tab.get_by_text("CLIP: right on one of two").wait_for()
    check_accessible(tab)


def test_own_captions(tab, tmp_path):
    open_tab(tab, "Which caption?")
    for k, path in enumerate(save_photos(tmp_path), 1):
        tab.locator(f"#image-{k} input[type=file]").set_input_files(path)
        tab.get_by_alt_text(path.name).wait_for()
    tab.get_by_label("Caption of image 1").fill("a yellow dress")
    tab.get_by_label("Caption of image 2").fill("a red bag")
    button(tab, "Match").click()
    tab.get_by_text("Diffusion model: wrong on both").wait_for()


@pytest.mark.parametrize("kind", ["folder", "zip", "example"])
def test_folder(tab, tmp_path, kind):
    open_tab(tab, "Folder")
    top = tmp_path / "photos"
    for photo in _photos.example_folder("fashion-scenes")[:5]:
        path = top / photo.name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(photo.square).save(path)
    n = 5
    if kind == "folder":
        tab.locator("#folder input[type=file]").set_input_files(top)
    elif kind == "zip":
        with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
            for path in top.rglob("*.png"):
                archive.write(path, path.relative_to(tmp_path))
        tab.locator("#zip input[type=file]").set_input_files(tmp_path / "photos.zip")
    else:
        n = 24
        button(tab, "or 24 labelled photos that ship").click()
    tab.get_by_text(f"{n} images. Now press").wait_for()
    button(tab, "Classify the folder").click()
    tab.get_by_text("Accuracy").wait_for()
    tab.get_by_alt_text("Confusion matrix").wait_for()
    assert tab.locator(".scroll tbody tr").count() == n
    with tab.expect_download() as download:
        tab.get_by_role("link", name="Download CSV").click()
    lines = Path(download.value.path()).read_text().splitlines()
    assert len(lines) == n + 1 and lines[0].startswith("path,folder,label")
    check_accessible(tab)


def test_what_the_server_refuses(server, tmp_path):
    port, temporary = server
    secret = tmp_path / "secret.txt"
    secret.write_text("secret")

    def get(path, method="GET", **headers):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        connection.putrequest(method, path)
        for name, value in headers.items():
            connection.putheader(name.replace("_", "-"), value)
        connection.endheaders()
        answer = connection.getresponse()
        body = answer.read()
        connection.close()
        return answer.status, body

    assert get("/")[0] == 200
    uploads = [path for path in temporary.rglob("*") if path.is_file()]
    for path in (secret, "/etc/passwd", *uploads):
        for route in ("/gradio_api/file=", "/file=", "/gradio_api/file/", "/file/"):
            status, body = get(f"{route}{path}")
            assert status == 404 and body == b""
    for path in (
        "/static/../../../../../../etc/passwd",
        "/static/..%2f..%2f..%2f..%2f..%2fetc/passwd",
        "/assets/%2e%2e/%2e%2e/%2e%2e/%2e%2e/etc/passwd",
        "/static//etc/passwd",
        "/gradio_api/file=http://127.0.0.1:1/",
        "/gradio_api/proxy=http://127.0.0.1:1/",
        "/gradio_api/vibe-code/",
        "/monitoring",
    ):
        status, body = get(path)
        assert status in (403, 404) and b"root:" not in body, path
    large = str(_photos.MAX_UNPACKED + 1)
    assert get("/gradio_api/upload", "POST", content_length=large)[0] == 413
    assert get("/gradio_api/upload", "POST", transfer_encoding="chunked")[0] == 411


def test_a_path_of_the_server_is_no_upload(server, tmp_path):
    """The page's own calls, with a path that no upload has."""
    port, _ = server
    photo = tmp_path / "secret.png"
    Image.new("RGB", (8, 8)).save(photo)
    address = f"http://127.0.0.1:{port}"
    with urllib.request.urlopen(f"{address}/config") as answer:
        dependencies = json.load(answer)["dependencies"]
    reads = [call for call in dependencies if call["api_name"].startswith("read")]
    assert len(reads) >= 4
    for call in reads:
        for path in (str(photo), "/etc/passwd", "http://127.0.0.1:1/a.png"):
            file = {"path": path, "url": path, "meta": {"_type": "gradio.FileData"}}
            for data in (file, [file]):
                body = {
                    "data": [data],
                    "fn_index": call["id"],
                    "session_hash": "abc",
                }
                request = urllib.request.Request(
                    f"{address}/gradio_api/queue/join",
                    json.dumps(body).encode(),
                    {"Content-Type": "application/json"},
                )
                urllib.request.urlopen(request).close()
                stream = f"{address}/gradio_api/queue/data?session_hash=abc"
                with urllib.request.urlopen(stream) as answer:
                    events = answer.read().decode()
                done = events.partition('"process_completed"')[2]
                assert '"success":false' in done.replace(" ", ""), events
                assert "data:image" not in events and "root:" not in events
