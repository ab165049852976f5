"""The socket of the snapshotter: whose is replaced, and whose is left alone."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest

from layerstore.errors import InputError
from layerstore.snapshotter.failures import SnapshotBusyError

if TYPE_CHECKING:
    from pathlib import Path

server = pytest.importorskip("layerstore.snapshotter.server", reason="grpcio is not installed")


def test_a_socket_on_which_somebody_listens_is_left_alone(tmp_path: Path) -> None:
    address = tmp_path / "sock"
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(address))
        other.listen(1)
        with pytest.raises(SnapshotBusyError, match="another process listens"):
            server._remove_stale(str(address))
    assert address.exists()
    server._remove_stale(str(address))
    assert not address.exists()


def test_what_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("mine")
    with pytest.raises(InputError, match="is no socket"):
        server._remove_stale(str(file))
    assert file.read_text() == "mine"
