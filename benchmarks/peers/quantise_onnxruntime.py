"""ONNX Runtime's quantize_static on both stages, with the options that TensorRT's parser takes: see quantisation.py."""

import os

os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import sys
from pathlib import Path

import numpy as np
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static


class Reader(CalibrationDataReader):
    def __init__(self, rows):
        self.rows = iter(rows)

    def get_next(self):
        return next(self.rows, None)


source, data, out = (Path(argument) for argument in sys.argv[1:4])
arrays = np.load(data)
tiles, embedding = arrays["tiles"], arrays["embedding"]
picked = np.arange(1, dtype=np.int32)
for stage in ("localization", "confidence"):
    rows = [{"pixels": tiles[i : i + 1]} for i in range(len(tiles))]
    if stage == "confidence":
        rows = [row | {"embedding": embedding[i : i + 1], "picked": picked} for i, row in enumerate(rows)]
    quantize_static(
        source / f"{stage}.onnx",
        out / f"{stage}.onnx",
        Reader(rows),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QInt8,
        weight_type=QuantType.QInt8,
        op_types_to_quantize=["Conv"],
        extra_options={
            "ActivationSymmetric": True,
            "WeightSymmetric": True,
            "QuantizeBias": False,
            "AddQDQPairToWeight": True,
            "OpTypesToExcludeOutputQuantization": ["Conv"],
        },
    )
