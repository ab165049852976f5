"""Says who it is, on a port that needs no privileges."""

import http.server
import os


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        page = f"uid {os.getuid()}, gid {os.getgid()}\n".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(page)))
        self.end_headers()
        self.wfile.write(page)


http.server.HTTPServer(("127.0.0.1", 8080), Handler).serve_forever()
