"""``python -m layerstore``: the command line, as ``cli/script/layerstore-python`` has it."""

from __future__ import annotations

import sys

from layerstore.cli.warm_client import answer

code = answer(sys.argv[1:])
if code is None:
    from layerstore.cli.main import main

    code = main()
sys.exit(code)
