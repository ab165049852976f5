"""The plugin under a real containerd: ctr, runc, the CRI plugin, and crashes of either side.

Capabilities: root, containerd 1.6 with ctr, runc; for pulls docker-registry and skopeo.
"""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import tarfile
import threading
from typing import TYPE_CHECKING

import grpc
import pytest

from layerstore.digest import chain_id
from layerstore.snapshotter.api import snapshots_pb2
from tests.support.build import busybox
from tests.support.cli import Cli
from tests.support.containerd import Containerd, Registry, fields_of, message
from tests.support.debian_base import debian_base_tar
from tests.support.namespaces import end_mounts_below
from tests.support.snapshotter import (
    REFERENCE,
    Client,
    Plugin,
    mounted,
    refused,
    wait_for,
)
from tests.support.store import noise
from tests.support.views import needs_packs, needs_root

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [*needs_root, pytest.mark.runc, pytest.mark.peers]

EXISTS = grpc.StatusCode.ALREADY_EXISTS
SHARED_BYTES = 3 << 20


class Host:
    """containerd, the plugin, and a store in which images are made that containerd gets."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.plugin = Plugin(base / "store", base)
        self.source = Cli(base / "source")
        self.plugin.start()
        self.containerd = Containerd(base, self.plugin)
        self.containerd.start()

    def image(self, name: str, *steps: str, store: Cli | None = None) -> Path:
        """Make an image of busybox and a large file; return its OCI archive."""
        cli = store or self.source
        context = self.base / "context"
        if not context.exists():
            (context / "bin").mkdir(parents=True)
            shutil.copy(busybox(), context / "bin/busybox")
            (context / "shared").write_bytes(noise(1, SHARED_BYTES))
        lines = ["FROM scratch", "COPY bin/busybox /bin/busybox", "COPY shared /shared", *steps]
        (self.base / "Dockerfile").write_text("\n".join(lines))
        for number in range(3):
            (context / f"own-{number}").write_text(f"{name} {number}")
        full = f"docker.io/library/{name}"
        cli.ok("build", "-q", "-t", full, "-f", self.base / "Dockerfile", context)
        archive = self.base / f"{name.replace(':', '-')}.tar"
        cli.ok("save", full, "-o", archive)
        return archive

    def load(self, archive: Path) -> None:
        self.containerd("images", "import", "--snapshotter", "layerstore", archive)

    def names(self) -> list[str]:
        """Keys that containerd has for the snapshots of its namespace."""
        with self.containerd.client() as client:
            return sorted(info.name for info in client.list())

    def end(self) -> None:
        self.containerd.end_all()
        self.plugin.kill()
        end_mounts_below(self.base)


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    host = Host(tmp_path)
    try:
        yield host
    finally:
        host.end()


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    registry = Registry(tmp_path)
    try:
        yield registry
    finally:
        registry.end()


SH = ("/bin/busybox", "sh", "-c")


def test_images_are_imported_run_and_removed(host: Host) -> None:
    host.load(host.image("one:1", "COPY own-0 /own"))
    host.load(host.image("two:1", "COPY own-1 /own", "COPY own-2 /other"))
    containerd = host.containerd
    assert containerd.run("docker.io/library/one:1", *SH, "cat /own") == "one:1 0"
    text = "cat /own /other && echo new > /own && /bin/busybox wc -c < /shared"
    assert containerd.run("docker.io/library/two:1", *SH, text) == f"two:1 1two:1 2{SHARED_BYTES}\n"
    # Nothing that a container wrote is in the image; and nothing of the containers is left.
    assert containerd.run("docker.io/library/two:1", *SH, "cat /own") == "two:1 1"
    wait_for("containers to go", lambda: len(host.names()) == 5)  # two layers are the same
    host.plugin.wait_until_settled()
    stored = sum(path.stat().st_size for path in host.plugin.store.glob("packs/*/*"))
    assert stored < 1.5 * SHARED_BYTES  # both images' large file, once
    usage = containerd("snapshots", "--snapshotter", "layerstore", "usage").stdout
    assert "3.0 MiB" in usage
    listed = containerd("snapshots", "--snapshotter", "layerstore", "tree").stdout
    assert listed.count("sha256:") == 5
    host.plugin.cli.ok("check", "--read-data")
    for name in ("one:1", "two:1"):
        containerd("images", "rm", "--sync", f"docker.io/library/{name}")
    wait_for("snapshots to go", lambda: host.names() == [])
    with Client(f"unix:{host.plugin.address}") as client:
        client.cleanup()
    host.plugin.cli.ok("gc", "--all")
    assert not list(host.plugin.store.glob("packs/*/*"))
    assert not list((host.plugin.store / "views").glob("*.json"))
    assert host.plugin.uppers() == []


def test_a_containers_changes_become_an_image_layer(host: Host) -> None:
    host.load(host.image("base:1", "COPY own-0 /own"))
    containerd = host.containerd
    host.plugin.wait_until_settled()
    top = max(host.names(), key=lambda name: len(host_lineage(host, name)))
    containerd("snapshots", "--snapshotter", "layerstore", "prepare", "work", top)
    with (
        host.containerd.client() as client,
        mounted(client.mounts("work"), host.base / "m") as root,
    ):
        (root / "own").write_text("changed")
        os.unlink(root / "shared")
        (root / "made").mkdir()
    containerd("snapshots", "--snapshotter", "layerstore", "commit", "next", "work")
    host.plugin.wait_until_settled()
    info = containerd("snapshots", "--snapshotter", "layerstore", "info", "next").stdout
    assert '"Kind": "Committed"' in info
    with (
        host.containerd.client() as client,
        mounted(client.view("see", "next"), host.base / "m") as root,
    ):
        assert (root / "own").read_text() == "changed"
        assert sorted(os.listdir(root)) == ["bin", "made", "own"]
    made = subprocess.run(
        ["ctr", "--address", str(containerd.address), "-n", "test", "snapshots", "--snapshotter",
         "layerstore", "diff", "next"],
        capture_output=True, check=True, timeout=60,
    )  # fmt: skip
    with tarfile.open(fileobj=io.BytesIO(made.stdout)) as tar:
        assert sorted(tar.getnames()) == [".wh.shared", "made", "own"]
    with host.containerd.client() as client:
        with refused(grpc.StatusCode.FAILED_PRECONDITION, "child"):
            client.remove(top)
        for name in ("see", "next"):
            client.remove(name)


def host_lineage(host: Host, name: str) -> list[str]:
    found = []
    with host.containerd.client() as client:
        while name:
            found.append(name)
            name = client.stat(name).parent
    return found


def test_containers_outlive_crashes_of_both_sides(host: Host) -> None:
    host.load(host.image("app:1", "COPY own-0 /own"))
    containerd, plugin = host.containerd, host.plugin
    image = "docker.io/library/app:1"
    containerd.start_container(image, "long", *SH, "echo 1 > /written; sleep 1000")
    wait_for("it to write", lambda: exec_in(containerd, "cat /written") == "1\n")
    plugin.kill()
    wait_for("it to answer", lambda: exec_in(containerd, "cat /own /written") == "app:1 01\n")
    assert containerd(
        "run", "--rm", "--snapshotter", "layerstore", image, "no", "x", check=False
    ).returncode
    plugin.start()
    # containerd tries to connect again for itself, with pauses of up to three seconds.
    wait_for("containerd to find it", lambda: runs(containerd, image))
    containerd.kill()
    containerd.start()
    wait_for("it to answer", lambda: exec_in(containerd, "cat /own /written") == "app:1 01\n")
    assert containerd.run(image, *SH, "cat /own") == "app:1 0"
    plugin.kill()
    containerd.kill()
    plugin.start()
    containerd.start()
    containerd.end_container("long")
    wait_for("its snapshot to go", lambda: "long" not in host.names())
    assert plugin.stop() == 0
    assert not plugin.address.exists()


def runs(containerd: Containerd, image: str) -> bool:
    options = ("--rm", "--snapshotter", "layerstore", image, f"r{os.urandom(4).hex()}")
    return containerd("run", *options, *SH, "cat /own", check=False).stdout == "app:1 0"


def exec_in(containerd: Containerd, text: str) -> str:
    name = f"e{os.urandom(4).hex()}"
    return containerd("tasks", "exec", "--exec-id", name, "long", *SH, text, check=False).stdout


@pytest.mark.parametrize("delay_s", [0.05, 0.3])
def test_an_import_that_was_cut_off_is_done_again(host: Host, delay_s: float) -> None:
    archive = host.image("app:1", *(f"COPY own-{n % 3} /dir-{n}/own" for n in range(6)))
    containerd = host.containerd
    command = ["ctr", "--address", str(containerd.address), "-n", "test", "images", "import",
               "--snapshotter", "layerstore", str(archive)]  # fmt: skip
    importing = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for("it to begin", lambda: host.plugin.uppers() or importing.poll() is not None)
    threading.Event().wait(delay_s)
    host.plugin.kill()
    containerd.kill()
    importing.wait(60)
    host.plugin.start()
    containerd.start()
    host.load(archive)
    text = "cat /dir-5/own; /bin/busybox sha256sum /shared"
    expected = subprocess.run(
        ["sha256sum", host.base / "context/shared"], capture_output=True, text=True, check=True
    ).stdout.split()[0]
    out = containerd.run("docker.io/library/app:1", *SH, text)
    assert out == f"app:1 2{expected}  /shared\n"
    host.plugin.cli.ok("check", "--read-data")


def test_a_host_that_restarted_shows_its_images_again(host: Host) -> None:
    host.load(host.image("app:1", "COPY own-0 /own"))
    containerd, plugin = host.containerd, host.plugin
    host.plugin.wait_until_settled()
    top = max(host.names(), key=lambda name: len(host_lineage(host, name)))
    with (
        containerd.client() as client,
        mounted(client.prepare("kept", top), host.base / "m") as root,
    ):
        (root / "written").write_text("before")
    plugin.kill()
    containerd.kill()
    end_mounts_below(plugin.store)  # as after a restart, nothing is mounted
    plugin.start()
    containerd.start()
    with containerd.client() as client, mounted(client.mounts("kept"), host.base / "m") as root:
        assert (root / "written").read_text() == "before"
        assert (root / "own").read_text() == "app:1 0"
    assert containerd.run("docker.io/library/app:1", *SH, "cat /own") == "app:1 0"


def test_the_stores_gc_takes_nothing_that_containerd_has(host: Host) -> None:
    ending = threading.Event()
    failures: list[str] = []

    def collect() -> None:
        while not ending.is_set():
            done = host.plugin.cli("gc", "--all")
            if done.code not in (0, 4):
                failures.append(done.err)

    collector = threading.Thread(target=collect)
    collector.start()
    try:
        for number in range(2):
            host.load(host.image(f"app:{number}", f"COPY own-{number} /own"))
            out = host.containerd.run(f"docker.io/library/app:{number}", *SH, "cat /own")
            assert out == f"app:{number} {number}"
    finally:
        ending.set()
        collector.join()
    assert failures == []
    host.plugin.wait_until_settled()
    host.plugin.cli.ok("gc", "--all")
    host.plugin.cli.ok("check", "--read-data")
    for number in range(2):
        out = host.containerd.run(f"docker.io/library/app:{number}", *SH, "/bin/busybox cat /own")
        assert out == f"app:{number} {number}"


def test_what_the_store_has_is_not_fetched(host: Host, registry: Registry) -> None:
    """A pull as the kubelet's: containerd asks for each layer's chain before it fetches."""
    known = host.image("known:1", "COPY own-0 /own", "COPY own-1 /other", store=host.plugin.cli)
    reference = registry.put(known, "known:1")
    host.containerd.pull_as_kubelet(reference)
    assert host.containerd.blobs() < 20_000  # a manifest and a config
    assert "blobs/uploads" in registry.log.read_text()  # it was pushed whole
    run = host.containerd.run(reference, *SH, "cat /own /other", namespace="k8s.io")
    assert run == "known:1 0known:1 1"
    # The image may go: its layers are kept by the snapshots.
    host.plugin.cli.ok("rm", "known:1")
    host.plugin.cli.ok("gc", "--all")
    run = host.containerd.run(reference, *SH, "cat /own /other", namespace="k8s.io")
    assert run == "known:1 0known:1 1"
    unknown = registry.put(host.image("unknown:1", "COPY own-2 /own"), "unknown:1")
    host.containerd.pull_as_kubelet(unknown)
    assert host.containerd.blobs() > SHARED_BYTES
    assert host.containerd.run(unknown, *SH, "cat /own", namespace="k8s.io") == "unknown:1 2"


def test_a_known_layer_lies_over_what_containerd_unpacked(host: Host, registry: Registry) -> None:
    base = host.image("base:1", "COPY own-0 /own", store=host.plugin.cli)
    host.containerd("images", "import", "--snapshotter", "layerstore", base, namespace="k8s.io")
    host.plugin.wait_until_settled()
    host.plugin.cli.ok("rm", "base:1")
    before = host.containerd.blobs()
    (host.base / "Dockerfile").write_text('FROM base:1\nCOPY own-1 /other\nRUN ["x"]')
    steps = ("COPY own-0 /own", "COPY own-1 /other")
    top = host.image("base:1", *steps, store=host.plugin.cli)
    reference = registry.put(top, "top:1")
    host.containerd.pull_as_kubelet(reference)
    assert host.containerd.blobs() - before < 20_000
    run = host.containerd.run(reference, *SH, "cat /own /other", namespace="k8s.io")
    assert run == "base:1 0base:1 1"


def test_a_pod_runs_as_a_kubelet_runs_it(host: Host) -> None:
    """RunPodSandbox, CreateContainer, StartContainer, statistics, and the way back."""
    ask = host.containerd.ask_cri
    sleep = 'CMD ["/bin/busybox", "sleep", "1000"]'
    for name in ("pause:1", "app:1"):
        archive = host.image(name, "COPY own-0 /own", sleep)
        host.containerd(
            "images", "import", "--snapshotter", "layerstore", archive, namespace="k8s.io"
        )
    of_the_node = message({1: 2})  # the network: then no CNI is needed
    metadata = message({1: "pod", 2: "uid", 3: "default"})
    logs = host.base / "logs"
    sandbox = message({1: metadata, 3: str(logs), 8: message({2: message({1: of_the_node})})})
    (pod,) = ask("RuntimeService/RunPodSandbox", message({1: sandbox}))[1]
    command = [*SH, "cat /own; echo x > /own; cat /own"]
    container = message(
        {1: message({1: "app"}), 2: message({1: "docker.io/library/app:1"}), 3: command, 11: "app"}
    )
    request = message({1: pod, 2: container, 3: sandbox})
    (made,) = ask("RuntimeService/CreateContainer", request)[1]
    ask("RuntimeService/StartContainer", message({1: made}))

    def has_ended() -> bool:
        answer = ask("RuntimeService/ContainerStatus", message({1: made}))
        return fields_of(answer[1][0]).get(3) == [2]  # CONTAINER_EXITED

    wait_for("the container to end", has_ended)
    assert "stdout F app:1 0x" in (logs / "app").read_text()
    for call, what in (
        ("RemoveContainer", made),
        ("StopPodSandbox", pod),
        ("RemovePodSandbox", pod),
    ):
        ask(f"RuntimeService/{call}", message({1: what}))
    with host.containerd.client("k8s.io") as client:
        kinds = {info.kind for info in client.list()}
    assert kinds == {snapshots_pb2.COMMITTED}


def test_a_chain_that_is_asked_for_is_made_of_the_stores_layers(host: Host) -> None:
    host.image("known:1", "COPY own-0 /own", store=host.plugin.cli)
    layers = host.plugin.cli.ok("inspect", "known:1").json()[0]["RootFS"]["Layers"]
    with host.containerd.client() as client:
        parent = ""
        for count in range(1, len(layers) + 1):
            chain = chain_id(layers[:count])
            with refused(EXISTS, chain):
                client.prepare(f"extract-1 {chain}", parent, {REFERENCE: chain})
            info = client.stat(chain)
            assert info.kind == snapshots_pb2.COMMITTED
            assert info.parent == parent
            assert client.usage(chain).size > 0
            parent = chain
        with mounted(client.view("see", parent), host.base / "m") as root:
            assert (root / "own").read_text() == "known:1 0"
        # One that no image has, or on another parent, is to be fetched.
        nothing = f"sha256:{'0' * 64}"
        assert client.prepare("extract-2", parent, {REFERENCE: nothing})
        other = f"{parent[:-1]}{'1' if parent.endswith('0') else '0'}"
        assert client.prepare("extract-3", "", {REFERENCE: other})


def test_images_are_pulled(host: Host, registry: Registry) -> None:
    reference = registry.put(host.image("app:1", "COPY own-0 /own"), "app:1")
    host.containerd("images", "pull", "--plain-http", "--snapshotter", "layerstore", reference)
    assert host.containerd.run(reference, *SH, "cat /own") == "app:1 0"


def test_two_namespaces_share_what_they_hold(host: Host) -> None:
    archive = host.image("app:1", "COPY own-0 /own")
    host.load(archive)
    host.containerd("images", "import", "--snapshotter", "layerstore", archive, namespace="other")
    host.plugin.wait_until_settled()
    stored = sum(path.stat().st_size for path in host.plugin.store.glob("packs/*/*"))
    assert stored < 1.5 * SHARED_BYTES
    host.containerd("images", "rm", "--sync", "docker.io/library/app:1")
    out = host.containerd.run("docker.io/library/app:1", *SH, "cat /own", namespace="other")
    assert out == "app:1 0"


@needs_packs
def test_containers_read_packs(host: Host) -> None:
    host.plugin.stop()
    host.plugin.start("--backend", "kernel-packs")
    wait_for("containerd to find it", lambda: host.containerd.finds_plugin())
    host.load(host.image("app:1", "COPY own-0 /own"))
    text = "cat /own; /bin/busybox wc -c < /shared; echo x > /own; cat /own"
    out = host.containerd.run("docker.io/library/app:1", *SH, text)
    assert out == f"app:1 0{SHARED_BYTES}\nx\n"
    unpacked = sum(path.stat().st_size for path in host.plugin.store.glob("objects/*/*"))
    assert unpacked < SHARED_BYTES


def test_a_debian_system_runs(host: Host) -> None:
    tar = debian_base_tar()
    name = "docker.io/library/debian:bookworm"
    host.source.ok("import", tar, "-t", name)
    archive = host.base / "debian.tar"
    host.source.ok(
        "save", "docker.io/library/debian:bookworm", "-o", archive, "--compression", "none"
    )
    host.load(archive)
    text = "dpkg --verify && su nobody -s /bin/sh -c id && apt-get --version"
    out = host.containerd.run(name, "/bin/sh", "-c", text)
    assert "uid=65534(nobody)" in out
    assert "apt 2.6" in out
    host.plugin.wait_until_settled()
    again = text.partition("&& ")[2]
    assert host.containerd.run(name, "/bin/sh", "-c", again) == out
