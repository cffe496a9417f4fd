"""NVIDIA ModelOpt's ONNX post-training quantisation of both stages, calibrated on the CPU: see quantisation.py."""

import sys
from pathlib import Path

import numpy as np
from modelopt.onnx.quantization import quantize

source, data, out = (Path(argument) for argument in sys.argv[1:4])
arrays = np.load(data)
tiles, embedding = arrays["tiles"], arrays["embedding"]
for stage in ("localization", "confidence"):
    feeds = {"pixels": tiles}
    if stage == "confidence":
        # It calibrates tile by tile wherever the batch is dynamic: of each such batch the one tile is picked.
        feeds |= {"embedding": embedding, "picked": np.zeros(len(tiles), np.int32)}
    quantize(
        str(source / f"{stage}.onnx"),
        quantize_mode="int8",
        calibration_data=feeds,
        calibration_method="max",
        calibration_eps=["cpu"],
        high_precision_dtype="fp32",
        output_path=str(out / f"{stage}.onnx"),
    )
