"""Runs the device layer on the emulated driver and prints, as JSON, what came of it.

child.py FUNCTION BINDING, a function of those below. ``opened`` and those of faults tell errors as data.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
import threading
import traceback
from dataclasses import asdict
from typing import Any

from device_contract import CHECKS, bytes_of, filled, host

from lpcnet_edge.backends.cuda.device import Device
from lpcnet_edge.backends.cuda.open import Binding, open_device
from lpcnet_edge.errors import LpcnetError

driver: Any  # the emulated driver itself, to ask and to upset
# What a batch's life calls, as the driver names it; those that only PyCUDA or only cuda-bindings calls are never hit.
CALLS = """
cuInit cuDriverGetVersion cuDeviceGet cuDeviceGetName cuDeviceTotalMem cuDeviceGetAttribute cuDeviceComputeCapability
cuDevicePrimaryCtxRetain cuDevicePrimaryCtxRelease cuCtxGetCurrent cuCtxSetCurrent cuCtxPushCurrent
cuMemHostAlloc cuMemHostGetDevicePointer cuMemFreeHost cuMemAlloc cuMemFree cuMemGetInfo cuStreamCreate
cuStreamDestroy cuStreamSynchronize cuStreamWaitEvent cuStreamBeginCapture cuStreamEndCapture cuMemcpyAsync
cuMemcpy2DAsync cuEventCreate cuEventDestroy cuEventRecord cuEventQuery cuEventSynchronize cuEventElapsedTime
cuGraphInstantiate cuGraphDestroy cuGraphExecDestroy cuGraphLaunch
"""


def told(error: BaseException) -> dict[str, Any]:
    mend, code = getattr(error, "mend", None), getattr(error, "exit_code", None)
    message = getattr(error, "message", str(error))
    return {"error": type(error).__name__, "message": message, "mend": mend, "exit_code": code}


def day(device: Device) -> None:
    """Everything once."""
    mapped = device.pinned(200, mapped=True)
    sent, there, stream, second = filled(device, 200), device.memory(200), device.stream(), device.stream()
    start, end = device.event(timing=True), device.event(timing=True)
    device.free_bytes()
    stream.record(start)
    stream.copy(there.address, host(sent), 200)
    stream.copy_2d(mapped.address, 20, there.address, 20, 10, 10)
    stream.record(end)
    second.wait_for(end)
    end.wait()
    end.done()
    end.ms_since(start)
    if device.has_graphs:
        with stream.capture() as captured:
            stream.copy(mapped.address, there.address, 200)
        captured.graph.launch(stream)
        stream.synchronize()
        assert (bytes_of(mapped) == bytes_of(sent)).all()
    stream.synchronize()


def opened(binding: Binding, ordinal: str = "0") -> Any:
    """The device's properties, or the error."""
    try:
        with open_device(binding, int(ordinal)) as device:
            return {"binding": device.binding, **asdict(device.properties)}
    except LpcnetError as exc:
        return told(exc)


def refusals(binding: Binding, cases: str) -> Any:
    """What comes of opening a device, for each of some settings; ``fail`` is a call and a code."""
    found = []
    for settings in json.loads(cases):
        driver.emulated_reset()
        os.environ.update({f"LPCNET_EMULATED_{name.upper()}": str(value) for name, value in settings.items()})
        if "fail" in settings:
            driver.emulated_fail(settings["fail"][0].encode(), 1, settings["fail"][1])
        found.append(opened(binding, settings.get("ordinal", "0")))
        for name in settings:
            del os.environ[f"LPCNET_EMULATED_{name.upper()}"]
    return found


def small(binding: Binding) -> Any:
    """The results of the functions that take little."""
    return {each.__name__: each(binding) for each in (polling, flags, no_context, before_and_after)}


def contract(binding: Binding) -> Any:
    """What each check of the contract said: null, or a traceback."""
    found: dict[str, str | None] = {}
    for check in CHECKS:
        try:
            check(lambda: open_device(binding))
            assert driver.emulated_alive(None) == 0, "something is still allocated"
            assert driver.emulated_contexts() == 0, "the context is still held"
            found[check.__name__] = None
        except BaseException:
            found[check.__name__] = traceback.format_exc()
            driver.emulated_reset()
    return found


def faults(binding: Binding) -> Any:
    """What came of a day's work in which one call is refused, each call in turn."""
    found = []
    for call in CALLS.split():
        for code in (2, 700):
            driver.emulated_reset()
            before = driver.emulated_calls(call.encode())
            driver.emulated_fail(call.encode(), 1, code)
            device: Device | None = None
            outcome: dict[str, Any] = {"error": None}
            try:
                with open_device(binding) as device:
                    day(device)
            except BaseException as exc:
                outcome = told(exc)
            found.append({
                "call": call,
                "code": code,
                "was_called": driver.emulated_calls(call.encode()) > before,
                "ledger_is_empty": device is None or device.ledger.empty,
                "alive": driver.emulated_alive(None),
                "contexts": driver.emulated_contexts(),
                **outcome,
            })  # fmt: skip
    driver.emulated_reset()
    return found


def polling(binding: Binding) -> Any:
    """An event that is not ready at first."""
    with open_device(binding) as device:
        event, stream = device.event(), device.stream()
        stream.record(event)
        driver.emulated_pend(2)
        return [event.done(), event.done(), event.done()]


def flags(binding: Binding) -> Any:
    """Of pinned memory: plain, mapped, write-combined, both."""
    with open_device(binding) as device:
        wishes = ({}, {"mapped": True}, {"write_combined": True}, {"mapped": True, "write_combined": True})
        return [driver.emulated_flags(ctypes.c_void_p(host(device.pinned(8, **wish)))) for wish in wishes]


def no_context(binding: Binding) -> Any:
    """A thread that did not make the device current."""
    with open_device(binding) as device:
        came: list[Any] = []

        def work() -> None:
            try:
                device.memory(8)
            except LpcnetError as exc:
                came.append(told(exc))

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        return came[0]


def elapsed(binding: Binding) -> Any:
    """A day's work, for drivers that lack something of it."""
    try:
        with open_device(binding) as device:
            day(device)
        return None
    except LpcnetError as exc:
        return {**told(exc), "alive": driver.emulated_alive(None)}


def unclosed(binding: Binding) -> Any:
    """A process that ends with an open device."""
    device = open_device(binding)
    device.memory(8)
    device.stream()
    device.event()
    globals()["kept"] = device


def unclosed_in_a_thread(binding: Binding) -> Any:
    thread = threading.Thread(target=unclosed, args=(binding,))
    thread.start()
    thread.join()


def before_and_after(binding: Binding) -> Any:
    """The contexts current in the driver before, while and after a device is open."""
    with open_device(binding):
        inside = _current()
    outside = _current()
    ctypes.CDLL("libcuda.so.1").cuDevicePrimaryCtxRetain(ctypes.byref(theirs := ctypes.c_void_p()), 0)
    driver.cuCtxSetCurrent(theirs)
    with open_device(binding):
        same = _current() == theirs.value
    return [inside is not None, outside, same, _current() == theirs.value]


def own_context(binding: Binding) -> Any:
    """A station that holds a PyCUDA context of its own."""
    from pycuda import driver as pycuda

    pycuda.init()
    context = pycuda.Device(0).make_context()
    mine = _current()
    try:
        with open_device(binding) as device:
            day(device)
            retained, inside = driver.emulated_contexts(), _current() == mine
        wrong = opened(binding, "1")
        again, after = pycuda.Context.get_current() == context, _current() == mine
        return {"retained": retained, "inside": inside, "after": after and again, "wrong": wrong}
    finally:
        context.pop()
        context.detach()


def _current() -> int | None:
    driver.cuCtxGetCurrent(ctypes.byref(context := ctypes.c_void_p()))
    return context.value


if __name__ == "__main__":
    sys.setdlopenflags(os.RTLD_LAZY | os.RTLD_LOCAL)  # PyCUDA names functions that the emulated driver lacks
    name, *arguments = sys.argv[1:]
    if name != "opened":  # which is for the machine as it is, too
        driver = ctypes.CDLL("libcuda.so.1")
    print(json.dumps(globals()[name](*arguments)))
