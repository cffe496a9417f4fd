"""What TensorRT complains of while plans are loaded and run, as errors of this package."""

from __future__ import annotations

import re
from collections.abc import Sequence
from threading import RLock

from lpcnet_edge.backends.tensorrt import Library
from lpcnet_edge.backends.tensorrt_errors import NO_DEVICE, cuda_code, reason_of
from lpcnet_edge.backends.tensorrt_versions import ErrorRecorder, Module
from lpcnet_edge.errors import BackendFailed, DeviceLost, LpcnetError, MissingDevice

_KEPT = 64
_OLD_DRIVER = 35  # cudaErrorInsufficientDriver: there is none, or one of an older CUDA than the library's
# cudaError_t after which "the process must be terminated and relaunched", or the context is gone (cuda_runtime_api.h).
_LOST = {214, 220, 226, 700, 702, 709, 710, 714, 715, 716, 717, 718, 719, 721, 810, 911, 999}
_CUDA_TEXT = re.compile(r"cudaError (?P<code>\d+)(?:: (?P<text>[^()]+))?")
# The same in the words of cudaGetErrorString: TensorRT 10.3 gives these alone, "Error Code 1: Cuda Runtime (WORDS)".
_LOST_WORDS = re.compile(
    r"Cuda Runtime \((?:"
    "uncorrectable ECC error|uncorrectable NVLink error|Invalid access of peer GPU memory|an illegal memory access|"
    "the launch timed out|context is destroyed|device-side assert|hardware stack error|an illegal instruction|"
    "misaligned address|operation not supported on global/shared address space|invalid program counter|"
    "unspecified launch failure|tensor memory not completely freed|the MPS client has been terminated|"
    "an async error has occured in external entity|unknown error)"  # CUDA's own spelling
)
_NO_MEMORY = re.compile(r"cudaError 2\b|[Oo]ut ?[Oo]f ?[Mm]emory|cudaMalloc|FAILED_ALLOCATION")


class Recorded:
    """Errors that were reported and not yet taken: (code, description), the first ones."""

    def __init__(self) -> None:
        self._errors: list[tuple[object, str]] = []
        self._missed = False
        # The library reports from its own threads, and what is freed while the lock is held may report, too.
        self._turn = RLock()

    def add(self, code: object, text: str) -> None:
        """Take note of one."""
        with self._turn:
            self._missed = len(self._errors) >= _KEPT
            if not self._missed:
                self._errors.append((code, text))

    def take(self) -> list[str]:
        """The descriptions, which are forgotten here."""
        with self._turn:
            found, self._errors, self._missed = [text for _, text in self._errors], [], False
            return found

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self._errors)

    @property
    def missed(self) -> bool:
        """Whether there were more than are kept."""
        return self._missed

    def at(self, index: int) -> tuple[object, str]:
        """One of them."""
        return self._errors[index]


def make_recorder(trt: Module, recorded: Recorded) -> ErrorRecorder:
    """The library's error recorder, telling ``recorded``. Engines and contexts inherit it from their runtime."""

    class Recorder(trt.IErrorRecorder):  # type: ignore[misc]  # a class of a module without types
        def num_errors(self) -> int:
            return recorded.count

        def get_error_code(self, arg0: int) -> object:
            return recorded.at(arg0)[0]

        def get_error_desc(self, arg0: int) -> str:
            return recorded.at(arg0)[1]

        def has_overflowed(self) -> bool:
            return recorded.missed

        def clear(self) -> None:
            recorded.take()

        def report_error(self, arg0: object, arg1: str) -> bool:
            recorded.add(arg0, arg1)
            return True  # every error is fatal to what was being done

        # The class lists `num_errors`, but the library asks by this name, and has -1 for an answer where it is absent.
        get_num_errors = num_errors

    return Recorder()


def runtime_error(
    library: Library,
    lines: Sequence[str],
    doing: str,
    *,
    mend: str,
    kind: type[LpcnetError] = BackendFailed,
) -> LpcnetError:
    """The error of a step that failed while ``doing``, from what was recorded or logged.

    CUDA's own errors are ``MissingDevice``, ``DeviceLost`` or ``BackendFailed``, with CUDA's number and words; all
    others are ``kind``.
    """
    lines = [line for line in lines if line.strip()] or ["it gave no reason"]
    who = f"{library.module} {library.version}"
    code = cuda_code(lines)
    if code in NO_DEVICE:
        older = (
            f"; for a driver of CUDA 12 there is {library.module.replace('_', '-')}-cu12" if code == _OLD_DRIVER else ""
        )
        return MissingDevice(
            f"{who} finds no NVIDIA GPU {doing} (CUDA error {code})",
            mend=f"run this on the machine that has the GPU; lpcnet-edge doctor shows what its driver offers{older}",
        )
    lost = [
        line
        for line in lines
        if _LOST_WORDS.search(line) or any(int(found["code"]) in _LOST for found in _CUDA_TEXT.finditer(line))
    ]
    if lost:
        return DeviceLost(
            f"{who} lost the GPU {doing}: {_said(lost[0])}",
            mend="start the process again; isolate: true keeps the engine in a process of its own, which is then "
            "started again for you",
        )
    if any(map(_NO_MEMORY.search, lines)):
        return BackendFailed(
            f"{who} ran out of device memory {doing}: {_said(lines[0])}",
            mend="end what else uses the GPU, or take smaller batches and fewer slots",
        )
    if code is not None:
        return BackendFailed(f"{who} failed {doing}: {_said(lines[0])}", mend="sudo dmesg | grep -i xid has more")
    return kind(f"{who} failed {doing}: {_said(lines[0])}", mend=mend)


def _said(line: str) -> str:
    found = _CUDA_TEXT.search(line)
    if found:
        return f"CUDA error {found['code']}" + (f", {found['text'].strip()}" if found["text"] else "")
    return reason_of(line)
