"""Every example: built from Debian's packages, started, and asked whether it works."""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.build import needs_runc
from tests.support.cli import Cli
from tests.support.containers import container
from tests.support.debian_base import debian_base_tar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.cli import Result

EXAMPLES = Path(__file__).parents[2] / "Dockerfile-examples"
BUILD_SECONDS = 280

pytestmark = [
    *needs_runc,
    pytest.mark.network,
    pytest.mark.skipif(
        subprocess.run(["which", "runc"], capture_output=True, check=False).returncode != 0,
        reason="containers are started by runc here",
    ),
]


def _demo():
    spec = importlib.util.spec_from_file_location("demo", EXAMPLES / "demo.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def cli(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Cli:
    """A store that all workers share, so that what examples have in common is built once."""
    top = tmp_path_factory.getbasetemp()
    top = top if worker_id == "master" else top.parent
    cli = Cli(top / "store-of-examples")
    with (top / "base-of-examples.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if cli("inspect", "debian:bookworm").code != 0:
            cli.ok("import", debian_base_tar(), "-t", "debian:bookworm")
    return cli


@pytest.fixture(scope="session")
def secrets() -> Iterator[list[str]]:
    """Options that give pip and npm the configuration of this host, as the demonstration does."""
    with _demo().host_configuration() as options:
        yield options


@pytest.fixture
def build(cli: Cli, secrets: list[str]) -> Callable[..., Result]:
    def build(name: str, *options: str, tag: str = "") -> Result:
        tag = tag or name.replace("/", "-")
        done = cli("build", *secrets, *options, "-t", tag, EXAMPLES / name, timeout_s=BUILD_SECONDS)
        if "Could not resolve" in done.err or "Temporary failure" in done.err:
            pytest.skip("no package mirror can be reached from a build")
        assert done.code == 0, done
        return done

    return build


@contextlib.contextmanager
def chroot_of(cli: Cli, image: str, place: Path) -> Iterator[Callable[..., str]]:
    """Give a way to run commands over a view of an image, without a container."""
    view = place / "view"
    view.mkdir()
    cli.ok("mount", image, view)

    def run(*words: str) -> str:
        done = subprocess.run(["chroot", view, *words], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done
        return done.stdout

    yield run
    cli.ok("umount", view)


def test_every_example_is_tried_here() -> None:
    specs = [*EXAMPLES.glob("*/Dockerfile"), *EXAMPLES.glob("*/layerstore.toml")]
    names = {path.parent.name for path in specs}
    source = Path(__file__).read_text()
    assert {name for name in names if f'"{name}"' not in source} == set()


def test_python_flask(cli: Cli, build: Callable[..., Result], tmp_path: Path) -> None:
    build("python-flask")
    with container(cli, "python-flask", tmp_path) as flask:
        flask.wait_healthy()
        assert flask.run("curl", "-s", "http://127.0.0.1:8000/").stdout == "hello from example\n"
        flask.stop()
    again = build("python-flask")
    assert "4 of 4 steps from the cache" in again.err


def test_python_ml(cli: Cli, build: Callable[..., Result], tmp_path: Path) -> None:
    build("python-ml")
    with chroot_of(cli, "python-ml", tmp_path) as run:
        assert run("/usr/local/bin/predict", "30") == "at 30 degrees: 117 sales\n"


def test_node_express(cli: Cli, build: Callable[..., Result], tmp_path: Path) -> None:
    build("node-express")
    with container(cli, "node-express", tmp_path) as node:
        node.wait_healthy()
        assert node.run("curl", "-s", "http://127.0.0.1:3000/").stdout == "hello from example\n"
        assert not (node.root / "usr/bin/npm").exists()


def test_native_spec(cli: Cli, build: Callable[..., Result], tmp_path: Path) -> None:
    build("native-spec", tag="native-{{flavour}}")
    with container(cli, "native-debug", tmp_path) as notes:
        notes.wait_healthy()
        fetch = "import urllib.request as u; print(u.urlopen('http://127.0.0.1:8000').read())"
        page = notes.run("/opt/venv/bin/python", "-c", fetch).stdout
        assert "1.0-debug" in page
        assert "The first note." in page
        notes.stop()
    again = build("native-spec", tag="native-{{flavour}}")
    assert "10 of 10 steps from the cache" in again.err


def test_nginx_static(cli: Cli, build: Callable[..., Result], tmp_path: Path) -> None:
    build("nginx-static", "--build-arg", "PORT=8081")
    with container(cli, "nginx-static", tmp_path) as nginx:
        nginx.wait_healthy()
        page = nginx.run("curl", "-s", "http://127.0.0.1:8081/").stdout
        assert page == (EXAMPLES / "nginx-static/site/index.html").read_text()
        nginx.stop()


def test_c_static(cli: Cli, build: Callable[..., Result], tmp_path: Path) -> None:
    build("c-static", "--target", "test", tag="c-static-test")
    build("c-static")
    with container(cli, "c-static", tmp_path) as hello:
        assert hello.output() == "hello from example\n"
        assert sorted(path.name for path in hello.root.iterdir() if path.is_file()) == ["hello"]


def test_java(cli: Cli, build: Callable[..., Result], tmp_path: Path) -> None:
    build("java")
    with container(cli, "java", tmp_path) as java:
        ask = "exec 3<>/dev/tcp/127.0.0.1/8080; printf 'GET / HTTP/1.0\\r\\n\\r\\n' >&3; cat <&3"
        assert "hello from Java 17" in java.wait_for("bash", "-c", ask)


def test_php(cli: Cli, build: Callable[..., Result], tmp_path: Path) -> None:
    build("php")
    with container(cli, "php", tmp_path) as php:
        ask = "echo file_get_contents('http://127.0.0.1:8000/') ?: exit(1);"
        assert "hello from PHP 8.2" in php.wait_for("php", "-r", ask)
        assert not (php.root / "srv/site/public/NOTES.md").exists()


def test_postgres(cli: Cli, build: Callable[..., Result], tmp_path: Path) -> None:
    build("postgres")
    with container(cli, "postgres", tmp_path) as postgres:
        postgres.wait_healthy()
        count = "UPDATE visits SET count = count + 1 WHERE page = 'index' RETURNING count"
        assert postgres.run("psql", "-qtA", "-c", count).stdout == "42\n"
        postgres.stop()


def test_cron_init(cli: Cli, build: Callable[..., Result], tmp_path: Path) -> None:
    build("cron-init")
    with container(cli, "cron-init", tmp_path) as cron:
        cron.wait_for("test", "-s", "/var/lib/report/log")
        assert (cron.root / "var/lib/report/log").stat().st_uid == 1
        assert cron.run("cat", "/proc/1/comm").stdout == "tini\n"
        cron.stop()


def test_monorepo(cli: Cli, build: Callable[..., Result], tmp_path: Path) -> None:
    build("monorepo", "--target", "greet", tag="greet")
    other = build("monorepo", "--target", "count", tag="count")
    assert "4 of 7 steps from the cache" in other.err
    with chroot_of(cli, "greet", tmp_path) as run:
        assert run("/greet", "Ada Lovelace") == "hello Ada Lovelace, a name of 2 words\n"
    build("monorepo")
    with container(cli, "count", tmp_path, "one two", "three") as count:
        assert count.output() == "3\n"


def test_rootless(cli: Cli, build: Callable[..., Result], tmp_path: Path) -> None:
    build("rootless")
    with container(cli, "rootless", tmp_path) as service:
        page = service.wait_for("curl", "-sf", "http://127.0.0.1:8080/")
        assert page == "uid 10001, gid 10001\n"
        found = service.run("find", "/", "-xdev", "-perm", "/6000", "-type", "f", user="0")
        assert found.stdout == ""


def test_onbuild(cli: Cli, build: Callable[..., Result], tmp_path: Path) -> None:
    build("onbuild", tag="tool-base")
    build("onbuild/tool", tag="tool")
    with container(cli, "tool", tmp_path, "a", "ccc", "bb") as tool:
        assert tool.output() == "ccc\nbb\na\n"
        assert any((tool.root / "opt/tool/__pycache__").iterdir())
