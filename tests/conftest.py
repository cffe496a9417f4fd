"""What holds for every test: nothing reports to anyone, and a busy machine is no failure."""

from __future__ import annotations

from importlib.util import find_spec

from lpcnet_edge.backends.quiet import silence_libraries

silence_libraries()
if find_spec("hypothesis") is not None:  # no test marked gpu needs it
    from hypothesis import settings

    settings.register_profile("lpcnet-edge", deadline=None)
    settings.load_profile("lpcnet-edge")
