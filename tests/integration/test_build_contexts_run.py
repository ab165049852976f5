"""RUN over files that came from elsewhere: contexts, named contexts, URLs and git."""

from __future__ import annotations

import io
import subprocess
from typing import TYPE_CHECKING

from layerstore.build.api import build
from layerstore.build.contexts import GitContext, ImageContext, StreamContext, UrlContext
from layerstore.build.fetch.git_url import parse_git_source
from layerstore.build.request import BuildRequest
from tests.support.build import RecordingUi, box, builder, needs_runc, tree_of  # noqa: F401
from tests.support.git_server import DIRECT, GitDaemon, Work, needs_git
from tests.support.http_server import serving

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.build import Builder

pytestmark = [*needs_runc, needs_git]


def test_bind_mounts_of_a_tar(box: Builder, tmp_path: Path) -> None:  # noqa: F811
    dockerfile = (
        "FROM box\n"
        "RUN --mount=target=/ctx,rw cat /ctx/a > /seen && echo x > /ctx/a && ls /ctx > /names\n"
        "RUN --mount=source=d,target=/ctx cat /ctx/b >> /seen\n"
    )
    box.write({"Dockerfile": dockerfile, "a": "A", "d/b": "B", ".dockerignore": "Dockerfile\n"})
    packed = subprocess.run(["tar", "-C", box.context, "-cz", "."], capture_output=True, check=True)
    request = BuildRequest(context=StreamContext(io.BytesIO(packed.stdout)))
    files = tree_of(box.store, build(box.store, request, RecordingUi()).image)
    assert files["seen"].content == b"AB"
    assert files["names"].content == b"a\nd\n"


def test_mounts_from_named_contexts(box: Builder, tmp_path: Path) -> None:  # noqa: F811
    other = tmp_path / "other"
    other.mkdir()
    (other / "f").write_text("dir ")
    (other / "hidden").write_text("")
    (other / ".dockerignore").write_text("hidden\n")
    Work(tmp_path / "repos" / "p").commit({"f": "git "})
    dockerfile = (
        "FROM base\n"
        "RUN --mount=from=dir,target=/d --mount=from=repo,target=/g --mount=from=url,target=/u \\\n"
        "    --mount=from=stage,target=/s cat /d/f /g/f /u/context > /out && "
        "ls /d /s/bin/sh > /names\n"
    )
    with GitDaemon(tmp_path / "repos") as daemon, serving() as server:
        text = daemon.url("p")
        source = parse_git_source(text)
        assert source is not None
        result = box.build(
            dockerfile,
            environ=DIRECT,
            named_contexts={
                "base": ImageContext("box"), "stage": ImageContext("box"), "dir": other,
                "repo": GitContext(source, text), "url": UrlContext(server.file("/x", b"url")),
            },
        )  # fmt: skip
    files = box.files(result)
    assert files["out"].content == b"dir git url"
    assert files["names"].content == b"/s/bin/sh\n\n/d:\nf\n"


def test_run_over_a_directory(box: Builder, tmp_path: Path) -> None:  # noqa: F811
    """A root file system from a directory of the host, unpacked from an image's files."""
    root = tmp_path / "root"
    for name in ("bin", "etc"):
        (root / name).mkdir(parents=True)
    files = box.files(box.build("FROM box\n"))
    (root / "bin" / "sh").write_bytes(files["bin/busybox"].content)
    (root / "bin" / "sh").chmod(0o755)
    (root / "etc" / "passwd").write_bytes(files["etc/passwd"].content)
    result = box.build("FROM root\nRUN echo over > /new\n", named_contexts={"root": root})
    made = box.files(result)
    assert made["new"].content == b"over\n"
    assert len(result.image.layers) == 2


def test_files_from_elsewhere_can_be_used(box: Builder, tmp_path: Path) -> None:  # noqa: F811
    Work(tmp_path / "repos" / "p").commit({"run.sh": "echo from git\n"})
    with GitDaemon(tmp_path / "repos") as daemon, serving() as server:
        url = server.file("/tool.sh", b"echo from http\n")
        result = box.build(
            f"FROM box\nADD --chmod=755 {url} {daemon.url('p')} /t/\n"
            "RUN sh /t/tool.sh > /out && sh /t/run.sh >> /out\n",
            environ=DIRECT,
        )
    assert box.files(result)["out"].content == b"from http\nfrom git\n"
