"""A server on 127.0.0.1 for what tests download: whole, cut off, in ranges or not at all."""

from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Server(ThreadingHTTPServer):
    """Serves `content` over real HTTP on 127.0.0.1; `ranges` and `stop_after` shape how.

    With `files`, contents by path, it serves these instead.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.status, self.ranges, self.stop_after = b"", 200, True, None
        self.files: dict[str, bytes] | None = None
        self.requested: list[str | None] = []  # the Range header of each request
        self.url = f"http://127.0.0.1:{self.server_port}/tiny.zip"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        server, asked = self.server, self.headers.get("Range")
        server.requested.append(asked)
        status, content = server.status, server.content
        if server.files is not None:
            content = server.files.get(self.path, b"")
            status = 200 if self.path in server.files else 404
        start = (
            int(asked.removeprefix("bytes=").removesuffix("-")) if asked and server.ranges else 0
        )
        if status == 200 and start:
            status = 206 if start < len(content) else 416
        body = content[start:]
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: server.stop_after])

    def log_message(self, *_):
        pass
