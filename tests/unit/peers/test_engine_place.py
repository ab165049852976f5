"""Where docker's client goes: variables, contexts, and TLS with certificates of both sides."""

from __future__ import annotations

import contextlib
import hashlib
import json
import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from layerstore.errors import InputError, NotFoundError
from layerstore.peers.engine import Engine, EngineError
from layerstore.peers.engine_place import EnginePlace, EngineTls, docker_place
from tests.support.http_server import certificate

USUAL = "unix:///var/run/docker.sock"
TCP = "tcp://daemon:2376"


def context(config, name, address, *, certificates=False, skip=False):
    """A context as docker's client keeps it; ``name`` may be chosen afterwards."""
    folder = hashlib.sha256(name.encode()).hexdigest()
    meta = config / "contexts" / "meta" / folder
    meta.mkdir(parents=True)
    endpoint = {"Host": address, "SkipTLSVerify": skip}
    said = {"Name": name, "Metadata": {}, "Endpoints": {"docker": endpoint}}
    (meta / "meta.json").write_text(json.dumps(said))
    tls = config / "contexts" / "tls" / folder / "docker"
    if certificates:
        tls.mkdir(parents=True)
    return tls


@pytest.fixture
def config(tmp_path):
    """docker's directory with two contexts, of which one was chosen."""
    context(tmp_path, "chosen", "tcp://plain:2375")
    context(tmp_path, "safe", TCP, certificates=True)
    context(tmp_path, "unchecked", TCP, skip=True)
    (tmp_path / "config.json").write_text('{"currentContext": "chosen"}')
    return tmp_path


def place(config, host=None, **variables):
    return docker_place({"DOCKER_CONFIG": str(config), **variables}, host, USUAL)


def test_what_goes_before_what(config):
    assert place(config) == EnginePlace("tcp://plain:2375")
    assert place(config, DOCKER_CONTEXT="default") == EnginePlace(USUAL)
    assert place(config, DOCKER_CONTEXT="chosen", DOCKER_HOST=TCP) == EnginePlace(TCP)
    assert place(config, "unix:///x", DOCKER_HOST=TCP) == EnginePlace("unix:///x")
    assert docker_place({"HOME": "/nowhere"}, None, USUAL) == EnginePlace(USUAL)


def test_tls_is_for_tcp_and_by_dockers_variables(config):
    tls = place(config, DOCKER_HOST=TCP, DOCKER_TLS_VERIFY="1", DOCKER_CERT_PATH="/certs").tls
    assert (str(tls.folder), tls.verify) == ("/certs", True)
    tls = place(config, DOCKER_HOST=TCP, DOCKER_TLS="1").tls
    assert (tls.folder, tls.verify) == (config, False)
    assert place(config, DOCKER_HOST=TCP, DOCKER_TLS_VERIFY="").tls is None
    assert place(config, "unix:///x", DOCKER_TLS_VERIFY="1").tls is None


def test_contexts_say_how_their_daemon_is_spoken_to(config):
    safe = place(config, DOCKER_CONTEXT="safe")
    assert safe.address == TCP
    assert safe.tls.verify
    assert safe.tls.folder.is_dir()
    assert not place(config, DOCKER_CONTEXT="unchecked").tls.verify


def test_contexts_that_are_not_there_or_damaged_are_told(config):
    with pytest.raises(NotFoundError, match="no context 'none'"):
        place(config, DOCKER_CONTEXT="none")
    for text in ("", "[]", '{"Endpoints": {"docker": {"Host": 3}}}', '{"Endpoints": 1}'):
        (file,) = (config / "contexts" / "meta").glob(
            hashlib.sha256(b"safe").hexdigest() + "/meta.json"
        )
        file.write_text(text)
        with pytest.raises(InputError, match=r"meta\.json"):
            place(config, DOCKER_CONTEXT="safe")


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        body = b"[]" if self.path.endswith("/images/json") else b"OK"
        self.send_response(200)
        self.send_header("Api-Version", "1.41")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class Server(ThreadingHTTPServer):
    def handle_error(self, *_):
        pass  # handshakes that fail


@contextlib.contextmanager
def daemon(folder):
    """A daemon that asks for certificates; ``folder`` gets what its client shows and trusts."""
    folder.mkdir()
    cert, key = certificate(folder)
    (folder / "ca.pem").write_bytes(cert.read_bytes())
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.load_cert_chain(cert, key)
    made.load_verify_locations(cert)
    made.verify_mode = ssl.CERT_REQUIRED
    server = Server(("127.0.0.1", 0), Handler)
    server.socket = made.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield f"tcp://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_both_sides_show_certificates(tmp_path):
    with daemon(tmp_path / "certs") as address:
        with Engine(address, "docker", tls=EngineTls(tmp_path / "certs", verify=True)) as engine:
            assert engine.images() == []
        (tmp_path / "none").mkdir()
        nothing = EngineTls(tmp_path / "none", verify=True)
        with pytest.raises(EngineError, match="is not trusted") as caught:
            Engine(address, "docker", tls=nothing)
        assert "DOCKER_CERT_PATH" in caught.value.hint
        with pytest.raises(EngineError):  # the daemon does not know us
            Engine(address, "docker", tls=nothing._replace(verify=False)).images()
        (tmp_path / "certs" / "key.pem").write_text("no key")
        with pytest.raises(InputError, match="cannot be used"):
            Engine(address, "docker", tls=EngineTls(tmp_path / "certs", verify=True))
