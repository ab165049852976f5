"""containerd's snapshots kept in a store: a proxy plugin (``layerstore snapshotter``).

containerd asks, over gRPC, for root file systems to write layers into and to run
containers on; what it commits becomes layers of the store. The life cycle is
:mod:`layerstore.snapshotter.snapshots`, what happens after an answer
:mod:`layerstore.snapshotter.settling`; gRPC is known in
:mod:`layerstore.snapshotter.service` and :mod:`layerstore.snapshotter.server` alone.
Decisions 0185 and 0186.
"""
