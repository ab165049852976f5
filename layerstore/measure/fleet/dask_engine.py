"""Fleets on Dask's ``distributed``: each store is read where it is, ranges merge side by side.

A worker keeps the records of the stores it has read as one value, which Dask spills to its
disk when memory gets short; of these, slices travel to whoever merges a range. What comes back
to this process is a summary for each store and one :class:`Merged` for each range.

Trust: Dask moves pickles, so whoever reaches a scheduler or worker runs code there, and a
scheduler runs code here. Without TLS only the loopback is spoken to, and a cluster that is
started here listens there alone.
"""

from __future__ import annotations

import contextlib
import importlib
import ipaddress
from typing import TYPE_CHECKING, Any, Self

import msgspec

from layerstore import errors
from layerstore.errors import (
    ConflictError,
    InputError,
    LayerstoreError,
    NotFoundError,
    StorageError,
)
from layerstore.measure.fleet.records import Merged, Range, bounds_of, merge
from layerstore.measure.fleet.summary import StoreSummary, named, summarize

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from layerstore.measure.fleet.analysis import Place

EXTRA_HINT = "install layerstore[cluster]: pip install distributed"
LOOPBACK = "127.0.0.1"
_CONNECT_S = 20

_PLAIN = frozenset({"tcp", "ws"})


class Certificates(msgspec.Struct, frozen=True):
    """Files in PEM that Dask's TLS is set up with; empty ones are Dask's configuration's."""

    authority: str = ""
    certificate: str = ""
    key: str = ""


def check_scheduler(address: str) -> None:
    """Refuse a scheduler that would be spoken to in the clear over a network.

    Raises:
        InputError: Not an address, or a plain one beyond this host.
    """
    scheme, separator, rest = address.partition("://")
    host = rest.rpartition(":")[0].strip("[]")
    if not separator or not host:
        raise InputError(f"{address!r} is no scheduler's address", hint="expected tls://HOST:8786")
    if scheme in _PLAIN and not _is_loopback(host):
        raise InputError(
            f"{address} is not encrypted, and whoever is between could run code here",
            hint="give the scheduler certificates and name it as tls://HOST:PORT",
        )


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return False


class DaskEngine:
    """A cluster: a running one by its scheduler's address, or workers of this host.

    Use it in a ``with`` block.

    Args:
        scheduler: Address, or empty to start workers here, on the loopback alone.
        workers: How many to start.
        certificates: For ``tls://``.

    Raises:
        UnsupportedError: ``distributed`` is not installed.
        InputError: The scheduler's address will not do.
        StorageError: It does not answer.
    """

    def __init__(
        self, *, scheduler: str = "", workers: int = 2, certificates: Certificates | None = None
    ) -> None:
        try:
            distributed: Any = importlib.import_module("distributed")  # it has no types
        except ImportError as err:
            raise errors.UnsupportedError(
                f"the engine dask needs {err.name}, which is not installed", hint=EXTRA_HINT
            ) from err
        self._stack = contextlib.ExitStack()
        self._held: list[Any] = []
        if scheduler:
            check_scheduler(scheduler)
        security = _security(distributed, scheduler, certificates)
        with contextlib.ExitStack() as stack:
            target: Any = scheduler
            if not scheduler:
                target = stack.enter_context(
                    distributed.LocalCluster(
                        n_workers=workers,
                        threads_per_worker=1,
                        host=LOOPBACK,
                        dashboard_address=f"{LOOPBACK}:0",
                        worker_dashboard_address=f"{LOOPBACK}:0",
                    )
                )
            try:
                self._client = stack.enter_context(
                    distributed.Client(
                        target,
                        timeout=_CONNECT_S,
                        set_as_default=False,
                        security=security,
                    )
                )
            except (OSError, TimeoutError, TypeError, RuntimeError) as err:
                raise StorageError(
                    f"the scheduler {scheduler} cannot be used: {str(err)[:300]}",
                    hint="see that it runs, and that the certificates are its",
                ) from err
            self._stack = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._held.clear()
        self._stack.close()

    def summaries(self, places: Sequence[Place]) -> list[StoreSummary | LayerstoreError]:
        """Read the stores, each on the host it names, all at once.

        Raises:
            NotFoundError: There is no worker of a name.
            ConflictError: A worker has another version of layerstore.
        """
        self._require_hosts(places)
        held = [
            self._client.submit(
                _summarize, place.root, pure=False, workers=[place.host] if place.host else None
            )
            for place in places
        ]
        told = [self._client.submit(_head, each, pure=False) for each in held]
        found: list[StoreSummary | LayerstoreError] = []
        for place, records, task in zip(places, held, told, strict=True):
            found.append(self._summary_of(place, task))
            if isinstance(found[-1], StoreSummary):
                self._held.append(records)
        return found

    def _summary_of(self, place: Place, task: Any) -> StoreSummary | LayerstoreError:  # noqa: ANN401 -- no types
        try:
            (answer,) = self._gather([task])
        except StorageError as err:  # its worker ended, say
            return named(err, place.label)
        if "error" in answer:
            return named(_error_of(answer), place.label)
        try:
            return msgspec.convert(answer, StoreSummary)
        except msgspec.ValidationError as err:
            raise ConflictError(
                f"{place.label}: its worker has another version of layerstore",
                hint="install the same version on every worker",
            ) from err

    def merged(self, parts: Sequence[Range], top: int) -> Iterator[Merged]:
        """Merge ranges, a few for each worker at a time: that bounds what travels at once."""
        abreast = 2 * max(1, len(self._client.scheduler_info(n_workers=-1)["workers"]))
        for start in range(0, len(parts), abreast):
            tasks = [
                self._client.submit(
                    _merge,
                    [
                        self._client.submit(_cut, held, tuple(part), pure=False)
                        for held in self._held
                    ],
                    top,
                    pure=False,
                )
                for part in parts[start : start + abreast]
            ]
            for answer in self._gather(tasks):
                yield msgspec.json.decode(answer, type=Merged)

    def _require_hosts(self, places: Sequence[Place]) -> None:
        """Refuse hosts without a worker: a task for one would wait for ever."""
        workers = self._client.scheduler_info(n_workers=-1)["workers"]
        if not workers:
            raise NotFoundError(
                "the scheduler has no workers", hint="start dask worker on each host"
            )
        known = {str(worker.get("name", "")) for worker in workers.values()}
        known |= {str(worker.get("host", "")) for worker in workers.values()} | set(workers)
        for place in places:
            if place.host and place.host not in known:
                raise NotFoundError(
                    f"the scheduler has no worker {place.host}",
                    hint=f"it has: {', '.join(sorted(known))[:300]}",
                )

    def _gather(self, tasks: list[Any]) -> list[Any]:
        try:
            return list(self._client.gather(tasks))
        except LayerstoreError:
            raise
        except Exception as err:
            raise StorageError(
                f"a worker failed: {type(err).__name__}: {str(err)[:300]}",
                hint="see that layerstore is installed on every worker, and the workers' logs",
            ) from err


def _security(distributed: Any, scheduler: str, certificates: Certificates | None) -> Any:  # noqa: ANN401 -- no types
    if not scheduler.startswith("tls://"):
        return None
    given = certificates or Certificates()
    files = {
        "tls_ca_file": given.authority,
        "tls_client_cert": given.certificate,
        "tls_client_key": given.key,
    }
    # What is not given stays Dask's configuration's.
    security = distributed.Security(
        require_encryption=True, **{name: path for name, path in files.items() if path}
    )
    try:
        ready = security.get_connection_args("client").get("ssl_context") is not None
    except OSError as err:
        raise InputError(f"the certificates cannot be used: {str(err)[:300]}") from err
    if not ready:
        raise InputError(
            f"{scheduler} takes certificates, and none are given",
            hint="--tls-ca FILE --tls-cert FILE --tls-key FILE",
        )
    return security


# -- what runs on workers; errors travel as plain values, for ours do not unpickle everywhere


def _summarize(root: str) -> tuple[dict[str, Any], bytes]:
    try:
        summary, records = summarize(root)
    except LayerstoreError as err:
        return {"error": type(err).__name__, "message": err.message, "code": err.exit_code}, b""
    return msgspec.to_builtins(summary), records


def _head(held: tuple[dict[str, Any], bytes]) -> dict[str, Any]:
    return held[0]


def _cut(held: tuple[dict[str, Any], bytes], part: tuple[int, int]) -> bytes:
    start, stop = bounds_of(held[1], Range(*part))
    return held[1][start:stop]


def _merge(slices: list[bytes], top: int) -> bytes:
    return msgspec.json.encode(merge(slices, top))


def _error_of(answer: dict[str, Any]) -> LayerstoreError:
    """Return a worker's error as one of the same family here."""
    families: list[Callable[..., LayerstoreError]] = [
        family
        for family in vars(errors).values()
        if isinstance(family, type)
        and issubclass(family, LayerstoreError)
        and family.exit_code == answer["code"]
    ]
    # A worker of another version may have families that are unknown here.
    family = families[0] if families else StorageError
    return family(answer["message"])
