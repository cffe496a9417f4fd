"""What holds for every test: nothing reports to anyone, and a busy machine is no failure."""

from __future__ import annotations

from hypothesis import settings

from lpcnet_edge.backends.quiet import silence_libraries

silence_libraries()
settings.register_profile("lpcnet-edge", deadline=None)
settings.load_profile("lpcnet-edge")
