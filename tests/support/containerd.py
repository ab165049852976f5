"""A containerd of a test's own, with the plugin as one of its snapshotters, and ctr."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import pytest

from tests.support.snapshotter import Client, wait_for

if TYPE_CHECKING:
    from tests.support.snapshotter import Plugin

_CONFIG = """\
version = 2
root = "{base}/root"
state = "{base}/state"
disabled_plugins = ["io.containerd.internal.v1.opt"]
[grpc]
  address = "{address}"
[proxy_plugins]
  [proxy_plugins.layerstore]
    type = "snapshot"
    address = "{plugin}"
[[plugins."io.containerd.transfer.v1.local".unpack_config]]
  platform = "linux/amd64"
  snapshotter = "layerstore"
[plugins."io.containerd.cri.v1.images"]
  snapshotter = "layerstore"
  disable_snapshot_annotations = false
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "docker.io/library/pause:1"
  restrict_oom_score_adj = true
  disable_tcp_service = true
  stream_server_address = "127.0.0.1"
  stream_server_port = "0"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "layerstore"
    disable_snapshot_annotations = false
  [plugins."io.containerd.grpc.v1.cri".cni]
    conf_dir = "{base}/cni"
    bin_dir = "{base}/cni"
"""


def message(fields: dict[int, bytes | str | int | list[str]]) -> bytes:
    """Encode a protobuf message. What the numbers mean: cri-api, runtime/v1/api.proto."""
    encoded = bytearray()
    for number, value in fields.items():
        for each in value if isinstance(value, list) else [value]:
            if isinstance(each, int):
                encoded += _varint(number << 3) + _varint(each)
            else:
                data = each.encode() if isinstance(each, str) else each
                encoded += _varint(number << 3 | 2) + _varint(len(data)) + data
    return bytes(encoded)


def fields_of(encoded: bytes) -> dict[int, list[bytes | int]]:
    """Decode a protobuf message of varints and of what has a length."""
    found: dict[int, list[bytes | int]] = {}
    at = 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = encoded[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while at < len(encoded):
        tag = varint()
        value: bytes | int = varint()
        if tag & 7 == 2:
            value, at = encoded[at : at + value], at + value
        found.setdefault(tag >> 3, []).append(value)
    return found


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*encoded, value])


def need(*tools: str) -> None:
    """Skip a test where a tool is not installed."""
    missing = [tool for tool in tools if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")


class Containerd:
    """One daemon, with everything it has below a directory of the test's."""

    def __init__(self, base: Path, plugin: Plugin) -> None:
        need("containerd", "ctr", "runc")
        self.base = base
        self.address = base / "c.sock"
        self.log = base / "containerd.log"
        (base / "config.toml").write_text(
            _CONFIG.format(base=base, address=self.address, plugin=plugin.address)
        )
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it answers."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                ["containerd", "--config", str(self.base / "config.toml")],
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        wait_for("containerd", lambda: self("version", check=False).returncode == 0)

    @property
    def pid(self) -> int:
        """Of the daemon."""
        assert self._process is not None
        return self._process.pid

    def kill(self) -> None:
        """End it as a crash does: containers go on."""
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(signal.SIGKILL)
            process.wait(60)

    def __call__(
        self, *words: str | Path, check: bool = True, namespace: str = "test"
    ) -> subprocess.CompletedProcess[str]:
        """Run ctr."""
        done = subprocess.run(
            ["ctr", "--address", str(self.address), "--namespace", namespace, *map(str, words)],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        if check:
            assert done.returncode == 0, f"ctr {words}: {done.stdout}{done.stderr}"
        return done

    def run(self, image: str, *words: str, namespace: str = "test") -> str:
        """Run a shell's text in a container of its own; return what it prints.

        On a busy machine ctr may end before it has read what a short command printed, all of
        it. A first line of our own tells that apart from files that are empty.
        """
        assert words[-2] == "-c"
        words = (*words[:-1], f"echo begun; {words[-1]}")
        options = ("--rm", "--snapshotter", "layerstore")
        for _ in range(3):
            name = f"c{os.urandom(4).hex()}"
            out = self("run", *options, image, name, *words, namespace=namespace).stdout
            if out:
                break
        assert out.startswith("begun\n"), out
        return out.removeprefix("begun\n")

    def start_container(self, image: str, name: str, *words: str) -> None:
        """Run a command in a container that goes on."""
        self("run", "--detach", "--snapshotter", "layerstore", image, name, *words)

    def end_container(self, name: str) -> None:
        """End a container and remove it."""
        self("tasks", "kill", "--signal", "SIGKILL", name, check=False)
        wait_for(
            "a container to end",
            lambda: (
                self("containers", "rm", name, check=False).returncode == 0
                or name not in self("containers", "ls", "-q", check=False).stdout
            ),
        )

    def client(self, namespace: str = "test") -> Client:
        """Return a client of its own snapshots service, in one namespace.

        What it makes has a label by which containerd's garbage collection leaves it alone.
        """
        kept = {"containerd.io/gc.root": "the test"}
        return Client(f"unix:{self.address}", namespace=namespace, labels=kept)

    def finds_plugin(self) -> bool:
        """Whether it reaches the plugin; it tries again by itself, with pauses."""
        with self.client() as client:
            try:
                client.list()
                client.prepare("is-it-there")
                client.remove("is-it-there")
            except grpc.RpcError:
                return False
        return True

    def ask_cri(self, method: str, request: bytes) -> dict[int, list[bytes | int]]:
        """Call the CRI plugin as a kubelet does; return the answer's fields."""
        with grpc.insecure_channel(f"unix:{self.address}") as channel:
            return fields_of(channel.unary_unary(f"/runtime.v1.{method}")(request, timeout=120))

    def pull_as_kubelet(self, reference: str) -> None:
        """Have the CRI plugin pull an image."""
        self.ask_cri("ImageService/PullImage", message({1: message({1: reference})}))

    def blobs(self) -> int:
        """Bytes of what it fetched or imported, compressed."""
        content = self.base / "root/io.containerd.content.v1.content/blobs/sha256"
        return sum(path.stat().st_size for path in content.iterdir())

    def end_all(self) -> None:
        """End all containers, then the daemon, then shims that are left."""
        with contextlib.suppress(Exception):
            for name in self("tasks", "ls", "-q", check=False).stdout.split():
                self("tasks", "rm", "--force", name, check=False)
        self.kill()
        for pid in filter(str.isdigit, os.listdir("/proc")):
            with contextlib.suppress(OSError), open(f"/proc/{pid}/cmdline", "rb") as words:
                line = words.read()
                if b"containerd-shim" in line and os.fsencode(self.address) in line:
                    os.kill(int(pid), signal.SIGKILL)
        # Groups above those of containers stay behind; one that another test is in cannot go.
        for group in (*Path("/sys/fs/cgroup").glob("*/*"), *Path("/sys/fs/cgroup").glob("*")):
            if group.name in ("test", "other", "k8s.io"):
                with contextlib.suppress(OSError):
                    group.rmdir()


class Registry:
    """A docker-registry of a test's own, on a free port, without TLS."""

    def __init__(self, base: Path) -> None:
        need("docker-registry", "skopeo")
        config = base / "registry.yml"
        # It takes a port itself: one that was free a moment ago may be somebody else's by now.
        config.write_text(
            f"version: 0.1\nstorage: {{filesystem: {{rootdirectory: {base}/registry}}}}\n"
            'http: {addr: "127.0.0.1:0"}\n'
        )
        self.log = base / "registry.log"
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                ["docker-registry", "serve", str(config)], stdout=log, stderr=log
            )
        wait_for("the registry", self._listens_at)
        self.host = self._listens_at()

    def _listens_at(self) -> str:
        """Return what its log says, "" before it does."""
        found = re.search(r"listening on (127\.0\.0\.1:\d+)", self.log.read_text())
        return found[1] if found else ""

    def put(self, archive: Path, name: str) -> str:
        """Push an image from an OCI archive; return its reference."""
        reference = f"{self.host}/{name}"
        subprocess.run(
            ["skopeo", "copy", "--quiet", "--dest-tls-verify=false", f"oci-archive:{archive}",
             f"docker://{reference}"],
            check=True, timeout=120,
        )  # fmt: skip
        return reference

    def end(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait(60)
