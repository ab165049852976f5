"""``python -m layerstore``: the command line."""

from __future__ import annotations

import sys

from layerstore.cli.main import main

sys.exit(main())
