"""Opening a backend by name; ``auto`` takes the first that is installed, in the order of speed, and says which."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from lpcnet_edge.backends.base import Backend
from lpcnet_edge.backends.cuda.settings import CudaSettings
from lpcnet_edge.backends.null import NullBackend
from lpcnet_edge.backends.tuning import Tuning, default_tuning, load_tuning
from lpcnet_edge.bundle.cache import machine_cache
from lpcnet_edge.bundle.read import Bundle
from lpcnet_edge.config import suggest
from lpcnet_edge.errors import MissingLibrary, UsageError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Wishes:
    """How a backend is to be opened: what :func:`open_backend` takes by keyword."""

    tuning: Tuning | None
    use_cache: bool
    cuda: CudaSettings


def open_backend(
    bundle: Bundle,
    name: str = "auto",
    *,
    tuning: Tuning | None = None,
    use_cache: bool = True,
    cuda: CudaSettings | None = None,
) -> Backend:
    """Open both stages of a bundle on a backend.

    Parameters
    ----------
    name
        One of ``BACKENDS``, or ``auto``: the first of ``GPU_AUTO`` that finds a device and its engines ready, else the
        first of ``AUTO`` that is installed.
    tuning
        How to use the processor; by default what ``lpcnet-edge tune`` found here, else all cores in one stream.
    use_cache
        Take compiled models and the tuning from the machine's cache, and keep compiled models there.
    cuda
        How to use a GPU.

    Raises
    ------
    UsageError
        There is no such backend.
    MissingLibrary, MissingDevice
        It is not installed, or its device is not there; a backend that was asked for by name is never replaced by
        another.
    BadArtifact
        It refuses a stage.
    StaleCache, UnsafeCache
        The machine's cache must not be used.
    """
    wishes = Wishes(tuning, use_cache, cuda or CudaSettings())
    if name == "auto":
        name = _first(bundle, wishes)
    if name not in BACKENDS:
        raise UsageError(
            f"no backend is called '{name}'",
            mend=suggest(name, ["auto", *(known for known in BACKENDS if known != "null")]),
        )
    return BACKENDS[name](bundle, wishes)


def first_choice(bundle: Bundle) -> str:
    """What ``auto`` means here; raises ``MissingLibrary`` where there is nothing to take."""
    return _first(bundle, Wishes(None, use_cache=True, cuda=CudaSettings()))


def _first(bundle: Bundle, wishes: Wishes) -> str:
    for known, is_ready in GPU_AUTO.items():
        if is_ready(bundle, wishes):
            return known
    installed = [known for known in AUTO if find_spec(known) is not None]
    if not installed:
        raise MissingLibrary(f"none of {', '.join(AUTO)} is installed", mend="pip install openvino")
    return installed[0]


def _open_openvino(bundle: Bundle, wishes: Wishes) -> Backend:
    _need("openvino")
    from lpcnet_edge.backends.openvino_slots import OpenVinoBackend

    cache = tuning_cache(bundle, "openvino") if wishes.use_cache else None
    return OpenVinoBackend(bundle, wishes.tuning or _kept(cache), cache=cache)


def _open_onnxruntime(bundle: Bundle, wishes: Wishes) -> Backend:
    _need("onnxruntime")
    from lpcnet_edge.backends.onnxruntime_slots import OnnxRuntimeBackend

    cache = tuning_cache(bundle, "onnxruntime") if wishes.use_cache and wishes.tuning is None else None
    return OnnxRuntimeBackend(bundle, wishes.tuning or _kept(cache))


def _open_torch_cuda(bundle: Bundle, wishes: Wishes) -> Backend:
    if find_spec("torch") is None:
        raise MissingLibrary(
            "the backend torch-cuda was asked for and torch is not installed", mend="pip install torch, with CUDA"
        )
    from lpcnet_edge.backends.torch_cuda import open_torch_cuda

    return open_torch_cuda(bundle, wishes.cuda)


def _open_tensorrt(module: str, bundle: Bundle, wishes: Wishes) -> Backend:
    from lpcnet_edge.backends.cuda.slots import SIZES
    from lpcnet_edge.backends.tensorrt_open import open_tensorrt_backend

    sizes = wishes.tuning.sizes if wishes.tuning is not None else SIZES
    return open_tensorrt_backend(bundle, module, wishes.cuda, use_cache=wishes.use_cache, sizes=sizes)


def _has_plans(module: str, bundle: Bundle, wishes: Wishes) -> bool:
    if find_spec(module) is None:
        return False
    from lpcnet_edge.backends.tensorrt_open import is_ready

    return is_ready(bundle, module, use_cache=wishes.use_cache)


def _open_null(bundle: Bundle, wishes: Wishes) -> Backend:
    return NullBackend(bundle.manifest)


BACKENDS: dict[str, Callable[[Bundle, Wishes], Backend]] = {
    "openvino": _open_openvino,
    "onnxruntime": _open_onnxruntime,
    "tensorrt": partial(_open_tensorrt, "tensorrt"),
    "tensorrt-rtx": partial(_open_tensorrt, "tensorrt_rtx"),
    "torch-cuda": _open_torch_cuda,
    "null": _open_null,
}

AUTO = ("openvino", "onnxruntime")
"""Those on the processor, fastest first."""

GPU_AUTO: dict[str, Callable[[Bundle, Wishes], bool]] = {
    "tensorrt": partial(_has_plans, "tensorrt"),
    "tensorrt-rtx": partial(_has_plans, "tensorrt_rtx"),
}
"""Those on a GPU, best first, each with the question whether a device is here and the bundle or the machine's cache
holds what it opens: ``auto`` builds nothing. ``torch-cuda`` is for those who ask for it."""


def tuning_cache(bundle: Bundle, name: str) -> Path | None:
    """This machine's cache folder for the bundle on a CPU backend; None, with a warning, where none can be made."""
    _need(name)
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
