"""`python -m metafora_trio.cli` is `metafora`."""

from __future__ import annotations

import sys

from . import main

sys.exit(main())
