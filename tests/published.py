"""Archives as if their authors had published them, and a server that has them."""

import contextlib
import hashlib
import http.server
import threading

from cgsv_jax.data import builders


def publish(monkeypatch, name, contents, address=None):
    """As if the authors had published these files, at this address or where they really are."""
    archive = builders.ARCHIVES[name]
    changed = tuple(
        builders.Published(
            f"{address}/{file.name}" if address else file.url,
            *(len(content), hashlib.sha256(content).hexdigest()),
        )
        for file, content in zip(archive.files, contents, strict=True)
    )
    monkeypatch.setitem(builders.ARCHIVES, name, archive._replace(files=changed))


@contextlib.contextmanager
def served(contents):
    """The address of a server on this machine that has these files: name -> content."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(contents[self.path.rpartition("/")[2]])

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/some"
        server.shutdown()
