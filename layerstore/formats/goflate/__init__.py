"""The deflate that Go's compress/flate makes; it needs the extra ``layerstore[go]``."""

import os
import sys

if "numba" not in sys.modules and os.path.lexists(".numba_config.yaml"):
    # That says where numba loads code from, and the working directory may be a stranger's.
    raise ImportError("numba would obey the .numba_config.yaml of the working directory")
