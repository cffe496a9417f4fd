"""Both stages of a bundle by TensorRT or TensorRT-RTX: plans are found, verified, and only then deserialised."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec

from lpcnet_edge.backends.base import Slot
from lpcnet_edge.backends.cuda.device import Device, Properties
from lpcnet_edge.backends.cuda.memory import TileShape
from lpcnet_edge.backends.cuda.open import is_installed, open_device
from lpcnet_edge.backends.cuda.settings import CudaSettings
from lpcnet_edge.backends.cuda.slots import SIZES, CudaBackend
from lpcnet_edge.backends.cuda_driver import cuda_driver
from lpcnet_edge.backends.tensorrt import load_library
from lpcnet_edge.backends.tensorrt_plans import FoundPlans, find_plans
from lpcnet_edge.backends.tensorrt_runtime import TensorRtStage
from lpcnet_edge.bundle.read import Bundle
from lpcnet_edge.errors import LpcnetError, MissingDevice, MissingLibrary, PlanMismatch

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TensorRtStages:
    """The stages by name, ``localization`` and ``confidence``, and in words what runs them from where."""

    stages: dict[str, TensorRtStage]
    about: str

    def close(self) -> None:
        """Close both; twice is fine."""
        for stage in self.stages.values():
            stage.close()


def open_tensorrt(bundle: Bundle, module: str, device: Device, *, use_cache: bool = True) -> TensorRtStages:
    """Load the plans of a bundle for this very device.

    Parameters
    ----------
    module
        ``tensorrt`` or ``tensorrt_rtx``.
    device
        On which the plans run; it outlives the stages.
    use_cache
        Take plans and compiled kernels from this machine's cache, and keep kernels there.

    Raises
    ------
    MissingLibrary
        The module is not installed, or of a version that is not served.
    PlanMismatch
        Neither the bundle nor this machine's cache holds plans for it: nothing was deserialised.
    MissingDevice, BackendFailed, BadArtifact, StaleCache, UnsafeCache
        As :func:`~lpcnet_edge.backends.tensorrt_plans.find_plans` and
        :class:`~lpcnet_edge.backends.tensorrt_runtime.TensorRtStage`.
    """
    library = load_library(module)
    found = find_plans(bundle, library, device.properties, use_cache=use_cache)
    name = module.replace("_", "-")
    rebuild = f"lpcnet-edge build --from {shlex.quote(str(bundle.path))} --backend {name}"
    opened = TensorRtStages({}, f"{name} {library.version} on {device.properties.name}, plans of {found.where}")
    try:
        for stage, spec in bundle.manifest.stages.items():
            opened.stages[stage] = TensorRtStage(
                library,
                found.plans[stage],
                spec,
                device,
                what=f"the {stage} plan of {found.where}",
                rebuild=rebuild,
                cache=found.cache,
                name=stage,
            )
    except BaseException:
        opened.close()
        raise
    return opened


class TensorRtBackend(CudaBackend):
    """The stages on a device, as a backend. What making a slot compiled is kept at once: a station may be killed."""

    def make_slot(self, tiles: int) -> Slot:
        """As :meth:`~lpcnet_edge.backends.cuda.slots.CudaBackend.make_slot`."""
        slot = super().make_slot(tiles)
        for stage in self._stages.values():
            if isinstance(stage, TensorRtStage):
                stage.keep()
        return slot


def open_tensorrt_backend(
    bundle: Bundle,
    module: str,
    settings: CudaSettings | None = None,
    *,
    use_cache: bool = True,
    sizes: Sequence[int] = SIZES,
) -> TensorRtBackend:
    """Open the first GPU that ``CUDA_VISIBLE_DEVICES`` leaves, and the bundle's plans on it.

    Raises as :func:`open_tensorrt`, :func:`~lpcnet_edge.backends.cuda.open.open_device` and
    :class:`~lpcnet_edge.backends.cuda.slots.CudaBackend` do.
    """
    settings = settings or CudaSettings()
    load_library(module)
    device = open_device(settings.binding)
    try:
        opened = open_tensorrt(bundle, module, device, use_cache=use_cache)
    except BaseException:
        device.close()
        raise
    shape, name = TileShape.of(bundle.manifest), module.replace("_", "-")
    return TensorRtBackend(device, opened.stages, shape, settings, name=name, about=opened.about, sizes=sizes)


def is_ready(bundle: Bundle, module: str, *, use_cache: bool = True) -> bool:
    """Whether :func:`open_tensorrt` would find the library, a GPU and plans for it; opens none of them.

    Plans that are there and must not be used are a warning: who did not ask for this backend is served by another.
    """
    if find_spec(module) is None or not any(map(is_installed, ("cuda-bindings", "pycuda"))):
        return False
    try:
        find_here(bundle, module, use_cache=use_cache)
    except (MissingDevice, MissingLibrary, PlanMismatch):
        return False
    except LpcnetError as exc:
        log.warning("%s is left out: %s", module.replace("_", "-"), exc)
        return False
    return True


def find_here(bundle: Bundle, module: str, *, use_cache: bool = True) -> FoundPlans:
    """The plans for this machine's first GPU, as the driver names it; nothing is opened.

    Raises ``MissingDevice`` where there is none, and as :func:`~lpcnet_edge.backends.tensorrt_plans.find_plans` does.
    """
    driver = cuda_driver(None)
    if not driver.devices:
        raise MissingDevice(f"no NVIDIA GPU to run plans on: {driver.error}", mend="lpcnet-edge doctor has more")
    first = driver.devices[0]
    card = Properties(first.name, first.compute_capability, integrated=False, maps_host=False, memory_bytes=0)
    return find_plans(bundle, load_library(module), card, use_cache=use_cache)
