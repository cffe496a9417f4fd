"""Opening a backend by name; ``auto`` takes the first that is installed, in the order of speed, and says which."""

from __future__ import annotations

import logging
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from lpcnet_edge.backends.base import Backend
from lpcnet_edge.backends.null import NullBackend
from lpcnet_edge.backends.tuning import Tuning, default_tuning, load_tuning
from lpcnet_edge.bundle.cache import machine_cache
from lpcnet_edge.bundle.read import Bundle
from lpcnet_edge.config import suggest
from lpcnet_edge.errors import MissingLibrary, UsageError

log = logging.getLogger(__name__)


def open_backend(
    bundle: Bundle, name: str = "auto", *, tuning: Tuning | None = None, use_cache: bool = True
) -> Backend:
    """Open both stages of a bundle on a backend.

    Parameters
    ----------
    name
        One of ``BACKENDS``, or ``auto``: the first of ``AUTO`` that is installed.
    tuning
        How to use the machine; by default what ``lpcnet-edge tune`` found here, else all cores in one stream.
    use_cache
        Take compiled models and the tuning from the machine's cache, and keep compiled models there.

    Raises
    ------
    UsageError
        There is no such backend.
    MissingLibrary
        It is not installed; a backend that was asked for by name is never replaced by another.
    BadArtifact
        It refuses a stage.
    StaleCache, UnsafeCache
        The machine's cache must not be used.
    """
    if name == "auto":
        installed = [known for known in AUTO if find_spec(known) is not None]
        if not installed:
            raise MissingLibrary(f"none of {', '.join(AUTO)} is installed", mend="pip install openvino")
        name = installed[0]
    if name not in BACKENDS:
        raise UsageError(f"no backend is called '{name}'", mend=suggest(name, ["auto", *BACKENDS]))
    return BACKENDS[name](bundle, tuning, use_cache)


def _open_openvino(bundle: Bundle, tuning: Tuning | None, use_cache: bool) -> Backend:
    _need("openvino")
    from lpcnet_edge.backends.openvino_slots import OpenVinoBackend

    cache = tuning_cache(bundle, "openvino") if use_cache else None
    return OpenVinoBackend(bundle, tuning or _kept(cache), cache=cache)


def _open_onnxruntime(bundle: Bundle, tuning: Tuning | None, use_cache: bool) -> Backend:
    _need("onnxruntime")
    from lpcnet_edge.backends.onnxruntime_slots import OnnxRuntimeBackend

    cache = tuning_cache(bundle, "onnxruntime") if use_cache and tuning is None else None
    return OnnxRuntimeBackend(bundle, tuning or _kept(cache))


def _open_null(bundle: Bundle, tuning: Tuning | None, use_cache: bool) -> Backend:
    return NullBackend(bundle.manifest)


BACKENDS: dict[str, Callable[[Bundle, Tuning | None, bool], Backend]] = {
    "openvino": _open_openvino,
    "onnxruntime": _open_onnxruntime,
    "null": _open_null,
}

AUTO = ("openvino", "onnxruntime")


def tuning_cache(bundle: Bundle, name: str) -> Path | None:
    """This machine's cache folder for the bundle on a CPU backend; None, with a warning, where none can be made."""
    if name == "openvino":
        from lpcnet_edge.backends.openvino_slots import OpenVinoBackend as Opened

        version, device = Opened.version, Opened.device()
    else:
        from lpcnet_edge.backends.onnxruntime import OnnxRuntimeEngine

        version, device = OnnxRuntimeEngine.version, "CPU"
    try:
        return machine_cache(bundle.id, name, version, device)
    except OSError as exc:
        log.warning("nothing is kept for the next start: %s: %s", exc.filename, exc.strerror)
        return None


def _kept(cache: Path | None) -> Tuning:
    return (load_tuning(cache) if cache is not None else None) or default_tuning()


def _need(library: str) -> None:
    if find_spec(library) is None:
        raise MissingLibrary(f"the backend {library} was asked for and is not installed", mend=f"pip install {library}")
