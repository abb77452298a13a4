"""Requests that the server answers, and sources that the browser may load."""

import re

from diffusion_sklearn.app._photos import MAX_UNPACKED

MAX_BODY = MAX_UNPACKED  # bytes of a request

PATHS = re.compile(
    r"/|/config|/theme\.css|/favicon\.ico|/robots\.txt|/manifest\.json"
    r"|/(assets|static|svelte)/[\w./-]+"
    r"|/gradio_api/(upload|upload_progress|info|startup-events|app_id|cancel|reset"
    r"|queue/(join|data|status)|heartbeat/\w+)/?"
)
"""What the server answers: nothing that reads a file by its path or fetches an address.
The page holds its pictures itself."""

POLICY = (
    "default-src 'self' data: blob: 'unsafe-inline' 'unsafe-eval'; "
    "frame-ancestors 'none'; object-src 'none'; base-uri 'self'"
)
"""The browser loads nothing from elsewhere."""


class Guard:
    """ASGI middleware: refuses what is not in PATHS, and large bodies.

    Parameters
    ----------
    app : ASGI application
    """

    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        """Answer a request.

        Parameters
        ----------
        scope, receive, send
            Of ASGI.
        """
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers, status = dict(scope["headers"]), None
        length = headers.get(b"content-length", b"")
        if not PATHS.fullmatch(scope["path"]) or ".." in scope["path"]:
            status = 404
        elif scope["method"] == "POST" and not length.isdigit():
            status = 411
        elif int(length or 0) > MAX_BODY:
            status = 413
        if status:
            await send({"type": "http.response.start", "status": status, "headers": []})
            await send({"type": "http.response.body"})
            return

        async def send_with_policy(message):
            if message["type"] == "http.response.start":
                policy = (b"content-security-policy", POLICY.encode())
                message["headers"] = [*message.get("headers", ()), policy]
            await send(message)

        await self.app(scope, receive, send_with_policy)
