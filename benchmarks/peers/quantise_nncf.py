"""NNCF's post-training quantisation of both stages to OpenVINO IR, preset mixed: see quantisation.py."""

import sys
from pathlib import Path

import nncf
import numpy as np
import openvino

source, data, out = (Path(argument) for argument in sys.argv[1:4])
arrays = np.load(data)
tiles, embedding = arrays["tiles"], arrays["embedding"]
picked = np.arange(1, dtype=np.int32)
for stage in ("localization", "confidence"):
    rows = [{"pixels": tiles[i : i + 1]} for i in range(len(tiles))]
    if stage == "confidence":
        rows = [row | {"embedding": embedding[i : i + 1], "picked": picked} for i, row in enumerate(rows)]
    model = openvino.Core().read_model(source / f"{stage}.onnx")
    quantised = nncf.quantize(model, nncf.Dataset(rows), preset=nncf.QuantizationPreset.MIXED, subset_size=len(rows))
    openvino.save_model(quantised, out / f"{stage}.xml", compress_to_fp16=False)
