"""A process that opened and closed OpenVINO engines in any order still handles its signals."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import onnx
from onnx import TensorProto, helper

SCRIPT = """
import os, signal, sys
from lpcnet_edge.backends.openvino import OpenVinoEngine
model = open(sys.argv[1], "rb").read()
engines = [OpenVinoEngine(model) for _ in range(4)]
for index in (0, 2, 1, 3):
    engines[index].close()
    engines[index] = None
handled = []
signal.signal(signal.SIGTERM, lambda *_: handled.append(1))
os.kill(os.getpid(), signal.SIGTERM)
print("handled" if handled else "lost")
"""


def test_signals_are_handled_after_engines_were_closed_in_any_order(tmp_path: Path) -> None:
    nodes = [helper.make_node("Relu", ["x"], ["y"])]
    graph = helper.make_graph(
        nodes,
        "relu",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, tmp_path / "relu.onnx")
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path / "relu.onnx")], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "handled\n"), done.stderr
