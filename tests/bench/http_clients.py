"""What a gigabyte over loopback costs in CPU seconds with our HTTP client and with others.

    python -m tests.bench.http_clients        # those of urllib3 and httpx that are installed

The sum is the client's process alone: its imports, then the download of a body of 1 GiB in pieces
of 1 MiB. Figures of decision 0170.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import socket
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

from tests.bench.result import Result

SIZE = 1 << 30
_CLIENTS = ("layerstore", "http.client", "urllib3", "httpx")


def main() -> None:
    parser = argparse.ArgumentParser(prog="tests.bench.http_clients", description=__doc__)
    parser.add_argument("-n", "--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep every run there")
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        print(json.dumps(_measure(given.measure[0], int(given.measure[1]))))
        return
    clients = [name for name in _CLIENTS if importlib.util.find_spec(name) is not None]
    result = Result(missing=[name for name in _CLIENTS if name not in clients])
    costs = run_all(clients, given.rounds)
    for client, taken in costs.items():
        imports, downloads = zip(*taken, strict=True)
        result.add("import", client, "CPU", "s", imports)
        result.add("1 GiB", client, "CPU", "s", downloads)
        middle = statistics.median(imports) * 1000, statistics.median(downloads)
        print(f"{client:12} import {middle[0]:4.0f} ms   1 GiB {middle[1]:5.2f} CPU s")
    if given.json:
        result.write(given.json)


def run_all(clients: list[str], rounds: int) -> dict[str, list[tuple[float, float]]]:
    """Return CPU seconds of imports and downloads, every client once a round."""
    costs: dict[str, list[tuple[float, float]]] = {client: [] for client in clients}
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=_serve, args=(server,), daemon=True).start()
        port = str(server.getsockname()[1])
        for _ in range(rounds):
            for client in clients:
                command = [sys.executable, "-m", "tests.bench.http_clients"]
                done = subprocess.run(
                    [*command, "--measure", client, port], check=True, stdout=subprocess.PIPE
                )
                costs[client].append(tuple(json.loads(done.stdout)))
    return costs


def _serve(server: socket.socket) -> None:
    piece = bytes(1 << 20)
    while True:
        connection, _ = server.accept()
        with connection:
            connection.recv(1 << 16)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % SIZE)
            for _ in range(SIZE // len(piece)):
                connection.sendall(piece)


def _measure(client: str, port: int) -> tuple[float, float]:
    url = f"http://127.0.0.1:{port}/"
    started = time.process_time()
    pieces = _download(client, url)
    next(pieces)  # the import
    imported = time.process_time()
    assert sum(len(piece) for piece in pieces) == SIZE
    return imported - started, time.process_time() - imported


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
