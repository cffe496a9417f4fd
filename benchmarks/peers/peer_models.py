"""Peers as OpenVINO models with the inputs and outputs of our own engines: camera bytes in, classes as bytes out."""

from __future__ import annotations

import logging
import subprocess
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import torch
from networks import SPEED_ONLY, YoloV8nSeg, build_peer
from numpy.typing import NDArray
from torch import Tensor, nn

from lpcnet_edge.imaging import resize_image
from lpcnet_edge.types import Image, Prediction

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from quantisation import environment

BATCHES = (1, 8)
HINTS = ("LATENCY", "THROUGHPUT")


class Bytes(nn.Module):
    """Pixels (N, S, S) uint8 to classes and confidence (N, S, S) uint8, written out over class planes as ours are."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        x = (pixels.float().unsqueeze(1) - 128.0) / 127.0
        logits = nn.functional.interpolate(self.network(x), size=x.shape[2:], mode="bilinear", align_corners=False)
        planes = logits.unbind(1)
        highest, winner = planes[0], torch.zeros_like(planes[0])
        for index, plane in enumerate(planes[1:], start=1):
            winner = torch.where(plane > highest, float(index), winner)
            highest = torch.maximum(highest, plane)
        total = torch.stack([torch.exp(plane - highest) for plane in planes]).sum(dim=0)
        return winner.to(torch.uint8), torch.round(255.0 / total).to(torch.uint8)


class Boxes(nn.Module):
    """Pixels (N, S, S) uint8 to what a network that finds boxes says, raw."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixels: Tensor) -> Any:
        return self.network((pixels.float().unsqueeze(1) - 128.0) / 127.0)


def peer_module(name: str, classes: int, weights: Path | None) -> nn.Module:
    """A peer ready for export, with the weights that the study left, or random ones."""
    torch.manual_seed(0)
    if name in SPEED_ONLY:
        return Boxes(YoloV8nSeg(1, classes - 1)).eval()
    network = build_peer(name, 1, classes)
    if weights is not None:
        from safetensors.torch import load_file

        prefix = "confidence.network."
        state = {key.removeprefix(prefix): value for key, value in load_file(weights).items() if key.startswith(prefix)}
        missing = network.load_state_dict(state, strict=False).missing_keys
        if any(not key.endswith("num_batches_tracked") for key in missing):
            raise ValueError(f"{weights} lacks {missing[0]}")
    return Bytes(network).eval()


def export(module: nn.Module, side: int, path: Path) -> None:
    """Write one ONNX file with the batch dynamic."""
    batch = torch.export.Dim("N", min=1, max=64)
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)  # the exporter tells of packages that it does not find and does not need
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            _export(module, side, path, batch)
    finally:
        logging.disable(level)


def _export(module: nn.Module, side: int, path: Path, batch: Any) -> None:
    torch.onnx.export(
        module,
        (torch.zeros(2, side, side, dtype=torch.uint8),),
        str(path),
        input_names=["pixels"],
        dynamic_shapes=({0: batch},),
        dynamo=True,
        external_data=False,
        opset_version=20,
        verbose=False,
    )


def quantise(source: Path, tiles: NDArray[np.uint8], out: Path, *, transformer: bool) -> None:
    """INT8 by NNCF in its own environment; raises ``RuntimeError`` with the last line of what it says."""
    python = environment("nncf")
    np.save(out.with_suffix(".npy"), tiles)
    script = Path(__file__).with_name("quantise_one_nncf.py")
    command = [python, script, source, out.with_suffix(".npy"), out, *(["--transformer"] if transformer else [])]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    if found.returncode:
        raise RuntimeError((found.stderr.strip().splitlines() or ["no message"])[-1])


class Peer:
    """A file compiled for this processor in one way: batch, performance hint, threads."""

    def __init__(self, path: Path, side: int, batch: int, hint: str, threads: int) -> None:
        core = openvino.Core()
        model = core.read_model(path)
        model.reshape({"pixels": [batch, side, side]})
        settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": hint}
        if threads:
            settings["INFERENCE_NUM_THREADS"] = threads
        self.side, self.batch, self.hint = side, batch, hint
        self._queue = openvino.AsyncInferQueue(core.compile_model(model, "CPU", settings))
        self._found: dict[int, NDArray[np.uint8]] = {}
        self._queue.set_callback(self._take)

    def _take(self, request: Any, start: int) -> None:
        self._found[start] = np.array(request.get_output_tensor(0).data)

    def run(self, images: Sequence[Image]) -> list[NDArray[np.uint8]]:
        """Resize, infer, take the first output: as fast as a plain loop over an asynchronous queue goes."""
        self._found = {}
        for start in range(0, len(images), self.batch):
            pixels = np.zeros((self.batch, self.side, self.side), np.uint8)
            for row, image in enumerate(images[start : start + self.batch]):
                pixels[row] = resize_image(image, self.side, self.side)
            self._queue.start_async({"pixels": pixels}, userdata=start)
        self._queue.wait_all()
        return [self._found[start] for start in sorted(self._found)]

    def rate(self, images: Sequence[Image]) -> float:
        """Images a second."""
        started = time.perf_counter()
        self.run(images)
        return len(images) / (time.perf_counter() - started)


class PeerSegmenter:
    """A peer as a segmenter, for its accuracy; it has no first stage, so its score is 1."""

    def __init__(self, peer: Peer, classes: tuple[str, ...]) -> None:
        self.peer, self.classes, self.channels, self.tile_px = peer, classes, 1, peer.side

    def predict(self, tiles: NDArray[np.uint8]) -> Prediction:
        found = np.concatenate(self.peer.run(list(tiles)))[: len(tiles)]
        heat = np.ones((len(tiles), self.tile_px // 16, self.tile_px // 16), np.float32)
        return Prediction(found, np.full_like(found, 255), heat, np.ones(len(tiles), np.float32))


def fastest(path: Path, side: int, images: Sequence[Image], threads: int) -> Peer:
    """The file compiled in the way that is fastest here, of every batch and performance hint."""
    tried = []
    for batch in BATCHES:
        for hint in HINTS:
            peer = Peer(path, side, batch, hint, threads)
            peer.rate(images[: 2 * batch])
            tried.append((peer.rate(images), peer))
    return max(tried, key=lambda one: one[0])[1]


__all__ = ["Peer", "PeerSegmenter", "export", "fastest", "peer_module", "quantise"]
