"""What torch-cuda does that needs no GPU to be seen: its errors, its end on a lost device, what it imports."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from threading import Event, Thread
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from lpcnet_edge.backends.cuda.errors import cuda_error
from lpcnet_edge.backends.torch_cuda import TorchStage, translated
from lpcnet_edge.errors import BackendFailed, DeviceLost

ROOT = Path(__file__).parents[2]


class OnNoDevice(nn.Module):
    def to(self, *args: Any, **kwargs: Any) -> OnNoDevice:
        return self


@pytest.fixture
def destroyed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Which of torch's pools were destroyed, on a device that does nothing."""
    seen: list[str] = []

    class Pool:
        def __del__(self) -> None:
            seen.append("pool")

    def whole_device() -> None:
        raise RuntimeError("CUDA error: operation not permitted when stream is capturing")

    monkeypatch.setattr(torch.cuda, "MemPool", Pool)
    monkeypatch.setattr(torch.cuda, "synchronize", whole_device)  # which ends the captures of other threads
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: SimpleNamespace(synchronize=lambda: None))
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: seen.append("cache"))
    return seen


def bound_stage() -> TorchStage:
    stage = TorchStage(OnNoDevice(), [], [])
    for lane in (0, 1, 0):
        stage.bind({}, {}, lane)
    return stage


def test_closing_gives_the_pools_back_before_the_cache(destroyed: list[str]) -> None:
    stage = bound_stage()
    stage.close()
    stage.close()
    assert destroyed == ["pool", "pool", "cache"]


def test_pools_outlive_a_lost_device(destroyed: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Their destructor frees device memory, and ends the process where CUDA refuses that."""

    def lost() -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered\nCUDA kernel errors might be ...")

    stage = bound_stage()
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: SimpleNamespace(synchronize=lost))
    with pytest.raises(DeviceLost, match=r"when it is closed: .* illegal memory access was encountered \(mend"):
        stage.close()
    stage.close()
    assert destroyed == []


def test_no_pool_is_destroyed_while_another_is_in_use(destroyed: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch ends the process over that: the allocator's assertion fails in the destructor of the pool."""
    computing, go_on = Event(), Event()

    class Slow(OnNoDevice):
        def forward(self) -> dict[str, Any]:
            computing.set()
            assert go_on.wait(10)
            return {}

    @contextmanager
    def in_use(pool: object) -> Iterator[None]:
        yield
        destroyed.append("left")

    monkeypatch.setattr(torch.cuda, "use_mem_pool", in_use)
    monkeypatch.setattr(torch.cuda, "ExternalStream", lambda handle: None)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
    broken, following = bound_stage(), TorchStage(Slow(), [], [])
    binding = following.bind({}, {})
    working = Thread(target=binding.enqueue, args=(SimpleNamespace(handle=1),))
    closing = Thread(target=broken.close)
    working.start()
    assert computing.wait(10)
    closing.start()
    closing.join(0.05)
    go_on.set()
    working.join(10)
    closing.join(10)
    assert destroyed == ["left", "pool", "pool", "cache"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("ILLEGAL_ADDRESS", "an illegal memory access was encountered"),
        ("ASSERT", "device-side assert triggered"),
        ("LAUNCH_FAILED", "unspecified launch failure"),
        ("LAUNCH_TIMEOUT", "the launch timed out and was terminated"),
        ("MISALIGNED_ADDRESS", "misaligned address"),
        ("ILLEGAL_INSTRUCTION", "an illegal instruction was encountered"),
        ("INVALID_PC", "invalid program counter"),
        ("INVALID_ADDRESS_SPACE", "operation not supported on global/shared address space"),
        ("HARDWARE_STACK_ERROR", "hardware stack error"),
        ("ECC_UNCORRECTABLE", "uncorrectable ECC error encountered"),
        ("CONTEXT_IS_DESTROYED", "context is destroyed"),
        ("CONTAINED", "Invalid access of peer GPU memory over nvlink or a hardware error"),
        ("TENSOR_MEMORY_LEAK", "tensor memory not completely freed"),
        ("MPS_CLIENT_TERMINATED", "the MPS client has been terminated by the server"),
        ("EXTERNAL_DEVICE", "an async error has occured in external entity outside of CUDA"),
        ("UNKNOWN", "unknown error"),
        ("INVALID_VALUE", "invalid argument"),
    ],
)
def test_a_lost_device_is_one_through_torch_too(name: str, text: str) -> None:
    """Texts are those of cudaGetErrorString."""
    with pytest.raises(BackendFailed) as caught, translated("when it runs"):
        raise RuntimeError(f"CUDA error: {text}")
    assert type(caught.value) is type(cuda_error(f"CUDA_ERROR_{name}", text, "cuLaunchKernel"))


def test_a_torch_without_kernels_for_the_card_says_so() -> None:
    with pytest.raises(BackendFailed) as caught, translated("when it runs"):
        raise RuntimeError("CUDA error: no kernel image is available for execution on the device")
    assert caught.value.mend is not None
    assert "built for this GPU" in caught.value.mend


def test_the_figures_need_no_onnx() -> None:
    """benchmarks/gpu.py measures networks that were never exported, on a machine that may lack it."""
    code = "import sys; sys.modules['onnx'] = None; sys.path.insert(0, 'benchmarks'); import gpu; print(gpu.QUICK)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.stdout.startswith("Scale("), done.stderr
