"""What a gigabyte over loopback costs in CPU seconds with our HTTP client and with others.

    python -m tests.bench.http_clients        # those of urllib3 and httpx that are installed

The sum is the client's process alone: its imports, then the download of a body of 1 GiB in pieces
of 1 MiB. Figures of decision 0170.
"""

from __future__ import annotations

import importlib.util
import socket
import subprocess
import sys
import threading
import time

SIZE = 1 << 30
_CLIENTS = ("layerstore", "http.client", "urllib3", "httpx")


def main() -> None:
    if len(sys.argv) == 3:
        _measure(sys.argv[1], int(sys.argv[2]))
        return
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=_serve, args=(server,), daemon=True).start()
        for _ in range(3):
            for client in _CLIENTS:
                if importlib.util.find_spec(client) is None:
                    continue
                port = str(server.getsockname()[1])
                subprocess.run(
                    [sys.executable, "-m", "tests.bench.http_clients", client, port], check=True
                )


def _serve(server: socket.socket) -> None:
    piece = bytes(1 << 20)
    while True:
        connection, _ = server.accept()
        with connection:
            connection.recv(1 << 16)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % SIZE)
            for _ in range(SIZE // len(piece)):
                connection.sendall(piece)


def _measure(client: str, port: int) -> None:
    url = f"http://127.0.0.1:{port}/"
    started = time.process_time()
    pieces = _download(client, url)
    next(pieces)  # the import
    imported = time.process_time()
    assert sum(len(piece) for piece in pieces) == SIZE
    took = time.process_time() - imported
    print(f"{client:12} import {1000 * (imported - started):4.0f} ms   1 GiB {took:5.2f} CPU s")


def _download(client: str, url: str):
    if client == "layerstore":
        from layerstore.net.transport import HttpSettings, Request, Transport
        from layerstore.net.urls import parse_http_url

        yield b""
        with Transport(HttpSettings()).exchange(Request(parse_http_url(url))) as answer:
            yield from answer.pieces()
    elif client == "http.client":
        import http.client

        yield b""
        connection = http.client.HTTPConnection(url.split("/")[2])
        connection.request("GET", "/")
        response = connection.getresponse()
        while piece := response.read(1 << 20):
            yield piece
    elif client == "urllib3":
        import urllib3

        yield b""
        yield from urllib3.PoolManager().request("GET", url, preload_content=False).stream(1 << 20)
    else:
        import httpx

        yield b""
        with httpx.stream("GET", url) as response:
            yield from response.iter_raw(1 << 20)


if __name__ == "__main__":
    main()
