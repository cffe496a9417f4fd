"""NNCF's post-training quantisation of one ONNX file with the input ``pixels``, preset mixed: see networks.py."""

import sys
from pathlib import Path

import nncf
import numpy as np
import openvino

source, tiles, out = (Path(argument) for argument in sys.argv[1:4])
kind = nncf.ModelType.TRANSFORMER if "--transformer" in sys.argv else None
rows = [{"pixels": tile[None]} for tile in np.load(tiles)]
quantised = nncf.quantize(
    openvino.Core().read_model(source),
    nncf.Dataset(rows),
    preset=nncf.QuantizationPreset.MIXED,
    model_type=kind,
    subset_size=len(rows),
)
openvino.save_model(quantised, out, compress_to_fp16=False)
