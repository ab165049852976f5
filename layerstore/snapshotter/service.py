"""containerd's snapshots service over gRPC: messages in and out, errors as codes.

Nothing is decided here. What a snapshotter refuses gets the code by which containerd knows it;
whatever else goes wrong in the store is an answer with its message, and in the log.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeVar

import grpc
from google.protobuf.empty_pb2 import Empty

from layerstore.errors import (
    ConflictError,
    InputError,
    IntegrityError,
    LayerstoreError,
    NotFoundError,
    StorageError,
    UnsupportedError,
)
from layerstore.snapshotter.api import mount_pb2, snapshots_pb2
from layerstore.snapshotter.failures import SnapshotExistsError, SnapshotNotFoundError
from layerstore.snapshotter.records import ACTIVE, COMMITTED, VIEW
from layerstore.store.failures import StoreFullError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from google.protobuf.message import Message

    from layerstore.snapshotter.records import Snapshot
    from layerstore.snapshotter.showing import Mount
    from layerstore.snapshotter.snapshots import Snapshots

SERVICE: Final = "containerd.services.snapshots.v1.Snapshots"

_LISTED_TOGETHER: Final = 100
"""Snapshots in one message of a list, as containerd's own service has it."""

_KINDS: Final = {
    VIEW: snapshots_pb2.VIEW,
    ACTIVE: snapshots_pb2.ACTIVE,
    COMMITTED: snapshots_pb2.COMMITTED,
}

# The first that fits: leaves before their families.
_CODES: Final = (
    (SnapshotExistsError, grpc.StatusCode.ALREADY_EXISTS),
    (SnapshotNotFoundError, grpc.StatusCode.NOT_FOUND),
    (NotFoundError, grpc.StatusCode.INTERNAL),  # of the store's, which containerd does not know
    (ConflictError, grpc.StatusCode.FAILED_PRECONDITION),
    (InputError, grpc.StatusCode.INVALID_ARGUMENT),
    (StoreFullError, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (StorageError, grpc.StatusCode.UNAVAILABLE),
    (IntegrityError, grpc.StatusCode.DATA_LOSS),
    (UnsupportedError, grpc.StatusCode.UNIMPLEMENTED),
)
_EXPECTED: Final = frozenset(
    {
        grpc.StatusCode.ALREADY_EXISTS,
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.INVALID_ARGUMENT,
    }
)
"""Answers that containerd's ordinary work brings about: these are not logged."""

_Request = TypeVar("_Request", bound="Message")


class SnapshotsService:
    """Answers calls.

    Args:
        snapshots: Does what is asked.
        tell: Gets a line about each failure of ours.
    """

    def __init__(self, snapshots: Snapshots, tell: Callable[[str], None]) -> None:
        self._snapshots = snapshots
        self._tell = tell

    def handlers(self) -> grpc.GenericRpcHandler:
        """Return the service for a server to register."""
        one: dict[str, tuple[Callable[..., Message], type[Message]]] = {
            "Prepare": (self._prepare, snapshots_pb2.PrepareSnapshotRequest),
            "View": (self._view, snapshots_pb2.ViewSnapshotRequest),
            "Mounts": (self._mounts, snapshots_pb2.MountsRequest),
            "Commit": (self._commit, snapshots_pb2.CommitSnapshotRequest),
            "Remove": (self._remove, snapshots_pb2.RemoveSnapshotRequest),
            "Stat": (self._stat, snapshots_pb2.StatSnapshotRequest),
            "Update": (self._update, snapshots_pb2.UpdateSnapshotRequest),
            "Usage": (self._usage, snapshots_pb2.UsageRequest),
            "Cleanup": (self._cleanup, snapshots_pb2.CleanupRequest),
        }
        methods: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
            name: grpc.unary_unary_rpc_method_handler(
                self._answering(name, method),
                request_deserializer=request.FromString,
                response_serializer=_serialize,
            )
            for name, (method, request) in one.items()
        }
        methods["List"] = grpc.unary_stream_rpc_method_handler(
            self._list,
            request_deserializer=snapshots_pb2.ListSnapshotsRequest.FromString,
            response_serializer=_serialize,
        )
        return grpc.method_handlers_generic_handler(SERVICE, methods)

    def _answering(
        self, name: str, method: Callable[[_Request], Message]
    ) -> Callable[[_Request, grpc.ServicerContext], Message]:
        def answer(request: _Request, context: grpc.ServicerContext) -> Message:
            try:
                return method(request)
            except (LayerstoreError, OSError) as err:
                self._refuse(name, err, context)

        return answer

    def _refuse(
        self, name: str, err: LayerstoreError | OSError, context: grpc.ServicerContext
    ) -> NoReturn:
        code = next((code for kind, code in _CODES if isinstance(err, kind)), None)
        message = err.message if isinstance(err, LayerstoreError) else str(err)
        if isinstance(err, LayerstoreError) and err.hint:
            message = f"{message} ({err.hint})"
        if code not in _EXPECTED:
            self._tell(f"{name} failed: {message}")
        context.abort(code or grpc.StatusCode.INTERNAL, message)

    def _prepare(self, request: snapshots_pb2.PrepareSnapshotRequest) -> Message:
        found = self._snapshots.prepare(request.key, request.parent, dict(request.labels))
        return snapshots_pb2.PrepareSnapshotResponse(mounts=_mounts(found))

    def _view(self, request: snapshots_pb2.ViewSnapshotRequest) -> Message:
        found = self._snapshots.view(request.key, request.parent, dict(request.labels))
        return snapshots_pb2.ViewSnapshotResponse(mounts=_mounts(found))

    def _mounts(self, request: snapshots_pb2.MountsRequest) -> Message:
        return snapshots_pb2.MountsResponse(mounts=_mounts(self._snapshots.mounts(request.key)))

    def _commit(self, request: snapshots_pb2.CommitSnapshotRequest) -> Message:
        self._snapshots.commit(request.name, request.key, dict(request.labels))
        return Empty()

    def _remove(self, request: snapshots_pb2.RemoveSnapshotRequest) -> Message:
        self._snapshots.remove(request.key)
        return Empty()

    def _stat(self, request: snapshots_pb2.StatSnapshotRequest) -> Message:
        return snapshots_pb2.StatSnapshotResponse(info=_info(*self._snapshots.stat(request.key)))

    def _update(self, request: snapshots_pb2.UpdateSnapshotRequest) -> Message:
        info = request.info
        changed = self._snapshots.update(
            info.name, dict(info.labels), list(request.update_mask.paths)
        )
        return snapshots_pb2.UpdateSnapshotResponse(info=_info(*changed))

    def _usage(self, request: snapshots_pb2.UsageRequest) -> Message:
        return snapshots_pb2.UsageResponse(**self._snapshots.usage(request.key)._asdict())

    def _cleanup(self, _request: snapshots_pb2.CleanupRequest) -> Message:
        self._snapshots.cleanup()
        return Empty()

    def _list(
        self, request: snapshots_pb2.ListSnapshotsRequest, context: grpc.ServicerContext
    ) -> Iterator[Message]:
        try:
            found = self._snapshots.select(list(request.filters))
        except (LayerstoreError, OSError) as err:
            self._refuse("List", err, context)
        for start in range(0, len(found), _LISTED_TOGETHER):
            some = found[start : start + _LISTED_TOGETHER]
            yield snapshots_pb2.ListSnapshotsResponse(info=[_info(*each) for each in some])


def _serialize(message: Message) -> bytes:
    return message.SerializeToString()


def _mounts(mounts: Iterable[Mount]) -> list[mount_pb2.Mount]:
    return [
        mount_pb2.Mount(type=each.fstype, source=each.source, options=each.options)
        for each in mounts
    ]


def _info(snapshot: Snapshot, parent: str) -> snapshots_pb2.Info:
    info = snapshots_pb2.Info(
        name=snapshot.key, parent=parent, kind=_KINDS[snapshot.kind], labels=snapshot.labels
    )
    info.created_at.FromNanoseconds(snapshot.created_ns)
    info.updated_at.FromNanoseconds(snapshot.updated_ns)
    return info
