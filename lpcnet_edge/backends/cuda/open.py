"""Opening a CUDA device through one of the bindings."""

from __future__ import annotations

import logging
import warnings
from importlib.util import find_spec
from typing import Literal

from lpcnet_edge.backends.cuda.device import Device
from lpcnet_edge.backends.cuda.errors import DRIVER_MEND
from lpcnet_edge.errors import MissingDevice, MissingLibrary

Binding = Literal["auto", "cuda-bindings", "pycuda"]
log = logging.getLogger(__name__)

_MODULES = {"cuda-bindings": "cuda.bindings", "pycuda": "pycuda"}
_INSTALL = {
    "cuda-bindings": "pip install 'cuda-bindings==12.9.*' for a driver of CUDA 12, 'cuda-bindings==13.*' for one of 13",
    "pycuda": "pip install pycuda, which builds against the machine's CUDA toolkit",
}


def open_device(binding: Binding = "auto", ordinal: int = 0) -> Device:
    """Open a device.

    Parameters
    ----------
    binding
        ``auto`` takes ``cuda-bindings`` where it is installed, else ``pycuda``; one named is never replaced.
    ordinal
        The device's number among those that ``CUDA_VISIBLE_DEVICES`` leaves.

    Raises
    ------
    MissingLibrary
        The binding is not installed, or is made for a newer driver than this one.
    MissingDevice
        There is no driver or no such device, or it cannot be used.
    BackendFailed
        CUDA refused to make a context.
    """
    if binding == "auto":
        binding = "pycuda" if is_installed("pycuda") and not is_installed("cuda-bindings") else "cuda-bindings"
        log.info("CUDA is called through %s", binding)
    if not is_installed(binding):
        raise MissingLibrary(f"{binding} is not installed", mend=_INSTALL[binding])
    try:
        if binding == "pycuda":
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # PyCUDA's, before it raises what is told below
                from lpcnet_edge.backends.cuda.pycuda_device import open_device as opener
        else:
            from lpcnet_edge.backends.cuda.bindings import open_device as opener  # type: ignore[assignment]
    except ImportError as exc:
        if "libcuda.so" in str(exc):
            raise MissingDevice(f"no NVIDIA driver is here: {exc}", mend=DRIVER_MEND) from exc
        mend = f"install it anew, for this machine's CUDA: {_INSTALL[binding]}"
        raise MissingLibrary(f"{binding} is installed and cannot be loaded: {exc}", mend=mend) from exc
    return opener(ordinal)


def is_installed(binding: str) -> bool:
    """Whether a binding is there, without loading it."""
    try:
        return find_spec(_MODULES[binding]) is not None
    except ImportError:  # `cuda` itself is not there
        return False
