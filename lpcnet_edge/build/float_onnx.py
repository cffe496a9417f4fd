"""The float ONNX pair of some weights, kept in this machine's cache, since exporting takes a while."""

from __future__ import annotations

import hashlib
from pathlib import Path

import onnx

import lpcnet_edge
from lpcnet_edge.build.export import export_network
from lpcnet_edge.build.pair import OnnxPair
from lpcnet_edge.files import write_atomically
from lpcnet_edge.machine import package_version
from lpcnet_edge.network.inference import FloatNetwork

_STAGES = ("localization", "confidence")
_LIBRARIES = ("torch", "onnx", "onnxscript", "onnx-ir", "onnx-graphsurgeon", "onnxruntime")
"""What the export runs through: torch's exporter is largely onnxscript and onnx-ir; ONNX Runtime folds constants."""


def float_pair(network: FloatNetwork, weights_sha256: str, cache: Path) -> tuple[OnnxPair, str]:
    """The pair and a note on where it came from.

    The cache is addressed by the weights, this package's own source of the network and the export, and the versions of
    the libraries that export; a file in it that does not have the digest written beside it is made again.
    """
    folder = cache / _address(weights_sha256)
    stages = [_read(folder / f"{stage}.onnx") for stage in _STAGES]
    if stages[0] is not None and stages[1] is not None:
        return OnnxPair(stages[0], stages[1]), "export reused"
    pair = export_network(network)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for stage, model in zip(_STAGES, (pair.localization, pair.confidence), strict=True):
        data = model.SerializeToString()
        write_atomically(folder / f"{stage}.onnx", data)
        write_atomically(folder / f"{stage}.onnx.sha256", hashlib.sha256(data).hexdigest().encode())
    return pair, ""


def _address(weights_sha256: str) -> str:
    digest = hashlib.sha256(weights_sha256.encode())
    root = Path(lpcnet_edge.__file__).parent
    sources = ("build/export.py", "build/names.py", "backends/graphs.py")
    for path in sorted((*root.glob("network/*.py"), *(root / name for name in sources))):
        digest.update(path.read_bytes())
    digest.update(" ".join(package_version(name) for name in _LIBRARIES).encode())
    return digest.hexdigest()


def _read(path: Path) -> onnx.ModelProto | None:
    try:
        data = path.read_bytes()
        wanted = path.with_name(path.name + ".sha256").read_bytes()
    except OSError:
        return None
    return onnx.load_model_from_string(data) if hashlib.sha256(data).hexdigest().encode() == wanted else None
