"""What the pixel confidence module costs beside the rest of stage 2, on OpenVINO in float32, interleaved.

    python benchmarks/pcm.py [--batch 8] [--rounds 30] [--json]

Stage 2 is compiled with and without the module; the two are run in turn and the medians compared, since machines drift.
The INT8 engines do not exist yet: against them the module, which stays in float, will weigh more.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lpcnet_edge.backends.quiet import silence_libraries
from lpcnet_edge.network.confidence import ConfidenceNet
from lpcnet_edge.network.config import preset

silence_libraries()

CLASSES = ("background", "a", "b", "c", "d", "e")


def compile_stage2(refine_pixels: bool, batch: int, folder: Path) -> Any:
    """Stage 2 of the edge preset as an OpenVINO model with static batch."""
    import openvino

    torch.manual_seed(0)
    config = preset("edge", CLASSES, 1, refine_pixels=refine_pixels)
    path = folder / f"stage2-{refine_pixels}.onnx"
    inputs = (torch.zeros(batch, 1, 256, 256), torch.zeros(batch, config.localization_widths[-1], 16, 16))
    network = _Refined(ConfidenceNet(config)).eval()
    torch.onnx.export(network, inputs, path, dynamo=True, opset_version=20, external_data=False, verbose=False)
    return openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})


class _Refined(torch.nn.Module):
    def __init__(self, network: ConfidenceNet) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor, embedding: torch.Tensor) -> torch.Tensor:
        return self.network(x, embedding)[1]


def main() -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    feed = [
        rng.normal(size=(args.batch, 1, 256, 256)).astype(np.float32),
        rng.random((args.batch, 64, 16, 16), dtype=np.float32),
    ]
    times: dict[bool, list[float]] = {True: [], False: []}
    with tempfile.TemporaryDirectory() as folder:
        models = {refine: compile_stage2(refine, args.batch, Path(folder)) for refine in times}
        requests = {refine: model.create_infer_request() for refine, model in models.items()}
        for turn in range(args.rounds + 3):
            for refine, request in requests.items():
                started = time.perf_counter()
                request.infer(feed)
                if turn >= 3:
                    times[refine].append(1e3 * (time.perf_counter() - started) / args.batch)
    whole, without = (statistics.median(times[refine]) for refine in (True, False))
    found = {
        "batch": args.batch,
        "stage2_ms_per_tile": round(whole, 3),
        "without_pcm_ms_per_tile": round(without, 3),
        "pcm_ms_per_tile": round(whole - without, 3),
        "pcm_share": round((whole - without) / whole, 4),
    }
    print(json.dumps(found) if args.json else "\n".join(f"{name:<26}{value}" for name, value in found.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
