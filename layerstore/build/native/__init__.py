"""The native spec, ``layerstore.toml``: an image in a few lines, lowered to the build graph.

From the text down: :mod:`places` and :mod:`reader` (TOML with line and column), :mod:`includes`
(one document of several files), :mod:`templates` and :mod:`matrix` (arguments and variants),
:mod:`spec` and :mod:`decoding` (typed records), :mod:`lowering` and :mod:`stages` (records to
vertices), :mod:`bases`, :mod:`packages` and :mod:`installing` (what apt, pip and npm are asked to
do), :mod:`container` (the config), :mod:`lockfile` and :mod:`locking`; :mod:`checks`.

Reference: docs/reference/layerstore-toml.md.
"""
