"""What people read when something goes wrong, word for word."""

import os
from pathlib import Path

import pytest

from tests.support.cli import Cli

SMALL_TAR = b"".join([b"\0" * 1024])


@pytest.fixture
def cli(tmp_path):
    return Cli(tmp_path / "store")


def golden(cli: Cli, text: str) -> str:
    """Return a message with this test's paths taken out."""
    return text.replace(str(cli.store), "STORE").replace(str(cli.store.parent), "TMP")


CASES = {
    "no store": (
        ["images"],
        3,
        (
            "layerstore: error: no store at STORE\n"
            "hint: 'layerstore bootstrap', 'import' or 'build' makes one; "
            "--store chooses another place\n"
        ),
    ),
    "no store for typer": (
        ["history", "x:1"],
        3,
        (
            "layerstore: error: no store at STORE\n"
            "hint: 'layerstore bootstrap', 'import' or 'build' makes one; "
            "--store chooses another place\n"
        ),
    ),
    "unknown command": (
        ["frobnicate"],
        2,
        (
            "layerstore: error: no such command 'frobnicate'\n"
            "hint: 'layerstore --help' lists what it takes\n"
        ),
    ),
    "missing argument": (
        ["tag", "x:1"],
        2,
        (
            "layerstore: error: missing argument 'NAME'\n"
            "hint: 'layerstore tag --help' lists what it takes\n"
        ),
    ),
    "missing argument of a fast command": (
        ["mount", "x:1"],
        2,
        (
            "layerstore: error: the following arguments are required: DIR\n"
            "hint: 'layerstore mount --help' lists what it takes\n"
        ),
    ),
    "unknown option": (
        ["images", "--frob"],
        2,
        (
            "layerstore: error: unrecognized arguments: --frob\n"
            "hint: 'layerstore images --help' lists what it takes\n"
        ),
    ),
    "bad name": (
        ["import", "-", "-t", "Not/OK"],
        2,
        (
            "layerstore: error: 'Not/OK' is not an image name: 'OK' has upper-case letters\n"
            "hint: write [host/]path[:tag], for example debian:bookworm or quay.io/team/app:1\n"
        ),
    ),
    "missing file": (
        ["import", "/nonexistent.tar"],
        3,
        "layerstore: error: /nonexistent.tar does not exist\nhint: name a tar, a directory, or -\n",
    ),
    "not a tar": (
        ["import", "-", "-t", "x:1"],
        10,
        None,
    ),
    "bad suite": (
        ["bootstrap", "debian:potato"],
        2,
        (
            "layerstore: error: 'potato' is not a Debian suite\n"
            "hint: one of 11, 12, 13, 14, bookworm, bullseye, forky, latest, oldoldstable, "
            "oldstable, sid, stable, testing, trixie, unstable; with --mirror any name passes\n"
        ),
    ),
    "not Debian": (
        ["bootstrap", "fedora:40"],
        2,
        (
            "layerstore: error: cannot bootstrap 'fedora:40': only debian is made from packages\n"
            "hint: layerstore bootstrap debian:bookworm\n"
        ),
    ),
    "no context": (
        ["build", "/nonexistent"],
        2,
        (
            "layerstore: error: the build context /nonexistent does not exist\n"
            "hint: a directory, a git or HTTP URL, or - for a tar on stdin\n"
        ),
    ),
    "bad secret": (
        ["build", ".", "--secret", "src=x"],
        2,
        (
            "layerstore: error: 'src=x' is not a secret\n"
            "hint: --secret id=ID,src=FILE or --secret id=ID,env=NAME\n"
        ),
    ),
}


@pytest.mark.parametrize("name", sorted(CASES))
def test_words(cli, name):
    arguments, code, text = CASES[name]
    said = golden(cli, cli.fails(code, *arguments, stdin=b"not a tar" * 100))
    if text is not None:
        assert said == text


def test_readers_make_no_store(cli):
    for arguments in (["images"], ["mounts"], ["gc"], ["check"], ["df"], ["rm", "x:1"]):
        cli.fails(3, *arguments)
    assert not cli.store.exists()


def test_missing_image(cli):
    cli.ok("import", "-", "-t", "x:1", stdin=SMALL_TAR)
    for arguments in (["inspect"], ["export"], ["tag"], ["rm"], ["mount"]):
        extra = ["y:2"] if arguments == ["tag"] else ["/"] if arguments == ["mount"] else []
        assert cli.fails(3, *arguments, "y:1", *extra) == (
            "layerstore: error: no image 'y:1' in the store\n"
            "hint: 'layerstore images' lists what there is\n"
        )


def test_missing_base(cli, tmp_path):
    (tmp_path / "Dockerfile").write_text("FROM base:1\n")
    said = golden(cli, cli.fails(2, "build", "--pull=never", tmp_path))
    assert said.startswith(
        "layerstore: error: TMP/Dockerfile:1:1: there is no image 'base:1' in the store\n"
        "  FROM base:1\n"
        "  ^\n"
        "hint: "
    )


def test_bad_dockerfile_points_at_the_place(cli, tmp_path):
    (tmp_path / "Dockerfile").write_text("FROM scratch\nCOPY --frob a b\n")
    said = golden(cli, cli.fails(2, "build", tmp_path)).splitlines()
    assert said[0].startswith("layerstore: error: TMP/Dockerfile:2:6: ")
    assert said[1:3] == ["  COPY --frob a b", "       ^"]


def test_store_of_a_newer_format(cli):
    cli.ok("import", "-", "-t", "x:1", stdin=SMALL_TAR)
    config = cli.store / "config.toml"
    config.write_text(config.read_text().replace("format = 2", "format = 99"))
    for arguments in (["images"], ["inspect", "x:1"], ["mounts"], ["gc"]):
        assert cli.fails(10, *arguments) == (
            "layerstore: error: the store has format 99, this layerstore knows up to 2\n"
            "hint: use the newer layerstore that made this store\n"
        )


def test_damaged_catalog_and_its_remedy(cli):
    cli.ok("import", "-", "-t", "x:1", stdin=SMALL_TAR)
    for name in ("catalog.sqlite", "catalog.sqlite-wal", "catalog.sqlite-shm"):
        (cli.store / name).unlink(missing_ok=True)
    said = golden(cli, cli.fails(10, "images"))
    assert said == (
        "layerstore: error: STORE/catalog.sqlite is missing\n"
        "hint: nothing is lost: run 'layerstore check --rebuild-index' to make it again "
        "from the packs\n"
    )
    cli.ok("check", "--rebuild-index")
    assert cli.ok("images", "--json").json()[0]["names"] == ["x:1"]


def test_directory_that_is_no_store(cli):
    cli.store.mkdir()
    (cli.store / "precious").touch()
    said = golden(cli, cli.fails(4, "import", "-", stdin=SMALL_TAR))
    assert said == (
        "layerstore: error: STORE is not empty and not a store: it holds 'precious'\n"
        "hint: choose an empty or new directory with --store\n"
    )


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_full_disk(cli):
    cli.ok("import", "-", "-t", "x:1", stdin=SMALL_TAR)
    said = cli.fails(12, "export", "x:1", "-o", "/dev/full")
    assert said == (
        "layerstore: error: /dev/full: No space left on device\n"
        "hint: free some space and run it again; what was stored before is unharmed\n"
    )


def test_missing_mmdebstrap(cli, tmp_path):
    python = os.path.dirname(cli.command()[0])
    (tmp_path / "empty").mkdir()
    said = cli.fails(15, "bootstrap", "debian:bookworm", PATH=f"{python}:{tmp_path}/empty")
    assert said == (
        "layerstore: error: mmdebstrap is not installed\nhint: apt-get install mmdebstrap\n"
    )
