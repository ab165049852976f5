"""The seed case: a thousand applications of 15 MB on one distribution of 800 MB.

As full copies (what virtual machines pay), as docker layers, and here: on disk, in memory while
many run, and in time to start. ``python -m tests.bench.seed --help``.
"""
