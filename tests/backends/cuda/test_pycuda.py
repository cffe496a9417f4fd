"""The real PyCUDA on an emulated driver, a double on host memory; where PyCUDA is not installed, that this is said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from device_contract import CHECKS
from emulated_driver import run_child

from lpcnet_edge.backends.cuda import open as opening
from lpcnet_edge.backends.cuda.open import is_installed, open_device
from lpcnet_edge.errors import MissingLibrary

needs_pycuda = pytest.mark.skipif(not is_installed("pycuda"), reason="PyCUDA is not installed: it builds from source")

# What PyCUDA never calls, and what it frees without telling of a failure but on standard error.
OF_BINDINGS = {"cuDriverGetVersion", "cuCtxSetCurrent", "cuMemcpyAsync", "cuStreamBeginCapture", "cuStreamEndCapture",
               "cuGraphInstantiate", "cuGraphDestroy", "cuGraphExecDestroy", "cuGraphLaunch"}  # fmt: skip
ENDINGS = {"cuMemFreeHost", "cuMemFree", "cuStreamDestroy", "cuEventDestroy", "cuDevicePrimaryCtxRelease"}


@pytest.fixture(scope="module")
def contract(emulated_driver: Path) -> Any:
    return run_child(emulated_driver, "contract", "pycuda")


@needs_pycuda
@pytest.mark.parametrize("check", [check.__name__ for check in CHECKS])
def test_contract(check: str, contract: Any) -> None:
    assert contract[check] is None, contract[check]


@needs_pycuda
def test_every_call_may_fail(emulated_driver: Path) -> None:
    for one in run_child(emulated_driver, "faults", "pycuda"):
        call = one["call"]
        assert one["was_called"] == (call not in OF_BINDINGS), one
        assert one["ledger_is_empty"], one
        assert one["contexts"] == 0, one
        # Its list of contexts is its own, and it asks again for memory once garbage is collected.
        if call in OF_BINDINGS | ENDINGS | {"cuCtxGetCurrent"} or (call, one["code"]) == ("cuMemAlloc", 2):
            assert one["error"] is None, one
            continue
        lost = one["code"] == 700
        assert one["error"] == ("MissingDevice" if call == "cuInit" else "DeviceLost" if lost else "BackendFailed"), one
        assert f"{call} gave CUDA_ERROR_{'ILLEGAL_ADDRESS' if lost else 'OUT_OF_MEMORY'}, " in one["message"], one
        assert lost or one["alive"] == 0, one


@needs_pycuda
def test_a_context_of_the_stations_own(emulated_driver: Path) -> None:
    found = run_child(emulated_driver, "own_context", "pycuda", LPCNET_EMULATED_DEVICES="2")
    assert found["retained"] == 0, "the primary context is not touched"
    assert found["inside"]
    assert found["after"]
    assert found["wrong"]["error"] == "UsageError"
    assert found["wrong"]["mend"] == "pop it first, or open device 0"


@needs_pycuda
def test_small_things(emulated_driver: Path) -> None:
    found = run_child(emulated_driver, "small", "pycuda")
    assert found["polling"] == [False, False, True]
    assert found["flags"] == [0, 2, 4, 6], "DEVICEMAP 2, WRITECOMBINED 4"
    assert found["before_and_after"] == [True, None, True, True]
    assert found["no_context"]["mend"].startswith("call device.make_current()")
    (none,) = run_child(emulated_driver, "refusals", "pycuda", '[{"devices": 0}]')
    assert (none["error"], none["exit_code"]) == ("MissingDevice", 4)


@needs_pycuda
@pytest.mark.parametrize("way", ["unclosed", "unclosed_in_a_thread"])
def test_a_process_may_end_with_an_open_device(way: str, emulated_driver: Path) -> None:
    """PyCUDA aborts a process that ends with a context pushed."""
    assert run_child(emulated_driver, way, "pycuda") is None


@pytest.mark.skipif(is_installed("pycuda"), reason="PyCUDA is installed")
def test_without_pycuda() -> None:
    with pytest.raises(MissingLibrary, match="pycuda is not installed") as caught:
        open_device("pycuda")
    assert "pip install pycuda" in str(caught.value.mend)


def test_without_any_binding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "is_installed", lambda binding: False)
    with pytest.raises(MissingLibrary, match="cuda-bindings is not installed") as caught:
        open_device()
    assert "cuda-bindings==12.9" in str(caught.value.mend)
