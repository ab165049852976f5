"""Containers of images: their records, their starts, the monitor beside each, and what asks them.

No daemon: what is true of a container is asked of its files and locks (:mod:`.states`), and one
small monitor a container (:mod:`.monitor`) holds its streams, waits for its end and restarts it.
"""
