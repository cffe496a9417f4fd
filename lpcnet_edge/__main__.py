"""``python -m lpcnet_edge``, for where the console script is not on the path."""

import sys

from lpcnet_edge.cli import main

sys.exit(main())
