"""Deliberate mistakes, to prove that the campaign would notice them.

Each function breaks one rule of the write order, the garbage collector or the reader, in
the process that calls it: a forked child of the helper that is about to run one command.
They live in the tests alone and replace functions by name; when a name is gone,
:func:`apply` raises, and the test of the mutants fails instead of proving nothing.
"""

from __future__ import annotations

import contextlib
import os
import stat
import types
from typing import TYPE_CHECKING, Any

from layerstore.linux import files
from layerstore.store.catalog import catalog_file
from layerstore.store.collect import collection
from layerstore.store.locks import leases
from layerstore.store.names import names_log
from layerstore.store.packs import codec, pack_reader
from layerstore.store.paths import StorePaths
from layerstore.store.rebuild import upgrade
from layerstore.store.writing import session

if TYPE_CHECKING:
    from collections.abc import Callable

_ACTIVE: dict[str, Callable[[], None]] = {}


def mutant(function: Callable[[], None]) -> Callable[[], None]:
    """Register a mutant under its name."""
    _ACTIVE[function.__name__] = function
    return function


def names() -> list[str]:
    return sorted(_ACTIVE)


def apply(name: str) -> None:
    """Break this process."""
    _ACTIVE[name]()


def _replace(owner: object, name: str, new: object) -> None:
    getattr(owner, name)  # it must be there
    setattr(owner, name, new)


def _replace_fsync(decide: Callable[[int, Callable[[int], None]], None]) -> None:
    real = os.fsync
    _replace(os, "fsync", lambda fd: decide(fd, real))


def _is_directory(fd: int) -> bool:
    return stat.S_ISDIR(os.fstat(fd).st_mode)


# -- what must be on disk before something else


@mutant
def no_pack_fsync() -> None:
    """Packs and blobs get their names although their bytes are only in the page cache."""

    def decide(fd: int, real: Callable[[int], None]) -> None:
        if _is_directory(fd) or "names.log" in os.readlink(f"/proc/self/fd/{fd}"):
            real(fd)

    _replace_fsync(decide)


@mutant
def no_dir_fsync() -> None:
    """Names of packs and blobs are never forced."""

    def decide(fd: int, real: Callable[[int], None]) -> None:
        if not _is_directory(fd):
            real(fd)

    _replace_fsync(decide)


@mutant
def wrong_dir_fsync() -> None:
    """Another directory is forced than the one that has a new name."""

    def decide(fd: int, real: Callable[[int], None]) -> None:
        if not _is_directory(fd):
            real(fd)
            return
        path = os.readlink(f"/proc/self/fd/{fd}")
        root = path.partition("/packs")[0].partition("/blobs")[0]
        with contextlib.suppress(FileNotFoundError):
            other = os.open(f"{root}/uppers", os.O_RDONLY)
            real(other)
            os.close(other)

    _replace_fsync(decide)


@mutant
def names_log_not_forced() -> None:
    """A name is acknowledged although names.log does not have it on disk."""

    def decide(fd: int, real: Callable[[int], None]) -> None:
        if "names.log" not in os.readlink(f"/proc/self/fd/{fd}"):
            real(fd)

    _replace_fsync(decide)


def _synchronous(level: str) -> None:
    pragmas = tuple(p for p in catalog_file._PRAGMAS if not p.startswith("synchronous"))
    assert len(pragmas) == len(catalog_file._PRAGMAS) - 1
    _replace(catalog_file, "_PRAGMAS", (*pragmas, f"synchronous={level}"))


@mutant
def synchronous_normal() -> None:
    """Commits of the catalog are not forced."""
    _synchronous("NORMAL")


@mutant
def synchronous_off() -> None:
    """Nothing of the catalog is forced."""
    _synchronous("OFF")


@mutant
def index_before_pack() -> None:
    """The catalog's rows are committed before the pack has its name."""
    late: list[tuple[Any, str]] = []
    real_publish = files.StagedFile.publish
    real_write = catalog_file.CatalogFile.write

    def publish(self: Any, target: str) -> None:
        if "/packs/" in target:
            late.append((self, target))
        else:
            real_publish(self, target)

    @contextlib.contextmanager
    def write(self: Any, *arguments: Any, **options: Any) -> Any:
        with real_write(self, *arguments, **options) as connection:
            yield connection
        while late:
            real_publish(*late.pop())

    _replace(files.StagedFile, "publish", publish)
    _replace(catalog_file.CatalogFile, "write", write)


@mutant
def gc_unlinks_before_commit() -> None:
    """Dead packs are unlinked while the commit that forgets them is still open."""
    real = collection.retire_packs

    def retire_packs(connection: Any, numbers: Any) -> None:
        numbers = list(numbers)
        database = connection.execute("PRAGMA database_list").fetchone()[2]
        paths = StorePaths(os.path.dirname(database))
        for number in numbers:
            row = connection.execute("SELECT id FROM packs WHERE pack = ?", (number,)).fetchone()
            files.remove_if_present(paths.pack(row[0]))
        real(connection, numbers)

    _replace(collection, "retire_packs", retire_packs)


@mutant
def upgrade_in_pieces() -> None:
    """Every statement of an upgrade is a transaction of its own."""
    real = upgrade.sqlite3.connect

    class Pieces:
        def __init__(self, *arguments: Any, **options: Any) -> None:
            self._connection = real(*arguments, **options)

        def execute(self, statement: str) -> Any:
            joining = statement.startswith(("BEGIN", "COMMIT"))
            return self._connection.execute("SELECT 1" if joining else statement)

        def close(self) -> None:
            self._connection.close()

    _replace(upgrade, "sqlite3", types.SimpleNamespace(connect=Pieces))


@mutant
def written_under_final_name() -> None:
    """Small files are written where they end up, not beside it."""

    def publish_bytes(data: bytes, *, staging: str, target: str) -> None:
        fd = files.open_private(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        files.write_all(fd, data)
        os.fsync(fd)
        os.close(fd)
        files.fsync_directory(os.path.dirname(target))

    from layerstore.store import blobs, config

    _replace(blobs, "publish_bytes", publish_bytes)
    _replace(config, "publish_bytes", publish_bytes)


@mutant
def catalog_moved_away() -> None:
    """A rebuild removes the old catalog before the new one has a name."""
    from layerstore.store.rebuild import rebuild

    def replace_catalog(paths: StorePaths, draft: str) -> None:
        for suffix in ("-wal", "-shm", ""):
            files.remove_if_present(paths.catalog + suffix)
        os.rename(draft, paths.catalog)
        files.fsync_directory(paths.root)

    _replace(rebuild, "replace_catalog", replace_catalog)


@mutant
def renamed_before_written() -> None:
    """Packs get their name first, and their last bytes and the flush later."""
    from layerstore.store.packs import pack_writer

    real_seal = files.StagedFile.seal
    real_publish = files.StagedFile.publish

    def seal(self: Any) -> None:
        self._sealed = True

    def publish(self: Any, target: str) -> None:
        if self._fd < 0:
            real_publish(self, target)
            return
        os.rename(self.path, target)
        files.fsync_directory(os.path.dirname(target))
        self.path = target
        real_seal(self)
        self.path = None

    _replace(files.StagedFile, "seal", seal)
    _replace(files.StagedFile, "publish", publish)
    del pack_writer


# -- errors of the disk


@mutant
def fsync_retried() -> None:
    """A failed flush is tried once more, which Linux answers with success."""

    def decide(fd: int, real: Callable[[int], None]) -> None:
        try:
            real(fd)
        except OSError:
            real(fd)

    _replace_fsync(decide)


@mutant
def fsync_error_ignored() -> None:
    """A failed flush is taken for a success."""

    def decide(fd: int, real: Callable[[int], None]) -> None:
        with contextlib.suppress(OSError):
            real(fd)

    _replace_fsync(decide)


@mutant
def close_error_ignored() -> None:
    """What close(2) says of a written file is not heard."""
    real = os.close

    def close(fd: int) -> None:
        with contextlib.suppress(OSError):
            real(fd)

    _replace(os, "close", close)


@mutant
def lack_of_memory_unheard() -> None:
    """What zstd says of its own memory is taken for damage, or for a mistake of ours."""
    _replace(codec, "refuse_lack_of_memory", lambda err: None)


@mutant
def short_write_ignored() -> None:
    """One write(2) is taken to have written everything."""

    def write_all(fd: int, data: Any) -> None:
        os.write(fd, data)

    _replace(files, "write_all", write_all)
    _replace(names_log, "write_all", write_all)


@mutant
def short_read_ignored() -> None:
    """One pread(2) is taken to have read everything."""
    _replace(pack_reader, "read_at", lambda fd, size, offset: os.pread(fd, size, offset))


# -- processes, mounts, control groups


@mutant
def cgroups_left() -> None:
    """The first process of a build's pid namespace ends without removing control groups."""
    from layerstore.build.run import reaper, sandbox

    with open(reaper.__file__, encoding="utf-8") as file:
        right = file.read()
    wrong = right.replace("    remove_cgroups(cgroup)\n", "")
    assert wrong != right
    program = os.memfd_create("reaper")
    os.write(program, wrong.encode())
    path = f"/proc/{os.getpid()}/fd/{program}"
    other = types.SimpleNamespace(
        __file__=path, remove_cgroups=None, encode_request=reaper.encode_request
    )
    _replace(sandbox, "reaper", other)


@mutant
def dead_servers_kept() -> None:
    """A FUSE server that was killed is taken for one that removes its files itself."""
    from fuse_mount import lowers

    _replace(lowers, "is_alive", lambda directory: True)


# -- collector and readers


@mutant
def lease_released_early() -> None:
    """A session lets go of its lease before it publishes."""
    real = leases.Lease.__init__

    def begin(self: Any, *arguments: Any) -> None:
        real(self, *arguments)
        self._lock.close()

    _replace(leases.Lease, "__init__", begin)


@mutant
def epoch_not_compared() -> None:
    """Publishing trusts what the session saw before a collection."""
    _replace(session.WriteSession, "_epoch", lambda self: self._lease.epoch)


@mutant
def catalog_lock_not_taken() -> None:
    """Writers of the catalog rely on SQLite's own locks, and do not wait for them."""

    class Nothing:
        def __enter__(self) -> Any:
            return self

        def __exit__(self, *_: object) -> None:
            return None

    _replace(catalog_file.CatalogFile, "_catalog_lock", lambda self: Nothing())
    _replace(catalog_file, "BUSY_TIMEOUT_S", 0.0)


@mutant
def hash_unchecked_on_read() -> None:
    """What a frame decodes to is served without comparing its id."""

    def chunk(self: Any, chunk_id: Any, place: Any, *prefix: Any) -> bytes:
        where = (place.pack_id, place.block_offset, place.stored_length, place.raw_length)
        raw = self.block(*where, *prefix)
        found: bytes = raw[place.offset : place.offset + place.length]
        return found

    _replace(pack_reader.PackReader, "chunk", chunk)


@mutant
def checksum_off() -> None:
    """Frames carry no checksum, and readers do not ask for one."""
    import zstandard

    def compress_block(raw: Any, *, verify: bool = True) -> bytes:
        parameters = zstandard.ZstdCompressionParameters.from_level(
            3, window_log=20, write_checksum=False, write_content_size=True, write_dict_id=False
        )
        return zstandard.ZstdCompressor(compression_params=parameters).compress(raw)

    from layerstore.store.packs import pipeline

    _replace(codec, "compress_block", compress_block)
    _replace(pipeline, "compress_block", compress_block)
