# ruff: noqa: F811 -- pytest fixtures are parameters of the same name
"""What goes wrong for users, one case each, through the real command line.

Every case says the exit code of docs/reference/errors.md, a message and a remedy, shows
no traceback, and leaves a store that checks clean and does the same thing right when the
cause is gone. Cases that need a Debian mirror or another user live elsewhere.
What the host does to a command is in test_cli_error_matrix_host.py.

Capabilities: fuse and root (views), runc (RUN steps).
"""

from __future__ import annotations

import os
import tarfile
from typing import TYPE_CHECKING

import pytest

from layerstore.store.config import FORMAT_VERSION
from layerstore.store.store import Store
from tests.support.build import add_base
from tests.support.error_matrix import (  # noqa: F401 -- fixtures
    assert_sound,
    assert_told,
    build,
    cli,
    context,
    make_tree,
    needs_fuse,
    needs_root,
    rootfs,
    runs,
    web,
)

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.cli import Cli

EXPORTED = ["etc/motd", "bin/program"]


# -- Dockerfiles


@pytest.mark.parametrize(
    ("text", "place", "message", "hint"),
    [
        ("FROM absent:1\n", "1:1", "there is no image 'absent:1'", "get it first: layerstore"),
        ("FROM scratch\nFETCH a b\n", "2:1", "unknown instruction FETCH", ""),
        ("FROM scratch\nCOPPY a b\n", "2:1", "unknown instruction COPPY", "did you mean COPY?"),
        ("FROM scratch\nCOPY --chwon=1 file /\n", "2:6", "--chwon", "--chown"),
        ("FROM scratch\nCOPY file\n", "2:6", "COPY needs at least one source", "COPY SOURCE"),
        ("FROM scratch\nENV\n", "2:4", "ENV needs at least one pair", "ENV NAME=VALUE"),
        ("FROM scratch\nENV A\n", "2:5", "ENV A has no value", "ENV A=VALUE"),
        ("FROM scratch\nEXPOSE banana\n", "2:8", "'banana' is not a port", "write a port"),
        ("FROM scratch\nSHELL /bin/sh -c\n", "2:7", "SHELL takes a JSON array", "SHELL ["),
        ('FROM scratch\nSHELL ["/bin/sh", -c]\n', "2:7", "SHELL takes a JSON array", "SHELL ["),
        ("COPY file /\n", "1:1", "FROM", ""),
        ("FROM scratch AS a\nCOPY --from=b x /\nFROM scratch AS b\nFROM a\n", "2:", "'b'", ""),
        ("FROM scratch\nRUN <<EOF\ntrue\n", "2:1", "the heredoc 'EOF' does not end", "end it"),
        ("FROM scratch\nCOPY ${X file /\n", "2:6", "missing '}'", ""),
        ("FROM scratch\nADD ftp://example.test/x /\n", "2:1", "cannot fetch ftp:", "http, https"),
        ("FROM scratch\nRUN --security=insecure id\n", "2:5", "is not allowed", "--allow security"),
        ("", "1:1", "the file has no instructions", "begin with FROM"),
    ],
)  # fmt: skip
def test_bad_dockerfiles_say_where(
    cli: Cli, context: Path, text: str, place: str, message: str, hint: str
) -> None:
    result = build(cli, context, text)
    assert result.code == 2, result
    assert "Traceback" not in result.err
    assert result.err.startswith(f"layerstore: error: {context}/Dockerfile:{place}"), result.err
    assert message in result.err
    if hint:
        assert f"hint: {hint}" in result.err or hint in result.err.partition("hint: ")[2]
    assert result.out == ""
    assert_sound(cli)


def test_the_line_at_fault_is_shown(cli: Cli, context: Path) -> None:
    err = build(cli, context, "FROM scratch\nCOPY --chwon=1 file /\n").err
    assert "  COPY --chwon=1 file /" in err
    assert err.splitlines()[2].lstrip(" |").startswith("^")


@pytest.mark.parametrize(
    ("instruction", "message"),
    [
        ("COPY absent /", "absent does not exist in the build context"),
        ("COPY file /a /b/", "/a does not exist"),
        ("COPY hidden /", "hidden does not exist in the build context"),
        ("COPY ../file /", "file"),
    ],
)
def test_a_missing_file_is_named(cli: Cli, context: Path, instruction: str, message: str) -> None:
    (context / "hidden").touch()
    (context / ".dockerignore").write_text("hidden\n")
    text = f"FROM scratch\nCOPY .dockerignore /ignored\n{instruction}\n"
    result = build(cli, context, text)
    if instruction == "COPY ../file /":  # as docker: ".." ends at the context's root
        assert result.code == 0
        return
    assert result.code == 14
    assert f"{context}/Dockerfile:3:" in result.err
    assert_told(result.err, message, "see whether .dockerignore leaves it out")
    assert_sound(cli)


def test_a_file_missing_from_a_stage_is_named(cli: Cli, context: Path) -> None:
    text = "FROM scratch AS one\nCOPY file /f\nFROM scratch\nCOPY --from=one /absent /\n"
    result = build(cli, context, text)
    assert result.code == 14
    assert "/absent does not exist in the stage or image it is copied from" in result.err
    assert_sound(cli)


@runs
def test_a_failing_command_shows_its_output_and_status(cli: Cli, context: Path) -> None:
    with Store.open(cli.store, create=True) as store:
        add_base(store)
    result = build(cli, context, "FROM box\nRUN echo kept > /kept\nRUN echo oh no >&2; exit 42\n")
    assert result.code == 14
    assert "Traceback" not in result.err
    assert "exit status 42" in result.err
    assert "oh no" in result.err
    assert f"{context}/Dockerfile:3:1: " in result.err
    assert_sound(cli, "box:latest")
    fixed = build(cli, context, "FROM box\nRUN echo kept > /kept\nRUN echo fixed\n")
    assert fixed.code == 0
    assert "1 of 2 steps from the cache" in fixed.err


@runs
def test_a_command_that_does_not_exist_is_a_failed_step(cli: Cli, context: Path) -> None:
    with Store.open(cli.store, create=True) as store:
        add_base(store)
    result = build(cli, context, "FROM box\nRUN no-such-program\n")
    assert result.code == 14
    assert "exit status 127" in result.err
    assert "not found" in result.err
    assert_sound(cli, "box:latest")


# -- damage


def flip_content(cli: Cli) -> Path:
    """Flip one bit of the content of the image imported last; return its pack."""
    packs = sorted((cli.store / "packs").rglob("*.pack"), key=lambda path: path.stat().st_mtime_ns)
    data = bytearray(packs[-1].read_bytes())
    data[len(data) // 3] ^= 1
    packs[-1].write_bytes(data)
    return packs[-1]


def test_a_damaged_pack_harms_its_images_alone(web: Cli, tmp_path: Path) -> None:
    other = make_tree(tmp_path / "other", 250_000)
    bad = web.ok("import", other, "-t", "bad:1").out.strip()
    pack = flip_content(web)
    target = tmp_path / "out.tar"
    err = web.fails(10, "export", "bad:1", "-o", target)
    assert_told(err, f"pack {pack.stem[:16]}", "run 'layerstore check --read-data'")
    assert not target.exists()
    err = web.fails(10, "save", "bad:1", "-o", tmp_path / "layout")
    assert f"pack {pack.stem[:16]}" in err

    web.ok("check")  # structure only: the bytes were not read
    checked = web("check", "--read-data")
    assert checked.code == 10
    assert "Traceback" not in checked.err
    assert pack.stem in checked.out
    assert f"harms image {bad[7:19]}" in checked.out
    assert "web" not in checked.out
    web.ok("export", "web:1", "-o", target)
    with tarfile.open(target) as archive:
        assert set(EXPORTED) <= set(archive.getnames())

    web("check", "--repair")
    web.ok("import", other, "-t", "bad:1")
    assert_sound(web, "bad:1", "web:1")
    web.ok("export", "bad:1", "-o", target)


@needs_fuse
def test_a_damaged_pack_seen_through_a_view(web: Cli, tmp_path: Path) -> None:
    web.ok("import", make_tree(tmp_path / "other", 250_000), "-t", "bad:1")
    flip_content(web)
    views = [tmp_path / "view-bad", tmp_path / "view-good"]
    try:
        for view, image in zip(views, ("bad:1", "web:1"), strict=True):
            view.mkdir()
            web.ok("mount", image, view)
        with pytest.raises(OSError, match="Input/output error"):
            (views[0] / "bin" / "program").read_bytes()
        good = (views[1] / "bin" / "program").read_bytes()
        assert good == (tmp_path / "rootfs" / "bin" / "program").read_bytes()
    finally:
        web("umount", *views)


@needs_fuse
def test_an_image_whose_tree_is_damaged_is_not_mounted(web: Cli, tmp_path: Path) -> None:
    for pack in (web.store / "packs").rglob("*.pack"):
        data = bytearray(pack.read_bytes())
        for position in range(64, len(data), 50):
            data[position] ^= 0xFF
        pack.write_bytes(data)
    view = tmp_path / "view"
    view.mkdir()
    result = web("mount", "web:1", view)
    assert result.code in {10, 15}, result
    assert "Traceback" not in result.err
    assert "check --read-data" in result.err
    assert not os.path.ismount(view)
    assert web.ok("mounts", "-q").out == ""
    assert [name for name in os.listdir(web.store / "views") if name.endswith(".json")] == []


def test_a_store_of_a_newer_format(web: Cli, tmp_path: Path) -> None:
    config = web.store / "config.toml"
    before = config.read_text()
    newer = FORMAT_VERSION + 1
    config.write_text(before.replace(f"format = {FORMAT_VERSION}", f"format = {newer}"))
    for command in (
        ["images"], ["mounts"], ["mount", "web:1", str(tmp_path)], ["check"], ["gc"], ["df"],
        ["inspect", "web:1"], ["import", str(tmp_path / "rootfs")], ["umount", "--all"],
        ["check", "--rebuild-index"], ["export", "web:1"],
    ):  # fmt: skip
        err = web.fails(10, *command)
        assert_told(err, f"has format {newer}, this layerstore knows", "use the newer")
    config.write_text(before)
    assert_sound(web, "web:1")


@pytest.mark.parametrize("how", ["missing", "empty", "garbage", "torn"])
def test_a_catalog_that_is_gone_is_made_again(web: Cli, tmp_path: Path, how: str) -> None:
    catalog = web.store / "catalog.sqlite"
    size = catalog.stat().st_size
    for path in web.store.glob("catalog.sqlite*"):
        path.unlink()
    if how != "missing":
        content = {"empty": b"", "garbage": os.urandom(size), "torn": b"SQLite format 3\0" * 9}
        catalog.write_bytes(content[how])
    (tmp_path / "view").mkdir()
    for command in (
        ["images"], ["inspect", "web:1"], ["check"], ["gc"], ["rm", "web:1"],
        ["mount", "web:1", str(tmp_path / "view")], ["import", str(tmp_path / "rootfs")],
    ):  # fmt: skip
        err = web.fails(10, *command)
        assert_told(err, "catalog", "nothing is lost: run 'layerstore check --rebuild-index'")
    rebuilt = web.ok("check", "--rebuild-index").out
    assert rebuilt.startswith("rebuilt the index: ")
    assert "1 image, 1 name" in rebuilt
    assert_sound(web, "web:1")


def test_a_rebuilt_catalog_that_lacks_images_is_no_success(web: Cli) -> None:
    for path in (web.store / "packs").rglob("*.pack"):
        path.write_bytes(path.read_bytes()[:-1] + b"!")
    err = web.fails(10, "check", "--rebuild-index")
    assert_told(err, "the index was made again, but pack ", "import or build again what is lost")


# -- images that are not there


@pytest.mark.parametrize(
    "command",
    [
        ["inspect", "absent:1"],
        ["history", "absent:1"],
        ["tag", "absent:1", "b:1"],
        ["rm", "absent:1"],
        ["export", "absent:1", "-o", "{tmp}/out"],
        ["save", "absent:1", "-o", "{tmp}/out"],
        ["save", "web:1", "absent:1", "-o", "{tmp}/out"],
        ["mount", "absent:1", "{tmp}"],
        ["mount", "--rw", "absent:1", "{tmp}"],
        ["savings", "absent:1"],
        ["inspect", "sha256:" + "0" * 64],
        ["inspect", "000000000000"],
    ],
    ids=" ".join,
)
def test_an_image_that_is_not_there(web: Cli, tmp_path: Path, command: list[str]) -> None:
    words = [word.format(tmp=tmp_path) for word in command]
    err = web.fails(3, *words)
    assert_told(err, "no image", "'layerstore images' lists what there is")
    assert not (tmp_path / "out").exists()
    assert_sound(web, "web:1")


@pytest.mark.parametrize(
    "command",
    [
        ["images"], ["inspect", "a"], ["history", "a"], ["tag", "a", "b"], ["rm", "a"], ["gc"],
        ["check"], ["check", "--rebuild-index"], ["df"], ["savings"], ["export", "a"],
        ["save", "a", "-o", "x"], ["mount", "a", "."], ["mounts"], ["umount", "--all"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_a_store_that_is_not_there(cli: Cli, command: list[str]) -> None:
    err = cli.fails(3, *command)
    assert_told(err, f"no store at {cli.store}", "")
    assert not cli.store.exists()


@pytest.mark.parametrize("command", [["import", "{tmp}/absent"], ["import", "{tmp}/unreadable"]])
def test_a_source_that_is_not_there(cli: Cli, tmp_path: Path, command: list[str]) -> None:
    (tmp_path / "unreadable").write_text("not a tar\n" * 100)
    result = cli(*[word.format(tmp=tmp_path) for word in command])
    assert result.code in {3, 10}
    assert "Traceback" not in result.err
    if cli.store.exists():
        assert_sound(cli)
