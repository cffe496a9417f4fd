"""CUDA's errors as ours."""

from __future__ import annotations

import pytest

from lpcnet_edge.backends.cuda import errors
from lpcnet_edge.backends.cuda.errors import closed, cuda_error
from lpcnet_edge.backends.cuda.open import is_installed
from lpcnet_edge.errors import BackendFailed, DeviceLost, LpcnetError, MissingDevice, MissingLibrary, UsageError


@pytest.mark.parametrize(
    ("name", "call", "error", "exit_code", "mend"),
    [
        ("OUT_OF_MEMORY", "cuMemAlloc", BackendFailed, 1, "smaller batch"),
        ("NO_DEVICE", "cuInit", MissingDevice, 4, "--gpus all"),
        ("INVALID_DEVICE", "cuDeviceGet", MissingDevice, 4, "nvidia-smi -L"),
        ("STUB_LIBRARY", "cuInit", MissingDevice, 4, "stubs folder"),
        ("SYSTEM_DRIVER_MISMATCH", "cuInit", MissingDevice, 4, "reboot"),
        ("CALL_REQUIRES_NEWER_DRIVER", "cuMemAlloc", MissingLibrary, 4, "update NVIDIA's driver"),
        ("UNKNOWN", "cuInit", MissingDevice, 4, "reboot"),
        ("UNKNOWN", "cuEventSynchronize", DeviceLost, 1, "isolate: true"),
        ("OPERATING_SYSTEM", "cuInit", MissingDevice, 4, "/dev/nvidia"),
        ("OPERATING_SYSTEM", "cuMemHostAlloc", BackendFailed, 1, "/dev/nvidia"),
        ("ILLEGAL_ADDRESS", "cuEventSynchronize", DeviceLost, 1, "isolate: true"),
        ("ECC_UNCORRECTABLE", "cuGraphLaunch", DeviceLost, 1, "isolate: true"),
        ("STREAM_CAPTURE_UNSUPPORTED", "cuStreamSynchronize", BackendFailed, 1, "graphs: off"),
        ("NEVER_HEARD_OF", "cuMemcpyAsync", BackendFailed, 1, "CUresult"),
    ],
)
def test_errors(name: str, call: str, error: type[LpcnetError], exit_code: int, mend: str) -> None:
    found = cuda_error(f"CUDA_ERROR_{name}", "in words", call)
    assert type(found) is error
    assert found.exit_code == exit_code
    assert f"{call} gave CUDA_ERROR_{name}, in words" in found.message
    assert mend in str(found.mend)


def test_use_after_closing() -> None:
    assert isinstance(closed("event"), UsageError)
    assert closed("event").exit_code == 2


@pytest.mark.skipif(not is_installed("cuda-bindings"), reason="cuda-bindings is not installed")
def test_names_are_cudas() -> None:
    driver = pytest.importorskip("cuda.bindings.driver")
    known = {status.name.removeprefix("CUDA_ERROR_") for status in driver.CUresult}
    unknown = {*errors._HERE, *errors._LOST} - known
    assert unknown <= {"TENSOR_MEMORY_LEAK", "CALL_REQUIRES_NEWER_DRIVER"}, "which CUDA 12 lacks"
    assert not set(errors._HERE) & errors._LOST
