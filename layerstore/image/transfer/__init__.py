"""Images between layerstore machines: only what the receiver lacks, as small as it gets.

``having`` says what a receiver has, ``lacking`` what it therefore needs, ``saving`` and
``loading`` move that as a bundle (docs/format/bundle.md). ``receiving`` is how anything that
comes from another machine gets into a store: nothing is believed.
"""
