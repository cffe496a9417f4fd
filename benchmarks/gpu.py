"""What a GPU does with the network, and what the pipeline leaves of it: torch-cuda beside plain torch.

    python benchmarks/gpu.py [--weights NAME] [--bundle BUNDLE] [--out FILE] [--quick]

Needs an NVIDIA GPU, torch with CUDA and cuda-bindings; exit code 4 without. The network comes from its weights, so that
no ONNX is needed; ``--bundle`` adds the same figures for a bundle's canonical files. Everything that is compared is
measured in turn, round after round; a figure is the median over the rounds. ``--quick`` only shows that it works.
What fails is named in the record under ``failed`` and keeps nothing else from being measured (exit code 1); the file is
written anew after each figure.

Figures: the engines alone (graphs on ready buffers) against the same with copies and against whole runs from frames in
memory; the host's work a batch; how much of copy and work goes on at the same time; latency of one tile; tiles a second
by precision, and which share of the measured rate of float16 products that is; 5-megapixel frames with the gate on
1 % of the tiles against off; and the same network in plain torch, eager and compiled.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lpcnet_edge.backends.base import Slot
from lpcnet_edge.backends.cuda.launch import CONFIDENCE, LOCALIZATION
from lpcnet_edge.backends.cuda.memory import TileShape
from lpcnet_edge.backends.cuda.open import open_device
from lpcnet_edge.backends.cuda.settings import CudaSettings
from lpcnet_edge.backends.cuda.slots import CudaBackend
from lpcnet_edge.backends.torch_cuda import TorchStage, open_torch_cuda
from lpcnet_edge.bundle.manifest import Manifest, StageSpec
from lpcnet_edge.bundle.read import Bundle, open_bundle
from lpcnet_edge.errors import LpcnetError, MissingDevice
from lpcnet_edge.files import write_atomically
from lpcnet_edge.network.cost import network_cost
from lpcnet_edge.network.inference import FloatNetwork
from lpcnet_edge.network.stages import ConfidenceStage, LocalizationStage, tensor_specs
from lpcnet_edge.network.weights import load_network
from lpcnet_edge.runtime.framing import Framing
from lpcnet_edge.runtime.session import Session
from lpcnet_edge.runtime.settings import BulkSettings, RunSettings

Measure = Callable[[], float]


@dataclass(frozen=True)
class Scale:
    """How much is measured."""

    rounds: int = 7
    batches: int = 200
    host_batches: int = 500
    frames: int = 512
    large_frames: int = 24


QUICK = Scale(2, 10, 20, 32, 2)


class Kept(CudaBackend):
    """One that a session does not close."""

    def close(self) -> None:
        pass

    def end(self) -> None:
        """Close it."""
        super().close()


def main() -> int:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--weights", default="carbon-fabric")
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    try:
        if not torch.cuda.is_available():
            raise MissingDevice("this measures a GPU, and torch sees none", mend="run it on a machine with a GPU")
        record = measure(args, QUICK if args.quick else Scale())
    except LpcnetError as exc:
        print(f"error: {exc.message}\nmend: {exc.mend}", file=sys.stderr)
        return exc.exit_code
    print(json.dumps(record, indent=2))
    return 1 if "failed" in record else 0


def measure(args: argparse.Namespace, scale: Scale) -> dict[str, Any]:
    """All figures, as they are written."""
    network = load_network(args.weights)
    rng = np.random.default_rng(0)
    tiles = rng.integers(60, 180, (32, *tile_shape(network).pixels), np.uint8)
    backends = {
        ("float16", "graphs"): from_network(network, torch.float16, CudaSettings()),
        ("float16", "calls"): from_network(network, torch.float16, CudaSettings(graphs="off")),
        ("float32", "graphs"): from_network(network, torch.float32, CudaSettings()),
    }
    main_one = backends["float16", "graphs"]
    properties = main_one._device.properties
    record: dict[str, Any] = {
        "machine": {
            "gpu": properties.name,
            "compute_capability": properties.compute_capability,
            "multiprocessors": properties.multiprocessors,
            "memory_bytes": properties.memory_bytes,
            "torch": torch.__version__,
            "cuda": torch.version.cuda,
            "binding": main_one._device.binding,
            "python": platform.python_version(),
            "processor": platform.machine(),
        },
        "network": args.weights,
        "tile_px": network.tile_px,
        "quick": args.quick,
    }
    pixels_a_tile = network.tile_px**2 / 1e6
    flops = network_cost(network.network.config, network.tile_px).flops()

    def part(name: str, figures: Callable[[], Any]) -> None:
        try:
            record[name] = figures()
        except Exception as exc:  # of whatever kind: the others are worth having
            lines = str(exc).strip().splitlines() or [""]
            record.setdefault("failed", {})[name] = f"{type(exc).__name__}: {lines[0]}"
        if args.out:
            write_atomically(args.out, json.dumps(record, indent=2) + "\n")

    def throughput() -> dict[str, Any]:
        products = record["float16_products_per_s"]
        found = {}
        for (kind, how), backend in backends.items():
            for batch in (8, 32):
                rate = engine_alone(backend, filled(backend, tiles, batch), batch, scale)
                found[f"{kind}-{how}-b{batch}"] = {
                    "tiles_per_s": rate,
                    "megapixels_per_s": rate * pixels_a_tile,
                    "share_of_float16_products": rate * flops / products,
                }
        return found

    part("float16_products_per_s", float16_products)
    part("throughput", throughput)
    part("pipeline", lambda: {f"b{batch}": whole_pipeline(main_one, network, tiles, batch, scale) for batch in (8, 32)})
    hows = ("graphs", "calls")
    part("host_us_a_batch", lambda: {how: host_work(backends["float16", how], tiles, 8, scale) for how in hows})
    part("overlap", lambda: {f"b{batch}": overlap(main_one, tiles, batch, scale) for batch in (8, 32)})
    part("latency_of_one_tile_ms", lambda: {how: latency(backends["float16", how], tiles, scale) for how in hows})
    part("frames_5_megapixels", lambda: large_frames(main_one, network, scale))
    if args.bundle:
        part("bundle", lambda: of_bundle(args.bundle, scale))
    part("plain_torch", lambda: plain_torch(network, tiles, scale))  # last: it compiles for minutes
    for backend in backends.values():
        backend.end()
    return record


def of_bundle(path: Path, scale: Scale) -> dict[str, Any]:
    """The engines alone, of a bundle's own files."""
    bundle = open_bundle(path)
    opened = open_torch_cuda(bundle)
    side = bundle.manifest.tile_px
    own = np.random.default_rng(0).integers(60, 180, (32, *TileShape.of(bundle.manifest).pixels), np.uint8)
    found: dict[str, Any] = {"id": bundle.id, "about": opened.about, "precision": bundle.manifest.precision}
    for batch in (8, 32):
        rate = engine_alone(opened, filled(opened, own, batch), batch, scale)
        found[f"b{batch}"] = {"tiles_per_s": rate, "megapixels_per_s": rate * side**2 / 1e6}
    opened.close()
    return found


def tile_shape(network: FloatNetwork) -> TileShape:
    """Of a network."""
    embedding = tensor_specs(network)["embedding"].shape[1:]
    return TileShape(network.tile_px, network.channels, 4 * int(np.prod([int(size) for size in embedding])))


def from_network(network: FloatNetwork, dtype: torch.dtype, settings: CudaSettings) -> Kept:
    """Both stages as modules."""
    specs = tensor_specs(network)
    device = open_device("cuda-bindings")
    stages = {
        LOCALIZATION: TorchStage(
            LocalizationStage(network.network, dtype), [specs["pixels"]], [specs["embedding"], specs["score"]]
        ),
        CONFIDENCE: TorchStage(
            ConfidenceStage(network.network, dtype),
            [specs["pixels"], specs["embedding"], specs["picked"]],
            [specs["classes"], specs["confidence"]],
        ),
    }
    return Kept(device, stages, tile_shape(network), settings, name="torch-cuda", about="torch-cuda", sizes=(1, 8, 32))


def filled(backend: CudaBackend, tiles: NDArray[np.uint8], batch: int) -> Slot:
    """A slot with pixels in it, both stages run once."""
    slot = backend.make_slot(batch)
    slot.pixels[:batch] = tiles[:batch]
    both(backend, slot, np.arange(batch, dtype=np.int32))
    return slot


def both(backend: CudaBackend, slot: Slot, every: NDArray[np.int32]) -> None:
    """One batch from pixels to maps."""
    backend.submit(slot, len(every))
    backend.collect(slot)
    backend.submit_picked(slot, every)
    backend.collect_picked(slot)


def median_of(scale: Scale, **measures: Measure) -> dict[str, float]:
    """Each in turn, round after round; the first round is not counted."""
    found: dict[str, list[float]] = {name: [] for name in measures}
    for number in range(scale.rounds + 1):
        for name, function in measures.items():
            value = function()
            if number:
                found[name].append(value)
    return {name: statistics.median(values) for name, values in found.items()}


def seconds_of(work: Callable[[], object], count: int) -> float:
    """Seconds of one, of so many that are enqueued before the device is waited for."""
    torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(count):
        work()
    torch.cuda.synchronize()
    return (time.perf_counter() - started) / count


def engine_work(backend: CudaBackend, slot: Slot, batch: int) -> Callable[[], None]:
    """Both stages on what lies on the device, without a copy of pixels or maps."""
    launches = slot.own.launches
    first, second = launches[LOCALIZATION, 0, batch], launches[CONFIDENCE, 0, batch]

    def work() -> None:
        first.run(backend._computing)
        second.run(backend._computing)

    return work


def engine_alone(backend: CudaBackend, slot: Slot, batch: int, scale: Scale) -> float:
    """Tiles a second of both stages on ready buffers."""
    work = engine_work(backend, slot, batch)
    return batch / median_of(scale, it=lambda: seconds_of(work, scale.batches))["it"]


def float16_products() -> float:
    """Operations a second of a large float16 product here: what the shares are of."""
    a = torch.randn(8192, 8192, device="cuda", dtype=torch.float16)
    seconds = min(seconds_of(lambda: torch.mm(a, a), 10) for _ in range(5))
    return float(2 * 8192**3 / seconds)


def with_copies(backend: CudaBackend, slots: list[Slot], batch: int, count: int) -> float:
    """Tiles a second through slots, two in flight: pixels in, maps out."""
    every = np.arange(batch, dtype=np.int32)
    started = time.perf_counter()
    backend.submit(slots[0], batch)
    for number in range(count):
        now, following = slots[number % 2], slots[(number + 1) % 2]
        backend.submit(following, batch)
        backend.collect(now)
        backend.submit_picked(now, every)
        backend.collect_picked(now)
    backend.collect(slots[count % 2])
    return batch * count / (time.perf_counter() - started)


def described(network: FloatNetwork) -> Bundle:
    """What a session asks of a bundle, of a network that was never exported."""
    specs = tensor_specs(network)
    stages = {
        LOCALIZATION: (("pixels",), ("embedding", "score")),
        CONFIDENCE: (("pixels", "embedding", "picked"), ("classes", "confidence")),
    }
    made: dict[str, Any] = {
        name: StageSpec(f"{name}.onnx", "fp16", tuple(specs[n] for n in ins), tuple(specs[n] for n in outs))
        for name, (ins, outs) in stages.items()
    }
    channels: Any = network.channels
    manifest = Manifest("network", network.classes, channels, network.tile_px, "fp16", **made)
    return Bundle(Path("network"), manifest, 64 * "0", (), False)


def session_rate(
    backend: Kept, network: FloatNetwork, frames: list[NDArray[np.uint8]], settings: RunSettings
) -> tuple[float, float]:
    """Tiles and frames a second of a whole run over frames in memory."""
    with Session(described(network), [iter(frames)], settings, backend=lambda: backend, live=False) as session:
        results = list(session)
        seconds = session.ended_s - session.started_s
        assert len(results) == len(frames)
        assert not session.pipeline.totals.refused["engine failed"]
        return session.pipeline.totals.tiles / seconds, len(frames) / seconds


def whole_pipeline(
    backend: Kept, network: FloatNetwork, tiles: NDArray[np.uint8], batch: int, scale: Scale
) -> dict[str, float]:
    """The engines alone, with copies, and as a run with tiling, stitching and verdicts; shares of the first."""
    slots = [filled(backend, tiles, batch) for _ in range(2)]
    work = engine_work(backend, slots[0], batch)
    frames = [tiles[n % 32] for n in range(scale.frames)]
    settings = RunSettings(gate="off", bulk=BulkSettings(slots=3, tiles=batch))
    rates = median_of(
        scale,
        engines=lambda: batch / seconds_of(work, scale.batches),
        with_copies=lambda: with_copies(backend, slots, batch, scale.batches),
        whole_run=lambda: session_rate(backend, network, frames, settings)[0],
    )
    shares = {f"{name}_share": rates[name] / rates["engines"] for name in ("with_copies", "whole_run")}
    return {**{f"{name}_tiles_per_s": rate for name, rate in rates.items()}, **shares}


def host_work(backend: CudaBackend, tiles: NDArray[np.uint8], batch: int, scale: Scale) -> dict[str, float]:
    """Microseconds that the host is at work for a batch, waiting for the device left out."""
    slot, every = filled(backend, tiles, batch), np.arange(batch, dtype=np.int32)
    spent = []
    for _ in range(scale.host_batches):
        started = time.perf_counter()
        backend.submit(slot, batch)
        submitted = time.perf_counter()
        torch.cuda.synchronize()
        asked = time.perf_counter()
        backend.collect(slot)
        backend.submit_picked(slot, every)
        again = time.perf_counter()
        torch.cuda.synchronize()
        last = time.perf_counter()
        backend.collect_picked(slot)
        spent.append((submitted - started) + (again - asked) + (time.perf_counter() - last))
    return {"p50": 1e6 * statistics.median(spent), "p99": 1e6 * float(np.percentile(spent, 99))}


def overlap(backend: CudaBackend, tiles: NDArray[np.uint8], batch: int, scale: Scale) -> dict[str, float]:
    """Copies alone, work alone, and both on their streams; 1 is the longer of the two hiding the other entirely."""
    slots = [filled(backend, tiles, batch) for _ in range(2)]
    work = engine_work(backend, slots[0], batch)
    memory = slots[1].own.memory
    nbytes = batch * memory.row_bytes("pixels")
    source = int(memory.pixels.ctypes.data)

    def copy() -> None:
        backend._copying.copy(memory.at["pixels"], source, nbytes)

    def at_once() -> None:
        copy()
        work()

    found = median_of(
        scale,
        copy=lambda: seconds_of(copy, scale.batches),
        work=lambda: seconds_of(work, scale.batches),
        both=lambda: seconds_of(at_once, scale.batches),
    )
    share = max(found["copy"], found["work"]) / found["both"]
    return {**{f"{name}_us": 1e6 * seconds for name, seconds in found.items()}, "longer_share_of_both": share}


def latency(backend: CudaBackend, tiles: NDArray[np.uint8], scale: Scale) -> dict[str, float]:
    """Milliseconds from a tile in the slot to its maps, one at a time."""
    slot, every = filled(backend, tiles, 1), np.zeros(1, np.int32)
    spent = []
    for _ in range(scale.host_batches):
        started = time.perf_counter()
        both(backend, slot, every)
        spent.append(time.perf_counter() - started)
    return {"p50": 1e3 * statistics.median(spent), "p99": 1e3 * float(np.percentile(spent, 99))}


def large_frames(backend: Kept, network: FloatNetwork, scale: Scale) -> dict[str, Any]:
    """5-megapixel frames in tiles; the gate at the score that 1 % of their tiles reach, against none."""
    rng = np.random.default_rng(1)
    shape = (2048, 2448) if network.channels == 1 else (2048, 2448, 3)
    frames = [rng.integers(60, 180, shape, np.uint8) for _ in range(min(8, scale.large_frames))]
    cut = Framing(mode="tile", tile_px=network.tile_px, overlap_px=32)
    off = RunSettings(framing=cut, gate="off")
    slot = backend.make_slot(32)
    scores = []
    for frame in frames:
        for y in range(0, 2048 - network.tile_px + 1, network.tile_px):
            count = 2448 // network.tile_px
            for column in range(count):
                x = column * network.tile_px
                slot.pixels[column] = frame[y : y + network.tile_px, x : x + network.tile_px]
            backend.submit(slot, count)
            backend.collect(slot)
            scores.extend(slot.score[:count].tolist())
    threshold = float(np.quantile(scores, 0.99))
    on = RunSettings(framing=cut, gate=threshold)
    many = [frames[n % len(frames)] for n in range(scale.large_frames)]
    rates = median_of(
        scale,
        gate_on=lambda: session_rate(backend, network, many, on)[1],
        gate_off=lambda: session_rate(backend, network, many, off)[1],
    )
    return {**{f"{name}_frames_per_s": rate for name, rate in rates.items()}, "threshold": threshold}


def plain_torch(network: FloatNetwork, tiles: NDArray[np.uint8], scale: Scale) -> dict[str, Any]:
    """The same modules on tensors that lie on the device, called by torch alone: eager, and compiled."""
    first = LocalizationStage(network.network, torch.float16).eval().cuda()
    second = ConfidenceStage(network.network, torch.float16).eval().cuda()
    found: dict[str, Any] = {}
    for batch in (8, 32):
        pixels = torch.from_numpy(tiles[:batch]).cuda()
        picked = torch.arange(batch, dtype=torch.int32, device="cuda")

        def work(one: Any = first, two: Any = second, pixels: Tensor = pixels, picked: Tensor = picked) -> None:
            with torch.inference_mode():
                two(pixels, one(pixels)["embedding"], picked)

        ways: dict[str, Callable[[], None]] = {"eager": work}
        try:
            faster = partial(work, torch.compile(first, dynamic=False), torch.compile(second, dynamic=False))
            faster()
            ways["compiled"] = faster
        except Exception as exc:  # whichever: it needs Triton and a C compiler
            found["not_compiled"] = (str(exc).strip().splitlines() or [type(exc).__name__])[0]
        rates = median_of(scale, **{name: partial(seconds_of, way, scale.batches) for name, way in ways.items()})
        found[f"b{batch}"] = {f"{name}_tiles_per_s": batch / seconds for name, seconds in rates.items()}
    return found


if __name__ == "__main__":
    sys.exit(main())
