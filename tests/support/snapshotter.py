"""The containerd plugin as a process, a client of it, and what containerd does with mounts."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from typing import TYPE_CHECKING, Self

import grpc
import pytest
from google.protobuf.empty_pb2 import Empty

from layerstore.linux import mounts as syscalls
from layerstore.snapshotter.api import mount_pb2, snapshots_pb2
from tests.support.cli import Cli

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

SERVICE = "containerd.services.snapshots.v1.Snapshots"
REFERENCE = "containerd.io/snapshot.ref"
_START_S = 60


def wait_for(what: str, condition: object, seconds: float = _START_S) -> None:
    """Wait until something is true, as somebody else makes it."""
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
        time.sleep(0.02)


class Plugin:
    """``layerstore snapshotter`` over a store."""

    def __init__(self, store: Path, directory: Path) -> None:
        self.cli = Cli(store)
        self.store = store
        self.address = directory / "l.sock"
        self.log = directory / "plugin.log"
        self.prefix: tuple[str, ...] = ()
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *options: str) -> None:
        """Start it, and wait until it listens."""
        words = self.cli.command("snapshotter", "--address", self.address, *options)
        with self.log.open("ab") as log:
            lines = self.log.read_text().count("serving snapshots")
            self._process = subprocess.Popen(
                [*self.prefix, *words],
                stdout=log,
                stderr=log,
                env=self.cli.environment(),
            )
        wait_for(
            "the plugin",
            lambda: (
                self.log.read_text().count("serving snapshots") > lines
                or self._process.poll() is not None
            ),
        )
        assert self._process.poll() is None, self.log.read_text()

    def stop(self) -> int:
        """End it as systemd does; return its exit code."""
        return self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it as a crash does."""
        self._end(signal.SIGKILL)

    def _end(self, number: int) -> int:
        process, self._process = self._process, None
        if process is None:
            return 0
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(number)
        try:
            return process.wait(60)
        finally:
            process.kill()  # one that did not end is not left behind

    @property
    def pid(self) -> int:
        """Of the process."""
        assert self._process is not None
        return self._process.pid

    def uppers(self) -> list[str]:
        """Names of what lies in ``uppers/``."""
        return sorted(os.listdir(self.store / "uppers"))

    def wait_until_settled(self) -> None:
        """Wait until nothing committed has its files unpacked in an upper."""
        with Client(f"unix:{self.address}") as client:
            busy = {info.name for info in client.list('kind!="committed"')}
            wait_for("snapshots to settle", lambda: len(self.uppers()) <= len(busy))


class Client:
    """A client of the snapshots service: of the plugin's, or of containerd's own."""

    def __init__(
        self,
        target: str,
        *,
        namespace: str = "",
        snapshotter: str = "layerstore",
        labels: Mapping[str, str] | None = None,
    ) -> None:
        self._labels = labels or {}
        self._channel = grpc.insecure_channel(target)
        self._metadata = (("containerd-namespace", namespace),) if namespace else ()
        self._name = snapshotter

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._channel.close()

    def prepare(
        self, key: str, parent: str = "", labels: Mapping[str, str] | None = None
    ) -> list[mount_pb2.Mount]:
        request = snapshots_pb2.PrepareSnapshotRequest(
            snapshotter=self._name,
            key=key,
            parent=parent,
            labels={**self._labels, **(labels or {})},
        )
        return list(self._call("Prepare", request, snapshots_pb2.PrepareSnapshotResponse).mounts)

    def view(self, key: str, parent: str = "") -> list[mount_pb2.Mount]:
        request = snapshots_pb2.ViewSnapshotRequest(
            snapshotter=self._name, key=key, parent=parent, labels=self._labels
        )
        return list(self._call("View", request, snapshots_pb2.ViewSnapshotResponse).mounts)

    def mounts(self, key: str) -> list[mount_pb2.Mount]:
        request = snapshots_pb2.MountsRequest(snapshotter=self._name, key=key)
        return list(self._call("Mounts", request, snapshots_pb2.MountsResponse).mounts)

    def commit(self, name: str, key: str, labels: Mapping[str, str] | None = None) -> None:
        request = snapshots_pb2.CommitSnapshotRequest(
            snapshotter=self._name, name=name, key=key, labels={**self._labels, **(labels or {})}
        )
        self._call("Commit", request, Empty)

    def remove(self, key: str) -> None:
        self._call(
            "Remove", snapshots_pb2.RemoveSnapshotRequest(snapshotter=self._name, key=key), Empty
        )

    def stat(self, key: str) -> snapshots_pb2.Info:
        request = snapshots_pb2.StatSnapshotRequest(snapshotter=self._name, key=key)
        return self._call("Stat", request, snapshots_pb2.StatSnapshotResponse).info

    def update(
        self, key: str, labels: Mapping[str, str], *fields: str, parent: str = ""
    ) -> snapshots_pb2.Info:
        request = snapshots_pb2.UpdateSnapshotRequest(snapshotter=self._name)
        request.info.name = key
        request.info.parent = parent
        request.info.labels.update(labels)
        request.update_mask.paths.extend(fields)
        return self._call("Update", request, snapshots_pb2.UpdateSnapshotResponse).info

    def usage(self, key: str) -> snapshots_pb2.UsageResponse:
        request = snapshots_pb2.UsageRequest(snapshotter=self._name, key=key)
        return self._call("Usage", request, snapshots_pb2.UsageResponse)

    def cleanup(self) -> None:
        self._call("Cleanup", snapshots_pb2.CleanupRequest(snapshotter=self._name), Empty)

    def list(self, *filters: str) -> list[snapshots_pb2.Info]:
        call = self._channel.unary_stream(
            f"/{SERVICE}/List",
            request_serializer=snapshots_pb2.ListSnapshotsRequest.SerializeToString,
            response_deserializer=snapshots_pb2.ListSnapshotsResponse.FromString,
        )
        request = snapshots_pb2.ListSnapshotsRequest(snapshotter=self._name, filters=filters)
        return [info for answer in call(request, metadata=self._metadata) for info in answer.info]

    def _call(self, name: str, request, response):
        call = self._channel.unary_unary(
            f"/{SERVICE}/{name}",
            request_serializer=type(request).SerializeToString,
            response_deserializer=response.FromString,
        )
        return call(request, metadata=self._metadata, timeout=120)


@contextlib.contextmanager
def refused(code: grpc.StatusCode, *words: str) -> Iterator[None]:
    """Expect a call to be refused with a code, in a message that has certain words."""
    with pytest.raises(grpc.RpcError) as caught:
        yield
    error = caught.value
    assert isinstance(error, grpc.Call)
    assert error.code() is code, error
    for word in words:
        assert word in error.details(), error


def mount_all(mounts: Sequence[mount_pb2.Mount], target: Path) -> None:
    """Mount as containerd does, whatever the length of the options is."""
    target.mkdir(exist_ok=True)
    for mount in mounts:
        words = list(mount.options)
        flags = syscalls.MS_RDONLY if "ro" in words else 0
        words = [word for word in words if word not in ("ro", "rw", "rbind")]
        if mount.type == "bind":
            syscalls.bind(mount.source, str(target), flags=flags)
            continue
        options = dict(word.partition("=")[::2] for word in words)
        lowers, *data = options.pop("lowerdir").split("::")
        upper, work = options.pop("upperdir", None), options.pop("workdir", None)
        rest = tuple(f"{key}={value}" if value else key for key, value in options.items())
        overlay = syscalls.Overlay(tuple(lowers.split(":")), upper, work, rest, tuple(data))
        syscalls.mount_overlay(overlay, str(target), flags)


@contextlib.contextmanager
def mounted(mounts: Sequence[mount_pb2.Mount], target: Path) -> Iterator[Path]:
    """Mount for the length of a block."""
    mount_all(mounts, target)
    try:
        yield target
    finally:
        syscalls.unmount(str(target))
