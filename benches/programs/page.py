#!/usr/bin/env python3
"""page.py PORT FOLDER: a web server on loopback with a page of 120 resources at /, and FOLDER's files.

The page says by its title when all of it has come, and closes the window; so do its resources all load before
`--dump-dom` and `--screenshot` are done."""
import http.server
import os
import socketserver
import sys

PAGE = "<!doctype html><title>page</title>" + "".join(
    f"<link rel=stylesheet href=/r/{i}.css><script src=/r/{i}.js></script><img src=/r/{i}.svg>" for i in range(40)
)
KINDS = {
    "css": ("text/css", b"p { margin: 0 }" * 100),
    "js": ("text/javascript", b"document.title += '.';" + b"// nothing\n" * 100),
    "svg": ("image/svg+xml", b"<svg xmlns='http://www.w3.org/2000/svg' width='8' height='8'/>"),
}


class Handler(http.server.SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # In one segment, or delayed acknowledgements would be all that is measured.
    disable_nagle_algorithm = True
    wbufsize = -1

    def do_GET(self):
        kind = KINDS.get(self.path.rpartition(".")[2]) if self.path.startswith("/r/") else None
        if self.path == "/":
            kind = ("text/html", PAGE.encode())
        if kind is None:
            return super().do_GET()
        self.send_response(200)
        self.send_header("Content-Type", kind[0])
        self.send_header("Content-Length", str(len(kind[1])))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(kind[1])

    def log_message(self, *_):
        pass


class Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = True
    request_queue_size = 512


os.chdir(sys.argv[2])
Server(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
