"""The page of `diffusion-sklearn app` under load, on loopback.

    python -m benchmarks.speed.app_load

Starts the page. Each of 20 users uploads a photo, classifies it and reads the posterior
as it builds up, first once and then again and again for 60 seconds. Counts what was
lost, and measures the time of an answer and the memory of the server. Needs the extra
`app`.
"""

import http.client
import io
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks._common import describe_machine, make_parser, write
from diffusion_sklearn.datasets import make_fashion_scenes

CLASSES = "red bag\nblue sneaker\ngreen trouser"


@contextmanager
def serve(*arguments):
    """Start the page in a process of its own.

    Yields
    ------
    port : int
    folder : Path
        Its temporary files.
    process : Popen
    """
    with tempfile.TemporaryDirectory() as folder, socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        command = [sys.executable, "-m", "diffusion_sklearn", "app"]
        with Path(folder, "log").open("wb") as log:
            process = subprocess.Popen(
                [*command, "--port", str(port), *arguments],
                env=os.environ | {"TMPDIR": folder},
                stdout=log,
                stderr=log,
            )
        try:
            for _ in range(300):
                try:
                    socket.create_connection(("127.0.0.1", port), 1).close()
                    break
                except OSError:
                    if process.poll() is not None:
                        raise RuntimeError(Path(folder, "log").read_text()) from None
                    time.sleep(0.5)
            yield port, Path(folder), process
        finally:
            process.terminate()
            process.wait(60)


class User:
    """A person's browser, as far as the server sees it."""

    def __init__(self, port, name):
        self.port, self.name = port, name
        config = json.loads(self.call("GET", "/config"))
        self.calls = {c["api_name"]: c["id"] for c in config["dependencies"]}

    def call(self, method, path, body=None, kind="application/json"):
        """Content of an answer; raises unless it is one of success."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=300)
        try:
            connection.request(method, path, body, {"Content-Type": kind})
            answer = connection.getresponse()
            content = answer.read()
        finally:
            connection.close()
        if answer.status != 200:
            raise RuntimeError(f"{path}: {answer.status} {content[:200]}")
        return content

    def run(self, api_name, data):
        """Join the queue and read all events of one call."""
        body = {
            "data": data,
            "fn_index": self.calls[api_name],
            "session_hash": self.name,
        }
        self.call("POST", "/gradio_api/queue/join", json.dumps(body))
        stream = f"/gradio_api/queue/data?session_hash={self.name}"
        events = self.call("GET", stream).decode()
        last = [line for line in events.splitlines() if "process_completed" in line]
        if len(last) != 1 or not json.loads(last[0][5:])["success"]:
            raise RuntimeError(f"{api_name}: {events[-300:]}")
        return events

    def classify(self, content):
        """Upload a photo and classify it; raises if anything was lost."""
        head = (
            '--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n'
            "Content-Type: image/png\r\n\r\n"
        )
        body = head.encode() + content + b"\r\n--x--\r\n"
        kind = "multipart/form-data; boundary=x"
        paths = json.loads(self.call("POST", "/gradio_api/upload", body, kind))
        files = [{"path": p, "meta": {"_type": "gradio.FileData"}} for p in paths]
        self.run("read_photos", [files])
        events = self.run("classify", [None, CLASSES, "", None, 100])
        if " wins with " not in events:
            raise RuntimeError(f"no winner: {events[-300:]}")


def resident_mib(pid):
    """Memory of a process that is in RAM."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def main():
    """Run the users, and print and write what was measured."""
    args = make_parser(__doc__).parse_args()
    n_users, seconds = (4, 10) if args.quick else (20, 60)
    photos = []
    for pixels in make_fashion_scenes(n_users, split="test", n_items=1).images:
        buffer = io.BytesIO()
        Image.fromarray(pixels).resize((640, 640)).save(buffer, "png")
        photos.append(buffer.getvalue())
    latencies, errors, memory = [], [], []

    def work(k):
        try:
            user = User(port, f"user{k}")
            user.classify(photos[k])
            start.wait()
            end = time.perf_counter() + seconds
            while (began := time.perf_counter()) < end:
                user.classify(photos[k])
                latencies.append(time.perf_counter() - began)
        except Exception as error:  # counted, and the first one shown
            start.abort()
            errors.append(repr(error))

    print(describe_machine())
    with serve() as (port, folder, process):
        pid = process.pid
        start = threading.Barrier(n_users, lambda: memory.append(resident_mib(pid)))
        users = [threading.Thread(target=work, args=(k,)) for k in range(n_users)]
        for user in users:
            user.start()
        while any(user.is_alive() for user in users):
            time.sleep(seconds / 12)
            if memory:
                memory.append(resident_mib(pid))
        tracebacks = (folder / "log").read_text().count("Traceback")
    row = {
        "users": n_users,
        "seconds": seconds,
        "answers": len(latencies),
        "lost": len(errors),
        "tracebacks": tracebacks,
        "median_seconds": float(np.median(latencies)),
        "slowest_seconds": max(latencies),
        "mib_before": memory[0],
        "mib_half_way": memory[len(memory) // 2],
        "mib_after": memory[-1],
        "mib_peak": max(memory),
    }
    for name, value in row.items():
        print(
            f"{name:<18}{value:>10.1f}"
            if isinstance(value, float)
            else f"{name:<18}{value:>10}"
        )
    if errors:
        print(errors[0])
    write(__file__, args, [row], n_classes=3, n_trials=100)
    return bool(errors or tracebacks)


if __name__ == "__main__":
    sys.exit(main())
