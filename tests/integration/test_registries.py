"""Real registries and other people's clients: what is pushed here runs there, and back."""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
import stat
import subprocess
import tarfile
import threading
from typing import TYPE_CHECKING

import pytest

from tests.support.cli import Cli
from tests.support.layouts import Layout, tar_of
from tests.support.registry_peers import (
    SECRET,
    USER,
    Server,
    docker_registry,
    needs_registry,
    skopeo,
)
from tests.support.registry_stub import stub_registry

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.registry_stub import Stub

pytestmark = needs_registry

needs_skopeo = pytest.mark.skipif(shutil.which("skopeo") is None, reason="no skopeo")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with docker_registry(tmp_path_factory.mktemp("registry")) as made:
        cli = Cli(made.home / "none")
        result = cli(
            "login", "-u", USER, "--password-stdin", made.name,
            stdin=SECRET.encode(), env=made.environment,
        )  # fmt: skip
        assert (result.code, result.out) == (0, "Login Succeeded\n")
        assert "unencrypted" in result.err
        yield made


def imported(cli: Cli, tmp_path: Path, name: str, **files: str) -> None:
    root = tmp_path / "root"
    root.mkdir(exist_ok=True)
    for path, text in files.items():
        (root / path).write_text(text)
    cli.ok("import", root, "-t", name)


def pushed(cli: Cli, server: Server, *words: str) -> str:
    """Push and return the digest."""
    result = cli.ok("push", *words, "--json", **server.environment)
    return json.loads(result.out)[-1]["digest"]


def test_credentials_lie_where_docker_has_them(server: Server) -> None:
    config = server.home / ".docker/config.json"
    assert stat.S_IMODE(config.stat().st_mode) == 0o600
    assert list(json.loads(config.read_text())["auths"]) == [server.name]


def test_without_them_nothing_is_given(server: Server, cli: Cli, tmp_path: Path) -> None:
    imported(cli, tmp_path, f"{server.name}/closed:1", a="a")
    env = {**server.environment, "DOCKER_CONFIG": str(tmp_path / "nobody")}
    for words in (("push", f"{server.name}/closed:1"), ("pull", f"{server.name}/closed:1")):
        error = cli.fails(13, *words, **env)
        assert f"layerstore login {server.name}" in error
    error = cli("login", "-u", USER, "--password-stdin", server.name, stdin=b"wrong", env=env)
    assert error.code == 13
    assert "wrong" not in error.err
    assert not (tmp_path / "nobody").exists()
    assert "Not logged in" in cli.ok("logout", server.name, **env).out


def test_what_is_built_is_pushed(server: Server, cli: Cli, tmp_path: Path) -> None:
    spec = tmp_path / "Dockerfile"
    spec.write_text("FROM scratch\nCOPY Dockerfile /\n")
    one, two = f"{server.name}/built:1", f"{server.name}/built:2"
    metadata = tmp_path / "metadata.json"
    said = cli.ok(
        "build", "--push", "-t", one, "-t", two, "--metadata-file", metadata, tmp_path,
        **server.environment,
    )  # fmt: skip
    digest = json.loads(metadata.read_text())["containerimage.digest"]
    assert f"pushed {one}: {digest}" in said.err
    assert f"pushed {two}: {digest}" in said.err
    other = Cli(tmp_path / "other")
    for name in (one, two):
        assert f"Digest: {digest}" in other.ok("pull", name, **server.environment).lines
    out = other.ok("build", "-q", "-o", "type=registry,name=" + two, tmp_path, **server.environment)
    assert "pushed" not in out.err
    assert "-t REGISTRY/NAME:TAG" in cli.fails(2, "build", "-q", "--push", tmp_path)
    # One that a registry refuses stays in the store, and no file claims that it is there.
    env = {**server.environment, "DOCKER_CONFIG": str(tmp_path / "nobody")}
    refused = cli.fails(
        13, "build", "-q", "--push", "-t", f"{server.name}/mine:1", "--metadata-file", metadata,
        tmp_path, **env,
    )  # fmt: skip
    assert f"{server.name}/mine:1 is built and in the store" in refused
    assert not metadata.exists()
    cli.ok("history", f"{server.name}/mine:1")


def test_platforms_are_pushed_as_an_index(server: Server, cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM scratch\nARG TARGETARCH\nCOPY $TARGETARCH /\n")
    for each in ("amd64", "arm64"):
        (tmp_path / each).write_text(each)
    name = f"{server.name}/several:1"
    cli.ok(
        "build", "--push", "--platform", "linux/amd64,linux/arm64", "-t", name, tmp_path,
        **server.environment,
    )  # fmt: skip
    other = Cli(tmp_path / "other")
    other.ok("pull", "--platform", "linux/arm64", name, **server.environment)
    (inspected,) = json.loads(other.ok("inspect", name).out)
    assert inspected["Architecture"] == "arm64"


def test_a_certificate_of_nobody_we_know(server: Server, cli: Cli, tmp_path: Path) -> None:
    env = {**server.environment, "XDG_CONFIG_HOME": str(tmp_path)}
    error = cli.fails(13, "pull", "--tls-verify=true", f"{server.name}/x", **env)
    assert "is not trusted" in error


def test_there_and_back(server: Server, cli: Cli, tmp_path: Path) -> None:
    name = f"{server.name}/team/app"
    imported(cli, tmp_path, f"{name}:1", a="one", b="two" * 1000)
    first = pushed(cli, server, f"{name}:1")
    other = Cli(tmp_path / "other")
    said = other.ok("pull", f"{name}:1", **server.environment)
    assert said.lines == [
        f"1: Pulling from {name}",
        f"Digest: {first}",
        f"Status: Downloaded newer image for {name}:1",
        f"{name}:1",
    ]
    again = other.ok("pull", f"{name}:1", **server.environment)
    assert f"Status: Image is up to date for {name}:1" in again.lines
    assert other.ok("pull", "-q", f"{name}@{first}", **server.environment).lines == [
        f"{name}@{first}"
    ]
    (inspected,) = json.loads(other.ok("inspect", f"{name}:1").out)
    assert inspected["RepoDigests"] == [f"{name}@{first}"]
    assert inspected["Id"] == json.loads(cli.ok("inspect", f"{name}:1").out)[0]["Id"]
    assert pushed(other, server, f"{name}:1", f"{server.name}/back:1") == first
    assert pushed(cli, server, f"{name}:1") == first
    other.ok("check", "--read-data")
    cli.ok("check", "--read-data")


def test_what_is_there_is_not_sent(server: Server, cli: Cli, tmp_path: Path) -> None:
    name = f"{server.name}/mounted/a"
    imported(cli, tmp_path, f"{name}:1", a="mounted" * 1000)
    pushed(cli, server, f"{name}:1")
    before = len(server.requests("PUT")), len(server.requests("PATCH"))
    pushed(cli, server, f"{name}:1")
    pushed(cli, server, f"{name}:1", f"{server.name}/mounted/b:1")
    after = len(server.requests("PUT")), len(server.requests("PATCH"))
    assert after == (before[0] + 2, before[1])  # the two manifests
    assert any("mount=sha256" in path for path in server.requests("POST"))


def test_layers_that_the_store_has_are_not_fetched(
    server: Server, cli: Cli, tmp_path: Path
) -> None:
    name = f"{server.name}/versions"
    imported(cli, tmp_path, f"{name}:1", a="base" * 1000)
    (tmp_path / "Dockerfile").write_text(f"FROM {name}:1\nCOPY Dockerfile /added\n")
    cli.ok("build", "-q", "-t", f"{name}:2", tmp_path)
    pushed(cli, server, f"{name}:1")
    pushed(cli, server, f"{name}:2")
    other = Cli(tmp_path / "other")
    other.ok("pull", "-q", f"{name}:1", **server.environment)
    before = len(server.requests("GET"))
    other.ok("pull", "-q", f"{name}:2", **server.environment)
    asked = [path for path in server.requests("GET")[before:] if "blobs" in path]
    assert len(asked) == 2  # the config and the one new layer


def test_what_refers_to_an_image_is_listed_and_copied(
    server: Server, cli: Cli, tmp_path: Path
) -> None:
    env = {**server.environment, "COSIGN_PASSWORD": ""}
    name, copy = f"{server.name}/referred/a", f"{server.name}/referred/b"
    imported(cli, tmp_path, f"{name}:1", a="referred" * 1000)
    subject = pushed(cli, server, f"{name}:1", "--delta")
    (one,) = (found := json.loads(cli.ok("referrers", f"{name}:1", "--json", **env).out))[
        "referrers"
    ]
    assert found["subject"] == subject
    table = cli.ok("referrers", f"{name}:1", **env).lines
    assert table[0].split() == ["DIGEST", "TYPE", "SIZE"]
    assert table[1].split()[:2] == [one["digest"], one["artifact_type"]]
    other = ("referrers", f"{name}:1", "--artifact-type", "application/other", "--json")
    assert json.loads(cli.ok(*other, **env).out)["referrers"] == []

    cli.ok("generate-key-pair", "--output-key-prefix", tmp_path / "key", **env)
    cli.ok("sign", "--key", tmp_path / "key.key", f"{name}:1", **env)
    cli.ok("copy", f"{name}:1", f"{copy}:bare", **env)
    bare = json.loads(cli.ok("referrers", f"{copy}:bare", "--json", **env).out)
    assert bare == {"subject": subject, "referrers": []}
    copied = json.loads(
        cli.ok("copy", "--referrers", f"{name}:1", f"{copy}:1", "--json", **env).out
    )
    assert len(copied["referrers"]) == 2  # the parcels, and the signature by its tag
    (there,) = json.loads(cli.ok("referrers", f"{copy}:1", "--json", **env).out)["referrers"]
    assert there == one
    layout = tmp_path / "layout"
    cli.ok("copy", "--referrers", f"{name}:1", f"oci:{layout}:1", **env)
    listed = json.loads((layout / "index.json").read_text())["manifests"]
    assert {one["digest"], subject} < {each["digest"] for each in listed}
    assert "only a registry" in cli.fails(2, "copy", "--referrers", f"oci:{layout}:1", f"{copy}:2")


def test_digest_files_all_tags_and_quiet(server: Server, cli: Cli, tmp_path: Path) -> None:
    name = f"{server.name}/many"
    imported(cli, tmp_path, f"{name}:1", a="1")
    cli.ok("tag", f"{name}:1", f"{name}:2")
    out = cli.ok("push", "-q", "-a", name, "--digestfile", tmp_path / "d", **server.environment)
    assert out.lines == [f"{name}:1", f"{name}:2"]
    other = Cli(tmp_path / "other")
    rows = json.loads(other.ok("pull", "-a", name, "--json", **server.environment).out)
    assert {row["name"] for row in rows} == {f"{name}:1", f"{name}:2"}
    assert rows[-1]["digest"] == (tmp_path / "d").read_text()
    assert "tag can't be used" in other.fails(2, "pull", "-a", f"{name}:1")


@pytest.mark.parametrize("compression", ["gzip", "zstd", "none"])
def test_compressions(server: Server, cli: Cli, tmp_path: Path, compression: str) -> None:
    name = f"{server.name}/compressed/{compression}"
    imported(cli, tmp_path, f"{name}:1", a="x" * 100_000)
    digest = pushed(cli, server, f"{name}:1", "--compression", compression)
    other = Cli(tmp_path / "other")
    (row,) = json.loads(other.ok("pull", f"{name}:1", "--json", **server.environment).out)
    assert row["digest"] == digest
    assert row["kept_bytes"] == 0
    assert pushed(other, server, f"{name}:1", f"{name}:again") == digest
    assert pushed(cli, server, f"{name}:1", "--compression", compression) == digest


def test_one_that_cannot_be_pulled_stops_no_other(server: Server, cli: Cli, tmp_path: Path) -> None:
    names = [f"{server.name}/several:{number}" for number in (1, 2)]
    for name in names:
        imported(cli, tmp_path, name, a=name)
        pushed(cli, server, name)
    other = Cli(tmp_path / "other")
    absent = f"{server.name}/absent:1"
    done = other("pull", "-q", names[0], absent, names[1], env=server.environment)
    assert (done.code, done.out.splitlines()) == (13, names)
    assert "MANIFEST_UNKNOWN" in done.err
    # Of one alone nothing is printed that a program would read.
    assert other("pull", "--json", absent, env=server.environment).out == ""


def test_what_is_not_there(server: Server, cli: Cli) -> None:
    error = cli.fails(13, "pull", f"{server.name}/absent:1", **server.environment)
    assert "MANIFEST_UNKNOWN" in error
    assert cli.fails(2, "pull", "A b").startswith("layerstore: error: ")
    assert "not a compression" in cli.fails(2, "push", "x", "--compression", "lzma")


@needs_skopeo
def test_with_skopeo_there_and_back(server: Server, cli: Cli, tmp_path: Path) -> None:
    skopeo(server, "login", "-u", USER, "-p", SECRET, server.name)
    name = f"{server.name}/skopeo"
    imported(cli, tmp_path, f"{name}:1", a="for skopeo")
    digest = pushed(cli, server, f"{name}:1")
    raw = skopeo(server, "inspect", "--raw", f"docker://{name}:1")
    assert f"sha256:{hashlib.sha256(raw.encode()).hexdigest()}" == digest
    skopeo(server, "copy", f"docker://{name}:1", f"oci:{tmp_path}/layout:1")
    # Docker's format, with digests of its own, and back under the same ones.
    skopeo(server, "copy", "--format", "v2s2", f"oci:{tmp_path}/layout:1", f"docker://{name}:v2s2")
    raw = skopeo(server, "inspect", "--raw", f"docker://{name}:v2s2")
    assert "vnd.docker.distribution.manifest.v2" in raw
    other = Cli(tmp_path / "other")
    other.ok("pull", "-q", f"{name}:v2s2", **server.environment)
    assert pushed(other, server, f"{name}:v2s2", f"{name}:back") == (
        f"sha256:{hashlib.sha256(raw.encode()).hexdigest()}"
    )
    ids = [json.loads(c.ok("inspect", f"{name}:{t}").out)[0]["Id"]
           for c, t in ((cli, "1"), (other, "v2s2"))]  # fmt: skip
    assert ids[0] == ids[1]
    # skopeo has no look at the store; neither has our copy.
    cli.ok("copy", f"{name}:v2s2", f"{server.name}/copied:1", **server.environment)
    assert skopeo(server, "inspect", "--raw", f"docker://{server.name}/copied:1") == raw
    cli.ok("copy", f"oci:{tmp_path}/layout:1", f"{server.name}/copied:2", **server.environment)
    copied = skopeo(server, "inspect", "--raw", f"docker://{server.name}/copied:2")
    assert f"sha256:{hashlib.sha256(copied.encode()).hexdigest()}" == digest
    # By an archive and a layout of ours, which skopeo reads, back to where it came from.
    archive = tmp_path / "image.tar"
    cli.ok("copy", f"{name}:1", f"oci-archive:{archive}:x", **server.environment)
    skopeo(server, "copy", f"oci-archive:{archive}:x", f"oci:{tmp_path}/by-skopeo:x")
    cli.ok("copy", f"oci-archive:{archive}:x", f"oci:{tmp_path}/ours:y", **server.environment)
    cli.ok("copy", f"oci:{tmp_path}/ours:y", f"{server.name}/copied:3", **server.environment)
    assert skopeo(server, "inspect", "--raw", f"docker://{server.name}/copied:3") == copied
    assert cli.fails(2, "copy", f"{name}:1", "dir:/x").count("not copied")


def test_indexes_of_several_platforms(server: Server, cli: Cli, tmp_path: Path) -> None:
    name = f"{server.name}/platforms"
    layout = Layout(tmp_path / "layout")
    amd = layout.image([tar_of({"amd": b"amd"})], "go")  # a compression that nothing makes again
    arm = layout.image([tar_of({"arm": b"arm"})], architecture="arm64")
    index = layout.index(amd, arm, layout.attestation(amd))
    place = layout.finish(("1", index))
    cli.ok("copy", "-a", f"oci:{place}:1", f"{name}:1", **server.environment)
    (row,) = json.loads(cli.ok("pull", f"{name}:1", "--json", **server.environment).out)
    assert row["digest"] == index["digest"]
    (foreign,) = json.loads(
        cli.ok("pull", f"{name}:1", "--platform", "linux/arm64", "--json", **server.environment).out
    )
    assert foreign["digest"] == index["digest"]
    assert foreign["image_id"] != row["image_id"]
    assert foreign["is_new"]
    other = Cli(tmp_path / "other")
    other.ok("pull", "-q", "--all-platforms", f"{name}:1", **server.environment)
    assert pushed(other, server, f"{name}:1", f"{name}:whole") == index["digest"]
    assert "no image for this platform" in other.fails(
        3, "pull", "--platform", "linux/s390x", f"{name}:1", **server.environment
    )


def test_secrets_are_on_no_command_line_and_in_no_log(server: Server, cli: Cli) -> None:
    error = cli(
        "pull", f"{server.name}/absent", env={**server.environment, "LAYERSTORE_DEBUG": "1"}
    )
    assert SECRET not in error.err + error.out
    assert "dXNlcjpz" not in error.err


@pytest.mark.root
def test_builds_begin_with_images_of_the_registry(server: Server, cli: Cli, tmp_path: Path) -> None:
    """Those that the store lacks are pulled; ``--pull`` asks in any case; a digest pins."""
    name = f"{server.name}/bases"
    imported(cli, tmp_path, f"{name}:1", a="first")
    first = pushed(cli, server, f"{name}:1")
    imported(cli, tmp_path, f"{name}:1", a="second")
    second = pushed(cli, server, f"{name}:1")
    context = tmp_path / "context"
    context.mkdir()

    def built(base: str, *options: str) -> str:
        (context / "Dockerfile").write_text(f"FROM {base}\nLABEL a=b\n")
        other.ok("build", "-q", "-t", "out", *options, context, **server.environment)
        return content_of(other, tmp_path)

    def content_of(where: Cli, place: Path) -> str:
        tar = place / "out.tar"
        where.ok("export", "out", "-o", tar)
        with tarfile.open(tar) as archive:
            return archive.extractfile("a").read().decode()

    other = Cli(tmp_path / "other")
    assert built(f"{name}@{first}") == "first"
    assert built(f"{name}:1") == "second"
    imported(cli, tmp_path, f"{name}:1", a="third")
    pushed(cli, server, f"{name}:1")
    assert built(f"{name}:1") == "second"
    assert built(f"{name}:1", "--pull") == "third"
    assert built(f"{name}@{second}") == "second"
    (context / "Dockerfile").write_text(f"FROM {server.name}/absent\n")
    refused = other("build", context, env=server.environment)
    assert refused.code == 2
    assert "Dockerfile:1:1: there is no image" in refused.err
    assert "cannot be pulled" in refused.err
    (context / "Dockerfile").write_text(f"FROM {name}:1\n")
    empty = Cli(tmp_path / "empty")
    error = empty.fails(2, "build", "--pull=never", context, **server.environment)
    assert "cannot be pulled" not in error


@pytest.mark.root
def test_a_locked_base_comes_by_its_digest(server: Server, cli: Cli, tmp_path: Path) -> None:
    """The tag has moved on, and the store that builds has neither."""
    name = f"{server.name}/locked"
    imported(cli, tmp_path, f"{name}:1", file="as it was locked")
    digest = pushed(cli, server, f"{name}:1")
    context = tmp_path / "context"
    context.mkdir()
    (context / "layerstore.toml").write_text(f'base = "{name}:1"\n')
    cli.ok("lock", context, **server.environment)
    lock = json.loads((context / "layerstore.lock").read_text())
    assert lock["bases"][0]["digest"] == digest
    imported(cli, tmp_path, f"{name}:1", file="as the tag is now")
    assert pushed(cli, server, f"{name}:1") != digest
    for number, store in enumerate([cli, Cli(tmp_path / "fresh")]):
        store.ok("build", "--locked", "-t", "x", context, **server.environment)
        store.ok("export", "x", "-o", tmp_path / f"{number}.tar")
        with tarfile.open(tmp_path / f"{number}.tar") as archive:
            file = archive.extractfile("file")
            assert file is not None
            assert file.read() == b"as it was locked"


def test_build_caches_lie_in_registries(server: Server, cli: Cli, tmp_path: Path) -> None:
    context = tmp_path / "context"
    context.mkdir()
    (context / "Dockerfile").write_text("FROM scratch\nCOPY Dockerfile /a\nCOPY Dockerfile /b\n")
    cache = f"type=registry,ref={server.name}/caches/app:main"
    first = cli.ok(
        "build", "-t", "x", "--cache-to", f"{cache},mode=max", context, **server.environment
    )
    before = len(server.requests("PUT"))
    cli.ok("build", "-t", "x", "--cache-to", cache, context, **server.environment)
    assert len(server.requests("PUT")) == before + 2  # config and manifest: the layers are there
    other = Cli(tmp_path / "other")
    second = other.ok("build", "-t", "x", "--cache-from", cache, context, **server.environment)
    assert "2 of 2 steps from the cache" in second.out + second.err
    assert first.lines[-1].partition(":")[0] == second.lines[-1].partition(":")[0]
    ids = [json.loads(each.ok("inspect", "x").out)[0]["Id"] for each in (cli, other)]
    assert ids[0] == ids[1]
    absent = f"type=registry,ref={server.name}/caches/absent"
    told = Cli(tmp_path / "third")("build", "--cache-from", absent, context, env=server.environment)
    assert told.code == 0
    assert f"the build cache {server.name}/caches/absent:latest is not used" in told.err


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_pull_waits_for_no_silent_server(
    cli: Cli, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    layout = Layout(tmp_path / "layout")
    layers = [tar_of({"a": b"a"}), tar_of({"b": b"b" * 100_000})]
    manifest = layout.image(layers)
    with stub_registry() as stub:
        for blob in layout.blobs.iterdir():
            stub.put_blob("a", blob.read_bytes())
        raw = (layout.blobs / manifest["digest"].partition(":")[2]).read_bytes()
        stub.put_manifest("a", raw, "1")
        (last,) = json.loads(raw)["layers"][1:]
        silent = threading.Event()

        def say_nothing(handler: Stub) -> None:
            handler.send_response(200)
            handler.send_header("Content-Length", str(last["size"]))
            handler.end_headers()
            silent.set()
            handler.rfile.read(1)  # until the client has gone

        stub.break_(last["digest"], say_nothing, times=99)
        process = subprocess.Popen(
            cli.command("pull", f"{stub.name}/a:1"), env=cli.interrupted_environment(),
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        assert silent.wait(60)
        process.send_signal(number)
        _, error = process.communicate(timeout=60)
        assert process.returncode == code, error
        assert b"Traceback" not in error
    assert "no image" in cli.fails(3, "inspect", f"{stub.name}/a:1")
    # A signal may come between the making of a file and the note that it is ours to remove.
    cli.ok("gc")
    assert not list((cli.store / "tmp").iterdir())
