"""The build command's way around a build whose answer is known.

Command lines of the common options alone are read here without typer; what is not known goes to
:mod:`layerstore.cli.build.without_typer`. All others go to :mod:`layerstore.cli.build.build`, which
has the options, their help and their errors. On the fast path.
"""

from __future__ import annotations

import contextlib
import os

from layerstore.cli.output import write_line, write_note
from layerstore.cli.settings import current_root
from layerstore.errors import LayerstoreError
from layerstore.light_typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from layerstore.build.known import Overhearing
    from layerstore.build.request import BuildResult
    from layerstore.store.paths import StorePaths
    from layerstore.store.store import Store

_MANY = {"--tag": "tags", "-t": "tags", "--build-arg": "build_args", "--label": "labels",
         "--secret": "secrets"}  # fmt: skip
_ONE = {"--file": "file", "-f": "file", "--target": "target", "--network": "network",
        "--progress": "progress"}  # fmt: skip
_QUIET = ("--quiet", "-q")
_MEANT_FOR_US = ("BUILDKIT_", "BUILDX_", "DOCKER_", "LAYERSTORE_", "SOURCE_DATE_EPOCH")
"""How variables begin that may decide something."""

_SHOWN = ("auto", "plain", "tty")


class Asked(NamedTuple):
    """The words of a build command that decide its image.

    The fields are called as in :func:`layerstore.cli.build.build.build_image`.
    """

    directory: str
    tags: tuple[str, ...] = ()
    build_args: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    secrets: tuple[str, ...] = ()
    file: str = ""
    target: str = ""
    network: str = "default"

    def key(self, paths: StorePaths) -> str:
        """Return the name of what is remembered of it.

        Raises:
            OSError: There is no store.
        """
        from layerstore.build.known import request_key

        return request_key(paths, self._words(os.environ))

    def _words(self, environ: Mapping[str, str]) -> Iterable[str]:
        yield os.getcwd()
        yield from sorted(
            f"{name}={value}" for name, value in environ.items() if name.startswith(_MEANT_FOR_US)
        )
        for value in self:
            if isinstance(value, str):
                yield value
                continue
            yield str(len(value))
            yield from value
        # docker: without a value it is the environment's, or none.
        for word in self.build_args:
            if "=" not in word:
                yield "=" + environ[word] if word in environ else ""


def answer(arguments: Sequence[str], store: str | None) -> int | None:
    """Answer a build command if its answer is known; None when it has to be built.

    Args:
        arguments: What follows ``build``.
        store: Value of ``--store``.
    """
    parsed = _parsed(arguments)
    if parsed is None:
        return None
    asked, progress, quiet = parsed
    return 0 if _is_answered(asked, progress, store, quiet=quiet) else None


def run(arguments: Sequence[str], store: str | None) -> int | None:
    """Answer a build command, or build; None if it has options that are not understood here.

    Args:
        arguments: What follows ``build``.
        store: Value of ``--store``.

    Raises:
        LayerstoreError: The build failed.
    """
    parsed = _parsed(arguments)
    if parsed is None:
        return None
    asked, progress, quiet = parsed
    if _is_answered(asked, progress, store, quiet=quiet):
        return 0
    from layerstore.light_imports import load_msgspec

    load_msgspec()
    from layerstore.cli.build.without_typer import build

    return build(asked, progress, store, quiet=quiet)


def _is_answered(asked: Asked, progress: str, store: str | None, *, quiet: bool) -> bool:
    from layerstore.build.known import recall, tell_again
    from layerstore.store.paths import StorePaths

    paths = StorePaths(current_root(store))
    try:
        key = asked.key(paths)
        if not os.path.exists(f"{paths.scans}/{key}"):
            return False
    except OSError:
        return False
    from layerstore.cli.build.ui import summary, watching
    from layerstore.cli.warm import fresh_images
    from layerstore.store.catalog.catalog import Catalog

    try:
        with contextlib.closing(Catalog(paths)) as catalog:
            known = recall(catalog, key)
            is_news = known is not None and fresh_images.is_worth_telling(catalog, known.image_id)
    except LayerstoreError:
        return False
    if known is None:
        return False
    with watching(progress, quiet=quiet) as ui:
        tell_again(known, ui)
    write_line(known.image_id)
    if not quiet:
        count = len(known.labels)
        write_note(summary(known.names, known.size, count, count))
    if is_news:
        fresh_images.tell(paths.root, [known.image_id])
    return True


def remember(
    store: Store, asked: Asked, result: BuildResult, heard: Overhearing, began: tuple[int, int]
) -> None:
    """Remember the answer of a build that was asked for with nothing but these words.

    Args:
        store: It was built in.
        asked: What the command line said; of other options it must have had the defaults.
        result: Of the build.
        heard: What it told.
        began: When it began, in nanoseconds, and the catalog's epoch then.
    """
    from layerstore.build.known import remember as note

    began_ns, epoch = began
    files, variables = _sources(asked.secrets, os.environ)
    note(
        store, asked.key(store.paths), result.inputs, result.image, result.names, heard,
        began_ns=began_ns, epoch=epoch, variables=variables, given=files,
    )  # fmt: skip


def _sources(secrets: Sequence[str], environ: Mapping[str, str]) -> tuple[list[bytes], list[str]]:
    """Return the files and the variables that secrets come from: that these are there matters."""
    from layerstore.cli.build.values import secret_source

    files, variables = [], []
    for secret in secrets:
        _, variable, path = secret_source(secret, environ)
        if variable:
            variables.append(variable)
        else:
            files.append(os.fsencode(path))
    return files, variables


def _parsed(arguments: Sequence[str]) -> tuple[Asked, str, bool] | None:
    """Return what a command line asks, how it wants it shown and whether quietly.

    None for everything that is not certainly understood.
    """
    many: dict[str, list[str]] = {name: [] for name in _MANY.values()}
    one = {"file": "", "target": "", "network": "default", "progress": "auto"}
    directories: list[str] = []
    quiet = False
    words = iter(arguments)
    for word in words:
        option, equals, value = word.partition("=")
        if word in _QUIET:
            quiet = True
        elif option in _MANY or option in _ONE:
            if not equals:
                value = next(words, "")
            elif not option.startswith("--"):
                return None
            if not value or value.startswith("-"):
                return None
            if option in _MANY:
                many[_MANY[option]].append(value)
            else:
                one[_ONE[option]] = value
        elif word.startswith("-"):
            return None
        else:
            directories.append(word)
    progress = one["progress"]
    if len(directories) != 1 or progress not in _SHOWN or not many["tags"]:
        return None
    asked = Asked(
        directories[0], tuple(many["tags"]), tuple(many["build_args"]), tuple(many["labels"]),
        tuple(many["secrets"]), one["file"], one["target"], one["network"],
    )  # fmt: skip
    return asked, progress, quiet
