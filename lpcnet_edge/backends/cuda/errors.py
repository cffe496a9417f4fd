"""CUDA's errors as those of this package: which class each one is, and its mend.

Names are those of ``CUresult`` in the CUDA driver's ``cuda.h``; its comments say after which errors "the process must
be terminated and relaunched": those, and the ones that end the context, are :class:`~lpcnet_edge.errors.DeviceLost`.
"""

from __future__ import annotations

from lpcnet_edge.errors import BackendFailed, DeviceLost, LpcnetError, MissingDevice, MissingLibrary, UsageError

DRIVER_MEND = "install NVIDIA's driver and reboot (a Jetson: JetPack); lpcnet-edge doctor says what is here"
"""Where there is no driver at all."""
NEWER_MEND = "update NVIDIA's driver, or take the library of its CUDA: pip install 'cuda-bindings==12.9.*' for CUDA 12"
"""Where the driver is older than the library."""

_REBOOT = "reboot: the kernel's driver and libcuda.so.1 are of two versions, as after an update of the driver"
_VISIBLE = "see nvidia-smi -L and CUDA_VISIBLE_DEVICES; a container needs --gpus all (a Jetson: --runtime nvidia)"
_HERE: dict[str, tuple[type[LpcnetError], str]] = {
    "OUT_OF_MEMORY": (
        BackendFailed,
        "a smaller batch or fewer slots; nvidia-smi (a Jetson: tegrastats) shows who holds the memory",
    ),
    "NOT_INITIALIZED": (BackendFailed, "open the device in this very process: CUDA does not outlive a fork, use spawn"),
    "DEINITIALIZED": (BackendFailed, "close the device before the process ends"),
    "STUB_LIBRARY": (MissingDevice, "take the CUDA toolkit's stubs folder off LD_LIBRARY_PATH, and install the driver"),
    "CALL_REQUIRES_NEWER_DRIVER": (MissingLibrary, NEWER_MEND),
    "DEVICE_UNAVAILABLE": (MissingDevice, "end the process that holds the GPU alone, or sudo nvidia-smi -c DEFAULT"),
    "NO_DEVICE": (MissingDevice, _VISIBLE),
    "INVALID_DEVICE": (MissingDevice, _VISIBLE),
    "DEVICE_NOT_LICENSED": (MissingDevice, "give the virtual GPU its licence: nvidia-smi -q shows its state"),
    "SYSTEM_NOT_READY": (MissingDevice, "start the machine's fabric manager: systemctl status nvidia-fabricmanager"),
    "SYSTEM_DRIVER_MISMATCH": (MissingDevice, _REBOOT),
    "COMPAT_NOT_SUPPORTED_ON_DEVICE": (
        MissingDevice,
        "take the cuda-compat folder off LD_LIBRARY_PATH: this GPU's driver does not take newer libraries",
    ),
    "MPS_CONNECTION_FAILED": (MissingDevice, "start the MPS server, or unset CUDA_MPS_PIPE_DIRECTORY"),
    "INVALID_CONTEXT": (BackendFailed, "call device.make_current() in the thread that uses it"),
    "OPERATING_SYSTEM": (
        BackendFailed,
        "let the user open /dev/nvidia* (a Jetson: groups video, render)",
    ),
    "NOT_SUPPORTED": (BackendFailed, "cuda.memory: staged and cuda.graphs: off ask the least of a GPU"),
    "STREAM_CAPTURE_UNSUPPORTED": (BackendFailed, "cuda.graphs: off runs the same work without capturing it"),
    "STREAM_CAPTURE_INVALIDATED": (BackendFailed, "cuda.graphs: off runs the same work without capturing it"),
    "STREAM_CAPTURE_IMPLICIT": (BackendFailed, "cuda.graphs: off runs the same work without capturing it"),
}
_LOST = {
    "ECC_UNCORRECTABLE",
    "NVLINK_UNCORRECTABLE",
    "CONTAINED",
    "ILLEGAL_ADDRESS",
    "LAUNCH_TIMEOUT",
    "CONTEXT_IS_DESTROYED",
    "ASSERT",
    "HARDWARE_STACK_ERROR",
    "ILLEGAL_INSTRUCTION",
    "MISALIGNED_ADDRESS",
    "INVALID_ADDRESS_SPACE",
    "INVALID_PC",
    "LAUNCH_FAILED",
    "TENSOR_MEMORY_LEAK",
    "MPS_CLIENT_TERMINATED",
    "EXTERNAL_DEVICE",
    "UNKNOWN",
}
_LOST_MEND = "start the process again; isolate: true keeps the engine in a process of its own, started again by itself"
_ANY_MEND = "look the name up under CUresult in the CUDA driver's documentation; sudo dmesg | grep -i xid has more"


def cuda_error(name: str, text: str, call: str) -> LpcnetError:
    """The error of a call that CUDA refused.

    Parameters
    ----------
    name, text
        What CUDA calls it, as in ``CUDA_ERROR_OUT_OF_MEMORY`` and ``out of memory``.
    call
        The function that returned it. Work is asynchronous: what fails is often something enqueued before.
    """
    short = name.removeprefix("CUDA_ERROR_")
    if short in _LOST and call != "cuInit":
        return DeviceLost(f"the GPU failed: {call} gave {name}, {text}", mend=_LOST_MEND)
    error, mend = _HERE.get(short, (BackendFailed, _REBOOT if short == "UNKNOWN" else _ANY_MEND))
    if call == "cuInit" and error is BackendFailed:  # nothing was open yet
        error = MissingDevice
    return error(f"{call} gave {name}, {text}", mend=mend)


def closed(what: str) -> UsageError:
    """The error of using what was given back."""
    return UsageError(f"the {what} was used after it was closed", mend="close a device last, after what uses it")
