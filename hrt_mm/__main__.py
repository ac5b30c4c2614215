"""``python -m hrt_mm``, as torchrun starts it, is the command ``hrt-mm``."""

from __future__ import annotations

import sys

from .cli.main import main

if __name__ == "__main__":
    sys.exit(main())
