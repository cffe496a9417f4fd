"""The real ``cuda-bindings`` on an emulated driver, a double on host memory: paths and errors, nothing of a GPU."""

from __future__ import annotations

import ctypes
import json
from pathlib import Path
from typing import Any

import pytest
from device_contract import CHECKS
from emulated_driver import run_child

from lpcnet_edge.backends.cuda.open import is_installed

pytestmark = pytest.mark.skipif(not is_installed("cuda-bindings"), reason="cuda-bindings is not installed")

# Refused, they leave what they should have ended.
ENDINGS = {"cuMemFreeHost", "cuMemFree", "cuStreamDestroy", "cuStreamEndCapture", "cuEventDestroy", "cuGraphDestroy",
           "cuGraphExecDestroy"}  # fmt: skip
OF_PYCUDA = {"cuDeviceComputeCapability", "cuCtxPushCurrent"}


@pytest.fixture(scope="module")
def contract(emulated_driver: Path) -> Any:
    return run_child(emulated_driver, "contract", "cuda-bindings")


@pytest.mark.parametrize("check", [check.__name__ for check in CHECKS])
def test_contract(check: str, contract: Any) -> None:
    assert contract[check] is None, contract[check]


def test_every_call_may_fail(emulated_driver: Path) -> None:
    """The error is that of the call which failed, and all is given back, on every path."""
    found = run_child(emulated_driver, "faults", "cuda-bindings")
    assert len(found) > 70
    for one in found:
        call = one["call"]
        assert one["was_called"] == (call not in OF_PYCUDA), one
        assert one["ledger_is_empty"], one
        assert one["contexts"] == 0, one
        if not one["was_called"]:
            assert one["error"] is None, one
            continue
        lost = one["code"] == 700
        assert one["error"] == ("MissingDevice" if call == "cuInit" else "DeviceLost" if lost else "BackendFailed"), one
        assert f"{call} gave CUDA_ERROR_{'ILLEGAL_ADDRESS' if lost else 'OUT_OF_MEMORY'}, " in one["message"], one
        assert one["mend"], one
        if not lost:
            assert one["alive"] == (call in ENDINGS), one
        elif call != "cuInit":
            assert "isolate: true" in one["mend"], one


# Settings of the emulated driver -> the error, and what its message and its mend hold.
REFUSALS: tuple[tuple[dict[str, object], str, str, str], ...] = (
    ({"devices": 0}, "MissingDevice", "cuInit gave CUDA_ERROR_NO_DEVICE", "CUDA_VISIBLE_DEVICES"),
    ({"ordinal": 3}, "MissingDevice", "cuDeviceGet gave CUDA_ERROR_INVALID_DEVICE", "nvidia-smi -L"),
    ({"fail": ["cuInit", 803]}, "MissingDevice", "SYSTEM_DRIVER_MISMATCH", "reboot"),
    ({"fail": ["cuInit", 999]}, "MissingDevice", "cuInit gave CUDA_ERROR_UNKNOWN", "reboot"),
    ({"version": 11080}, "MissingLibrary", "this driver offers CUDA 11.8, cuda-bindings is 1", "12.9"),
    ({"fail": ["cuDeviceGet", 12345]}, "BackendFailed", "does not know: 12345", "cuda-bindings of the driver's CUDA"),
)


def test_what_cannot_be_opened(emulated_driver: Path) -> None:
    cases = json.dumps([{}, {"devices": 2, "ordinal": 1, "integrated": 1}, *(case[0] for case in REFUSALS)])
    plain, other, *refused = run_child(emulated_driver, "refusals", "auto", cases)
    assert plain == {
        "binding": "cuda-bindings",
        "name": "Emulated 0",
        "compute_capability": "8.7",
        "integrated": False,
        "maps_host": True,
        "memory_bytes": 1 << 30,
        "multiprocessors": 16,
        "clock_khz": 1_300_000,
        "memory_clock_khz": 0,
        "memory_bus_bits": 0,
    }
    assert other == {**plain, "name": "Emulated 1", "integrated": True}
    for (settings, error, message, mend), found in zip(REFUSALS, refused, strict=True):
        assert found.get("error") == error, (settings, found)
        assert message in found["message"], settings
        assert mend in found["mend"], settings
        assert found["exit_code"] == (1 if error == "BackendFailed" else 4), settings


def test_a_function_that_the_driver_lacks(emulated_driver: Path) -> None:
    found = run_child(emulated_driver, "elapsed", "cuda-bindings", LPCNET_EMULATED_WITHOUT="cuEventElapsedTime")
    assert (found["error"], found["alive"]) == ("MissingLibrary", 0)
    assert "cuEventElapsedTime is not in this driver" in found["message"]


def test_small_things(emulated_driver: Path) -> None:
    found = run_child(emulated_driver, "small", "cuda-bindings")
    assert found["polling"] == [False, False, True]
    assert found["flags"] == [0, 2, 4, 6], "DEVICEMAP 2, WRITECOMBINED 4"
    assert found["before_and_after"] == [True, None, True, True]
    assert found["no_context"]["error"] == "BackendFailed"
    assert found["no_context"]["mend"] == "call device.make_current() in the thread that uses it"


def test_a_machine_without_a_driver() -> None:
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        found = run_child(None, "opened", "auto")
        assert (found["error"], found["exit_code"]) == ("MissingDevice", 4)
        assert "no NVIDIA driver is here" in found["message"]
        assert "lpcnet-edge doctor" in found["mend"]
    else:
        pytest.skip("this machine has an NVIDIA driver")
