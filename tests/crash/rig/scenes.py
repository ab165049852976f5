"""The small real store that faults are tried on, and the commands that change it.

The store has what makes commands interesting: an image from a tar (with its recipe), one
from a directory, a built one with build cache, a large file cut into chunks, a pack that
is half dead, an image that lost its name, and two packs of equal shape.
"""

from __future__ import annotations

import os
import random
import shutil
from typing import TYPE_CHECKING, NamedTuple

from tests.crash.rig import oracle
from tests.support.layouts import Layout, tar_of
from tests.support.store import noise, text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from tests.crash.rig.launcher import Launcher


class Verb(NamedTuple):
    """A command that changes a store, and how it ends when it is repeated.

    Attributes:
        argv: Words of the command; ``{box}`` stands for the directory of inputs, ``{out}``
            for a place beside the store.
        again: Exit codes that the second run may have.
        creates: Whether it is tried without a store.
        damages: Whether every pack's padding is damaged first, which costs no chunk.
        output: Name below ``{out}`` of a file it writes: absent or whole, whatever happens.
    """

    name: str
    argv: Sequence[str]
    again: Sequence[int] = (0,)
    creates: bool = False
    damages: bool = False
    output: str | None = None


VERBS = (
    Verb("import-tar", ("import", "{box}/new.tar", "-t", "new:1")),
    Verb("import-dir", ("import", "{box}/moved", "-t", "old:1")),
    Verb("create", ("import", "{box}/new.tar", "-t", "new:1"), creates=True),
    Verb("init", ("init",), creates=True),
    Verb("share", ("init", "--shared", str(os.getgid()))),
    Verb("build", ("build", "{box}/context", "-t", "built:2", "--progress", "plain")),
    Verb("tag", ("tag", "base:1", "other:1")),
    Verb("manifest", ("manifest", "create", "old:1", "base:1")),
    Verb("rm", ("rm", "old:1"), again=(0, 3)),
    Verb("pin", ("pin", "base:1")),
    Verb("gc", ("gc",)),
    Verb("gc-all", ("gc", "--all")),
    Verb("optimize", ("optimize",)),
    Verb("rebuild", ("check", "--rebuild-index")),
    Verb("repair", ("check", "--repair"), damages=True),
    Verb("export", ("export", "base:1", "-o", "{out}/export.tar"), output="export.tar"),
    Verb("load-layout", ("load", "-i", "{box}/layout")),
    Verb("load-archive", ("load", "-i", "{box}/archive.tar.gz")),
    Verb("load-bundle", ("load", "-i", "{box}/new.bundle")),
    Verb(
        "save-bundle",
        ("save", "built:1", "--since", "base:1", "-o", "{out}/saved.bundle", "-q"),
        output="saved.bundle",
    ),
    Verb("save", ("save", "base:1", "-o", "{out}/saved.tar", "-q"), output="saved.tar"),
)
BY_NAME = {verb.name: verb for verb in VERBS}


class Scene(NamedTuple):
    """A store to copy for every trial, and the inputs of commands."""

    box: Path
    template: Path

    def words(self, verb: Verb, out: Path) -> list[str]:
        """Return a verb's words with its directories filled in."""
        return [word.format(box=self.box, out=out) for word in verb.argv]

    def copy(self, target: Path, verb: Verb | None = None) -> Path:
        """Copy the template, as it is before ``verb``; return the copy."""
        shutil.copytree(self.template, target, symlinks=True)
        if verb is not None and verb.damages:
            damage_padding(target)
        return target


def damage_padding(root: Path) -> None:
    """Flip a bit in the zeros before the footer of every pack that has some."""
    for path in sorted((root / "packs").rglob("*.pack")):
        data = bytearray(path.read_bytes())
        at = data.find(bytes(64))
        if at >= 0:
            data[at + 32] ^= 1
            path.write_bytes(data)


def write_tree(top: Path, files: Mapping[str, bytes]) -> Path:
    """Write files below a directory, with one fixed time."""
    for name, content in files.items():
        path = top / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    for directory, names, leaves in os.walk(top, topdown=False):
        for name in [*names, *leaves, ""]:
            os.utime(f"{directory}/{name}", (1_600_000_000, 1_600_000_000), follow_symlinks=False)
    return top


def make_scene(box: Path, launcher: Launcher) -> Scene:
    """Make the inputs and the template store below ``box``."""
    import subprocess

    box.mkdir(parents=True, exist_ok=True)
    base = write_tree(
        box / "base",
        {f"usr/f{n}": text(n, 4_000) for n in range(12)} | {"usr/big": noise(1, 900_000)},
    )
    os.symlink("f1", base / "usr/link")
    os.link(base / "usr/f2", base / "usr/hard")
    write_tree(
        box / "new",
        {f"etc/n{n}": text(50 + n, 3_000) for n in range(6)}
        | {"etc/shared": text(3, 4_000), "srv/big": noise(2, 500_000)},
    )
    write_tree(box / "moved", {"opt/a": noise(3, 60_000), "opt/b": text(4, 9_000)})
    write_tree(box / "old", {"opt/old": noise(5, 40_000)})
    write_tree(box / "mixed", {"m/a": noise(6, 300_000), "m/b": noise(7, 290_000)})
    write_tree(box / "half", {"m/a": noise(6, 300_000)})
    write_tree(box / "gone", {"g": noise(8, 80_000)})
    for twin in (1, 2):  # packs of equal shape: what one holds fits the other's rows
        write_tree(box / f"twin{twin}", {"t": noise(20 + twin, 50_000)})
    write_tree(box / "partly", {"t": noise(21, 50_000), "own": text(60, 7_000)})
    context = write_tree(box / "context", {"one/a": text(9, 5_000), "two/b": noise(10, 70_000)})
    (context / "Dockerfile").write_text("FROM base:1\nCOPY one /one\nCOPY two /two\nENV A=b\n")
    for name in ("base", "new"):
        subprocess.run(
            ["tar", "--sort=name", "-C", str(box / name), "-cf", str(box / f"{name}.tar"), "."],
            check=True,
        )
    template = box / "template"
    for words in (
        ("import", f"{box}/base.tar", "-t", "base:1"),
        ("import", f"{box}/old", "-t", "old:1"),
        ("import", f"{box}/mixed", "-t", "mixed:1"),
        ("import", f"{box}/half", "-t", "half:1"),
        ("import", f"{box}/gone", "-t", "gone:1"),
        ("import", f"{box}/twin1", "-t", "twin:1"),
        ("import", f"{box}/twin2", "-t", "twin:2"),
        ("build", str(context), "-t", "built:1", "--label", "a=b"),
        ("rm", "mixed:1"),
        ("rm", "gone:1"),
    ):
        done = launcher.run(template, *words)
        assert done.code == 0, (words, done)
    _make_bundle(box, template, launcher)
    _make_images(box)
    return Scene(box, template)


def _make_images(box: Path) -> None:
    """Write images as others do: layers that can be made again, and one that must be kept."""
    import gzip

    new = (box / "new.tar").read_bytes()
    layout = Layout(box / "layout")
    one = layout.image([new, tar_of({"app": noise(30, 90_000)})], "go")
    two = layout.image([new], "gzip", architecture="arm64")
    root = layout.finish(("docker.io/library/new:1", layout.index(one, two)))
    files = {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}
    (box / "archive.tar.gz").write_bytes(gzip.compress(tar_of(files), mtime=0))


def _make_bundle(box: Path, template: Path, launcher: Launcher) -> None:
    """Write ``new.bundle``: an image for who has the template's ``base:1``."""
    sender = box / "sender"
    shutil.copytree(template, sender, symlinks=True)
    (box / "extending").mkdir()
    (box / "extending/Dockerfile").write_text("FROM base:1\nCOPY etc /etc\nCOPY srv /srv\n")
    for words in (
        ("build", f"{box}/new", "-f", f"{box}/extending/Dockerfile", "-t", "new:1"),
        ("save", "new:1", "--since", "base:1", "-o", f"{box}/new.bundle"),
    ):
        done = launcher.run(sender, *words)
        assert done.code == 0, (words, done)
    shutil.rmtree(sender)


class Course(NamedTuple):
    """How a verb goes without a fault: states before and after, sizes, its output's digest."""

    before: oracle.Names
    after: oracle.Names
    fresh_bytes: int
    output_bytes: bytes | None


def course_of(scene: Scene, verb: Verb, launcher: Launcher, scratch: Path) -> Course:
    """Run a verb undisturbed on a copy and remember what comes of it."""
    root, out = scratch / "store", scratch / "out"
    out.mkdir(parents=True)
    before: oracle.Names = {}
    if not verb.creates:
        scene.copy(root, verb)
        before = oracle.names_of(root)
    words = scene.words(verb, out)
    for _ in range(2):  # a repeated command may add nothing
        done = launcher.run(root, *words)
        assert done.code in {0, *verb.again}, done
    for _ in range(2):
        assert launcher.run(root, "gc").code == 0
    after = oracle.names_of(root)
    output = (out / verb.output).read_bytes() if verb.output else None
    course = Course(before, after, oracle.content_bytes(root), output)
    shutil.rmtree(scratch)
    return course


def pick(total: int, count: int, seed: int) -> list[int]:
    """Choose ``count`` of the points 1 to ``total``, one at random in each equal part.

    All of them when ``count`` is not smaller.
    """
    if count >= total:
        return list(range(1, total + 1))
    source = random.Random(seed)
    return sorted({1 + int((n + source.random()) * total / count) % total for n in range(count)})
