"""What the pixel confidence module costs beside the rest of stage 2, on OpenVINO, in float32 and INT8, interleaved.

    python benchmarks/pcm.py [--batch 8] [--rounds 30] [--threads 0] [--json]

Stage 2 of the edge preset is built with and without the module, compiled as the pipeline compiles it, and the engines
run in turn; the medians are compared, since machines drift. Weights are random: they change no time.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from dataclasses import replace

import numpy as np
import torch

from lpcnet_edge.backends.graphs import from_model
from lpcnet_edge.backends.lowering import without_picking
from lpcnet_edge.backends.openvino import OpenVinoEngine
from lpcnet_edge.build.export import export_network
from lpcnet_edge.build.quantise import place, quantise
from lpcnet_edge.network.config import preset
from lpcnet_edge.network.inference import FloatNetwork
from lpcnet_edge.network.model import LpcNet

CLASSES = ("background", "a", "b", "c", "d", "e")
TILE_PX = 256
RANGE = 6.0
"""Of every tensor in INT8; it changes no time either."""


def engines(refine_pixels: bool, batch: int, threads: int) -> dict[str, OpenVinoEngine]:
    """Stage 2 by precision, with static shapes."""
    torch.manual_seed(0)
    config = replace(preset("edge", CLASSES, 1), refine_pixels=refine_pixels)
    stage2 = export_network(FloatNetwork(LpcNet(config), TILE_PX)).confidence
    int8 = quantise(stage2, dict.fromkeys(place(from_model(stage2)).tensors, RANGE))
    made = {}
    for name, model in (("float32", stage2), ("int8", int8)):
        direct = without_picking(model)
        shapes = {
            value.name: [dim.dim_value or batch for dim in value.type.tensor_type.shape.dim]
            for value in direct.graph.input
        }
        made[name] = OpenVinoEngine(direct.SerializeToString(), threads=threads, shapes=shapes)
    return made


def main() -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--threads", type=int, default=0, help="0 leaves the number to OpenVINO")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    for name in ("batch", "rounds"):
        if getattr(args, name) < 1:
            parser.error(f"--{name} {getattr(args, name)}: use 1 or more")
    rng = np.random.default_rng(0)
    feeds = {
        "pixels": rng.integers(0, 256, (args.batch, TILE_PX, TILE_PX), np.uint8),
        "embedding": rng.random((args.batch, preset("edge", CLASSES, 1).localization_widths[-1], 16, 16), np.float32),
    }
    made = {refine: engines(refine, args.batch, args.threads) for refine in (True, False)}
    times: dict[tuple[str, bool], list[float]] = {(name, r): [] for r, both in made.items() for name in both}
    for turn in range(args.rounds + 3):
        for (name, refine), measured in times.items():
            started = time.perf_counter()
            made[refine][name].run(feeds)
            if turn >= 3:
                measured.append(1e3 * (time.perf_counter() - started) / args.batch)
    found: dict[str, object] = {"batch": args.batch, "rounds": args.rounds}
    for name in ("float32", "int8"):
        whole, without = (statistics.median(times[name, refine]) for refine in (True, False))
        found[name] = {
            "stage2_ms_per_tile": round(whole, 3),
            "without_pcm_ms_per_tile": round(without, 3),
            "pcm_ms_per_tile": round(whole - without, 3),
            "pcm_share": round((whole - without) / whole, 4),
        }
    print(json.dumps(found, indent=None if args.json else 2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
