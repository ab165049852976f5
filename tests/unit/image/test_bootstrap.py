"""Bootstrapping, with a stand-in for mmdebstrap that behaves as each case needs."""

import io
import os
import shutil
import subprocess
import sys
import tarfile
import time

import pytest

from layerstore.errors import FormatError, InputError, UnsupportedError
from layerstore.image.bootstrap import BootstrapFailedError, BootstrapSpec, bootstrap, command_of
from layerstore.image.images import load_config
from layerstore.progress import Silent
from layerstore.store.store import Store
from tests.support.cli import Cli

CREATED = "2026-11-23T12:00:00Z"


@pytest.fixture
def store(tmp_path):
    with Store.open(tmp_path / "store", create=True) as opened:
        yield opened


@pytest.fixture
def tool(tmp_path, monkeypatch):
    """Put a Python program in mmdebstrap's place."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))

    def write(body: str) -> None:
        path = folder / "mmdebstrap"
        path.write_text(f"#!{sys.executable}\nimport sys, os, time\n{body}\n")
        path.chmod(0o755)

    return write


def rootfs_tar() -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        member = tarfile.TarInfo("./etc/debian_version")
        member.size = 5
        archive.addfile(member, io.BytesIO(b"12.0\n"))
    return stream.getvalue()


GOOD = f"sys.stderr.write('I: downloading\\n'); sys.stdout.buffer.write({rootfs_tar()!r})"


def test_a_base_image(store, tool):
    tool(GOOD)
    made = bootstrap(store, BootstrapSpec("debian:bookworm"), created=CREATED)
    assert made.names == ("debian:bookworm",)
    assert made.stats is not None
    config = load_config(store, store.resolve("debian:bookworm").image_id)
    assert config.config.cmd == ("bash",)
    assert config.config.env == (
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    )
    assert [step.created_by for step in config.history] == ["layerstore bootstrap debian:bookworm"]
    assert config.created == CREATED


def test_an_image_that_is_there_is_kept(store, tool):
    tool(GOOD)
    first = bootstrap(store, BootstrapSpec("debian:bookworm"), created=CREATED)
    tool("sys.exit('must not run')")
    again = bootstrap(store, BootstrapSpec("debian:bookworm"), created=CREATED)
    assert (again.image, again.stats) == (first.image, None)


def test_replacing_moves_the_name(store, tool):
    tool(GOOD)
    first = bootstrap(store, BootstrapSpec("debian:bookworm"), created=CREATED)
    later = "2027-01-01T00:00:00Z"
    second = bootstrap(store, BootstrapSpec("debian:bookworm"), created=later, replace=True)
    assert second.image.image_id != first.image.image_id
    assert store.resolve("debian:bookworm") == second.image


def test_its_phases_are_told(store, tool):
    tool(GOOD)
    labels = []

    class Listener(Silent):
        def start(self, label, total):
            labels.append(label)

    bootstrap(store, BootstrapSpec("debian:12"), created=CREATED, progress=Listener())
    assert "mmdebstrap: downloading" in labels


@pytest.mark.parametrize(
    "output", ["b''", repr(rootfs_tar()[:700]), repr(rootfs_tar())], ids=["none", "part", "whole"]
)
def test_its_failure_is_the_error_whatever_it_wrote(store, tool, output):
    tool(
        f"sys.stdout.buffer.write({output}); sys.stdout.flush()\n"
        "for number in range(30): sys.stderr.write(f'line {number}\\n')\n"
        "sys.stderr.write('E: cannot reach mirror\\n'); sys.exit(25)"
    )
    with pytest.raises(BootstrapFailedError) as caught:
        bootstrap(store, BootstrapSpec("debian:bookworm"), created=CREATED)
    lines = caught.value.message.splitlines()
    assert lines[0] == "mmdebstrap failed with status 25; its last lines:"
    assert lines[-1] == "E: cannot reach mirror"
    assert len(lines) <= 21
    assert store.images() == []


def test_success_with_a_broken_tar_is_the_tars_error(store, tool):
    tool(f"sys.stdout.buffer.write({rootfs_tar()[:700]!r})")
    with pytest.raises(FormatError):
        bootstrap(store, BootstrapSpec("debian:bookworm"), created=CREATED)
    assert store.images() == []


def test_a_missing_tool_says_how_to_get_it(store, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UnsupportedError) as caught:
        bootstrap(store, BootstrapSpec("debian:bookworm"), created=CREATED)
    assert caught.value.hint == "apt-get install mmdebstrap"


def test_interrupted_it_is_stopped(store, tool, tmp_path, monkeypatch):
    done = tmp_path / "done"
    tool(
        "import signal\n"
        f"def end(*_): open({str(done)!r}, 'w').close(); sys.exit(1)\n"
        "signal.signal(signal.SIGTERM, end)\n"
        f"sys.stdout.buffer.write({rootfs_tar()[:512]!r}); sys.stdout.flush()\n"
        "time.sleep(600)"
    )

    def interrupted(_session, stream, **_options):
        stream.read(512)
        raise KeyboardInterrupt

    monkeypatch.setattr("layerstore.image.bootstrap.ingest_tar", interrupted)
    with pytest.raises(KeyboardInterrupt):
        bootstrap(store, BootstrapSpec("debian:bookworm"), created=CREATED)
    assert done.exists()


@pytest.mark.parametrize(
    ("source", "suite"),
    [
        ("debian:bookworm", "bookworm"),
        ("debian:12", "bookworm"),
        ("debian", "stable"),
        ("docker.io/library/debian:trixie", "trixie"),
    ],
)
def test_suites(source, suite):
    assert command_of(BootstrapSpec(source))[-2:] == [suite, "-"]


def test_the_whole_command():
    spec = BootstrapSpec(
        "debian:sid",
        variant="apt",
        include=("ca-certificates", "libc6:i386", "bash=5.2.15-2+b7"),
        mirror="http://mirror.example.org/debian",
        components=("main", "non-free-firmware"),
    )
    command = command_of(spec)
    assert command[0] == "mmdebstrap"
    assert command[-3:] == ["sid", "-", "http://mirror.example.org/debian"]
    assert "--variant=apt" in command
    assert "--include=ca-certificates,libc6:i386,bash=5.2.15-2+b7" in command
    assert "--components=main,non-free-firmware" in command


def test_a_mirror_may_have_its_own_suites():
    spec = BootstrapSpec("debian:mine", mirror="file:///srv/mirror")
    assert command_of(spec)[-3] == "mine"


@pytest.mark.parametrize(
    "spec",
    [
        BootstrapSpec("debian:potato"),
        BootstrapSpec("ubuntu:jammy"),
        BootstrapSpec("quay.io/debian:bookworm"),
        BootstrapSpec("debian:-x", mirror="file:///m"),
        BootstrapSpec("debian:bookworm", variant="custom --include=x"),
        BootstrapSpec("debian:bookworm", include=("--hook",)),
        BootstrapSpec("debian:bookworm", include=("a;b",)),
        BootstrapSpec("debian:bookworm", include=("a b",)),
        BootstrapSpec("debian:bookworm", components=("-x",)),
        BootstrapSpec("debian:bookworm", mirror="--setup-hook=id"),
        BootstrapSpec("debian:bookworm", mirror="deb http://x ./"),
        BootstrapSpec("debian:bookworm", mirror="http://x\n"),
    ],
)
def test_words_that_could_be_options_are_refused(spec):
    with pytest.raises(InputError):
        command_of(spec)


def test_it_has_a_process_group_of_its_own(store, tool):
    # mmdebstrap hangs up its group when it is stopped: that must not be ours, or make's.
    tool(f"assert os.getpgrp() != {os.getpgrp()}\n{GOOD}")
    bootstrap(store, BootstrapSpec("debian:bookworm"), created=CREATED)


@pytest.mark.skipif(shutil.which("setpriv") is None, reason="setpriv is not installed")
def test_killed_the_tool_is_told_to_stop(tool, tmp_path):
    stopped, started = tmp_path / "stopped", tmp_path / "started"
    tool(
        "import signal\n"
        f"def end(*_): open({str(stopped)!r}, 'w').close(); sys.exit(1)\n"
        "signal.signal(signal.SIGTERM, end)\n"
        f"open({str(started)!r}, 'w').close()\n"
        "time.sleep(600)"
    )
    cli = Cli(tmp_path / "store")
    path = f"{tmp_path / 'bin'}:{os.defpath}:/usr/sbin:/sbin"
    process = subprocess.Popen(
        cli.command("bootstrap", "debian:bookworm"),
        env=cli.environment({"PATH": path}),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    with process:
        wait_for(started)
        process.kill()
    wait_for(stopped)


def wait_for(path):
    deadline = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
