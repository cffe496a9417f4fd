"""``python -m lpcnet_edge.cli``, for where the console script is not on the path."""

import sys

from lpcnet_edge.cli.command import main

sys.exit(main())
