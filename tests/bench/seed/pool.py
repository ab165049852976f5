"""The pool: pinned packages of PyPI and npm, from which applications take their files.

Fetched once without what they depend on, unpacked side by side, one directory each.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from tests.bench.corpora import WHEELS_OF_311
from tests.bench.harness import say

PYPI = (
    """
    aiohttp==3.9.3 alembic==1.13.1 attrs==23.1.0 babel==2.14.0 celery==5.3.6 certifi==2023.11.17
    charset-normalizer==3.3.2 click==8.1.6 cryptography==42.0.5 docutils==0.20.1 fastapi==0.110.0
    flask==3.0.0 greenlet==3.0.1 httpx==0.26.0 idna==3.6 jinja2==3.1.3 jsonschema==4.21.0
    lxml==5.2.2 markdown==3.5.2 networkx==3.2.1 openpyxl==3.1.2 orjson==3.10.0 paramiko==3.4.0
    pillow==10.3.0 psutil==5.9.8 psycopg2-binary==2.9.9 pydantic==2.7.4 pydantic-core==2.18.4
    pygments==2.17.2 pytz==2023.3 pyyaml==6.0.1 redis==5.0.4 requests==2.31.0 rich==13.7.0
    sentry-sdk==1.45.0 setuptools==69.0.3 sqlalchemy==2.0.25 starlette==0.36.3 tornado==6.4
    urllib3==2.0.7 uvicorn==0.29.0 werkzeug==3.0.1
    """,
    """
    aiohttp==3.9.5 alembic==1.13.2 attrs==23.2.0 babel==2.15.0 celery==5.4.0 certifi==2024.7.4
    click==8.1.7 cryptography==42.0.8 docutils==0.21.2 fastapi==0.111.0 flask==3.0.3
    greenlet==3.0.3 httpx==0.27.0 idna==3.7 jinja2==3.1.4 jsonschema==4.22.0 lxml==5.3.0
    markdown==3.6 networkx==3.3 openpyxl==3.1.5 orjson==3.10.6 paramiko==3.5.0 pillow==10.4.0
    psutil==6.0.0 pydantic==2.8.2 pydantic-core==2.20.1 pygments==2.18.0 pytz==2024.1
    pyyaml==6.0.2 redis==5.0.7 requests==2.32.3 rich==13.7.1 sentry-sdk==2.7.1 setuptools==70.3.0
    sqlalchemy==2.0.31 starlette==0.37.2 tornado==6.4.1 urllib3==2.2.2 uvicorn==0.30.1
    werkzeug==3.0.3
    """,
)
"""Two versions of most, which one command of pip would refuse: a command each."""

# No package of thousands of tiny files (core-js, date-fns): each would cost the others a block.
NPM = """
    ajv@8.16.0 async@3.2.5 axios@1.6.8 axios@1.7.2 bluebird@3.7.2 bootstrap@5.3.3 chart.js@4.4.3
    express@4.19.2 handlebars@4.7.8 immutable@4.3.6 jquery@3.7.1
    lodash@4.17.20 lodash@4.17.21 marked@13.0.1 moment@2.29.4 moment@2.30.1 ramda@0.30.1
    react-dom@18.2.0 react-dom@18.3.1 rxjs@7.8.1 socket.io@4.7.5 underscore@1.13.6 uuid@10.0.0
    vue@3.3.13 vue@3.4.31 ws@8.17.1 zod@3.22.4 zod@3.23.8
"""


@dataclass(frozen=True)
class Package:
    """One version of a library.

    Attributes:
        name: With its version, ``flask-3.0.3``.
        files: Paths below it with their sizes, sorted.
    """

    place: Path
    name: str
    files: tuple[tuple[str, int], ...]

    @property
    def project(self) -> str:
        """Return its name without the version: an application has one version of each."""
        return self.name.rpartition("-")[0]

    @property
    def size(self) -> int:
        """Return the bytes of its files."""
        return sum(size for _, size in self.files)

    def read(self, path: str) -> bytes:
        """Return the content of one of its files."""
        return (self.place / path).read_bytes()


def make_pool(place: Path) -> list[Package]:
    """Return the packages below ``place``, fetched if they are not there."""
    if not (place / "complete").exists():
        say("fetching the pool of libraries")
        with tempfile.TemporaryDirectory() as downloads:
            _fetch(Path(downloads))
            shutil.rmtree(place, ignore_errors=True)
            for archive in sorted(Path(downloads).iterdir()):
                _unpack(archive, place / "packages")
        (place / "complete").touch()
    return load_pool(place / "packages")


def load_pool(place: Path) -> list[Package]:
    """Return the packages that are directories of ``place``, by name."""
    return [
        Package(package, package.name, tuple(sorted(_regular(package))))
        for package in sorted(place.iterdir())
    ]


def _regular(package: Path) -> list[tuple[str, int]]:
    return [
        (os.path.relpath(path, package), os.path.getsize(path))
        for host, _, names in os.walk(package)
        for path in (os.path.join(host, name) for name in names)
        if os.path.isfile(path) and not os.path.islink(path)
    ]


def _fetch(downloads: Path) -> None:
    for requirements in PYPI:
        command = [sys.executable, "-m", "pip", "--quiet", "download", "--no-deps"]
        command += [*WHEELS_OF_311, "--platform=manylinux_2_17_x86_64", "--dest", str(downloads)]
        subprocess.run([*command, *requirements.split()], check=True)
    pack = ["npm", "pack", "--silent", "--pack-destination", str(downloads), *NPM.split()]
    subprocess.run(pack, check=True, stdout=subprocess.DEVNULL)


def _unpack(archive: Path, packages: Path) -> None:
    if archive.suffix == ".whl":
        project, version = archive.name.split("-")[:2]
        with zipfile.ZipFile(archive) as wheel:
            wheel.extractall(packages / f"{project}-{version}")
    else:
        with tarfile.open(archive) as tar:
            tar.extractall(packages / archive.name.removesuffix(".tgz"), filter="data")
