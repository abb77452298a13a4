"""What the Hub says reaches the user; a server on this machine stands for it."""

import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlparse

import pytest
import torch

from diffusion_sklearn import load_backbone
from diffusion_sklearn.backbones._sources import resolve_name
from tests.models import save_tiny_clip, tiny_sd

COMMIT = "0123456789abcdef0123456789abcdef01234567"
ANSWERS = {
    "gated": (401, "GatedRepo", "Access to model org/gated is restricted."),
    "denied": (403, "GatedRepo", "You are not in the authorized list."),
    "v9": (404, "RevisionNotFound", "Invalid rev id: v9"),
    "none": (401, "RepoNotFound", "Repository not found"),
    "busy": (429, "", "You have exceeded the rate limit"),
    "down": (503, "", "The service is unavailable"),
}
LOAD = """
import json, sys, time
from diffusion_sklearn import load_backbone
from diffusion_sklearn.baselines import CLIPZeroShotClassifier
report = {}
time.sleep = lambda seconds: None  # the client tries again five times
for step in json.loads(sys.argv[1]):
    name, options = step
    try:
        if "clip" in name:
            clf = CLIPZeroShotClassifier(model=name).fit(classes=["bee", "cat"])
            value = float(clf.text_embeddings_.sum())
        else:
            backbone = load_backbone(name, **options)
            value = float(backbone.condition(["bee"]).float().abs().sum())
    except Exception as error:
        value = f"{type(error).__name__}: {error}"
    report[name] = value
print("REPORT", json.dumps(report))
"""


class Hub(BaseHTTPRequestHandler):
    """Serves folders as repositories, and errors as the Hub does."""

    folders = {}  # noqa: RUF012
    requests = []  # noqa: RUF012

    def do_GET(self):
        path = unquote(urlparse(self.path).path).strip("/")
        self.requests.append(path)
        for key, (code, error, message) in ANSWERS.items():
            if key in path:
                return self._send(
                    code, b"", {"X-Error-Code": error, "X-Error-Message": message}
                )
        parts = path.removeprefix("api/models/").split("/")
        folder = self.folders.get("/".join(parts[:2]))
        if folder is None:
            return self._send(404, b"", {"X-Error-Code": "RepoNotFound"})
        files = [p for p in sorted(folder.rglob("*")) if p.is_file()]
        names = {p.relative_to(folder).as_posix(): p for p in files}
        if path.startswith("api/") and "tree" in parts:
            listing = [
                {"type": "file", "path": n, "size": p.stat().st_size, "oid": n}
                for n, p in names.items()
            ]
            return self._send(200, json.dumps(listing).encode())
        if path.startswith("api/"):
            siblings = [{"rfilename": name} for name in names]
            info = {"id": "/".join(parts[:2]), "sha": COMMIT, "siblings": siblings}
            return self._send(200, json.dumps(info).encode())
        name = "/".join(parts[4:])
        if name not in names:
            return self._send(404, b"", {"X-Error-Code": "EntryNotFound"})
        headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{name.replace("/", "-")}"'}
        return self._send(200, names[name].read_bytes(), headers)

    do_HEAD = do_GET

    def _send(self, code, body, headers=None):
        self.send_response(code)
        for key, value in {**(headers or {}), "Content-Length": len(body)}.items():
            self.send_header(key, str(value))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """Loads models in another process that knows this Hub alone."""
    root = tmp_path_factory.mktemp("hub")
    pipeline = tiny_sd("epsilon")
    pipeline.save_pretrained(root / "tiny")
    pipeline.to(torch.float16).save_pretrained(root / "half", variant="fp16")
    save_tiny_clip(root / "clip", "clip")
    (root / "tiny/unet/flax_model.msgpack").write_bytes(b"never read")
    Hub.folders = {f"org/{path.name}": path for path in root.iterdir()}
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    env = {
        **os.environ,
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
        "HF_HOME": str(tmp_path_factory.mktemp("cache")),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_OFFLINE": "0",
        "NO_PROXY": "127.0.0.1",
        "no_proxy": "127.0.0.1",
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }

    def load(*names, **more):
        steps = json.dumps([(name, {}) for name in names])
        done = subprocess.run(
            [sys.executable, "-c", LOAD, steps],
            env={**env, **more}, capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        assert "REPORT" in done.stdout, done.stderr
        return json.loads(done.stdout.split("REPORT", 1)[1])

    load.cache = Path(env["HF_HOME"]) / "hub"
    yield load
    server.shutdown()
    server.server_close()


@pytest.mark.slow
def test_models_of_the_hub(hub):
    """Downloaded once; an incomplete cache goes on to the Hub, or is an error."""
    condition = load_backbone(Hub.folders["org/tiny"]).condition(["bee"])
    expected = float(condition.abs().sum())  # without abs 0, as the layers are normed
    names = ["org/tiny", "org/half", "org/clip"]
    first = hub(*names)
    assert first["org/tiny"] == pytest.approx(expected, rel=1e-5)
    assert first["org/half"] == pytest.approx(expected, rel=1e-2)
    assert isinstance(first["org/clip"], float)
    snapshot = hub.cache / "models--org--tiny/snapshots" / COMMIT
    assert not list(snapshot.rglob("*.msgpack"))
    assert hub(*names, HF_HUB_OFFLINE="1") == first
    lost = [
        snapshot / "text_encoder/model.safetensors",
        snapshot / "tokenizer/tokenizer.json",
        hub.cache / "models--org--clip/snapshots" / COMMIT / "tokenizer.json",
    ]
    for file in lost:
        file.unlink()
    offline = hub("org/tiny", "org/clip", HF_HUB_OFFLINE="1")
    assert "local cache says: " in offline["org/tiny"]
    assert "tokenizer" in offline["org/clip"]
    assert hub(*names) == first
    assert all(file.exists() for file in lost)


@pytest.mark.slow
def test_errors_of_the_hub(hub):
    """Whole, under the right name, with what to do."""
    report = hub(
        "org/gated", "org/denied", "org/tiny@v9", "org/none", "org/down", "org/busy",
        "org/gated-clip", "org/down-clip",
    )  # fmt: skip
    for name, parts in {
        "org/gated": ["is restricted", "ask for access", "/org/gated", "auth login"],
        "org/denied": ["not in the authorized list", "ask for access", "/org/denied"],
        "org/tiny@v9": ["Invalid rev id: v9", "no such revision"],
        "org/none": ["no such model, or a private one", "auth login"],
        "org/busy": ["429", "too many requests"],
        "org/down": ["503", "error of the server"],
        "org/gated-clip": ["is restricted", "ask for access"],
        "org/down-clip": ["503", "error of the server"],
    }.items():
        assert report[name].startswith("OSError: "), report[name]
        for part in parts:
            assert part in report[name], report[name]


@pytest.mark.slow
def test_no_network(hub):
    """Nothing listens on that port."""
    report = hub("org/other", "org/clip-2", HF_ENDPOINT="http://127.0.0.1:9")
    for message in report.values():
        assert message.startswith("OSError: ") and "can not be reached" in message


@pytest.mark.parametrize(
    "address, expected",
    [
        ("https://huggingface.co/org/name", ("org/name", None)),
        ("https://huggingface.co/org/name/", ("org/name", None)),
        ("https://hf.co/org/name/tree/v1.2", ("org/name", "v1.2")),
        ("org/name@v1.2", ("org/name", "v1.2")),
        (Path("org/name"), ("org/name", None)),
    ],
)
def test_the_address_of_a_page(address, expected):
    assert resolve_name(address, {}) == expected


@pytest.mark.parametrize(
    "address",
    ["https://huggingface.co/org/name/blob/main/x.safetensors", "https://a.org/b/c"],
)
def test_another_address(address):
    with pytest.raises(OSError, match="can't be loaded"):
        load_backbone(address)
