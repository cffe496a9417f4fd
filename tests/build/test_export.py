"""The float pair computes what torch does, for any N and M, under names that a person can read."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import onnx
import pytest
from exported import SMALL, STAGES, Exported, fabric_tiles, random_network

from lpcnet_edge.backends.engine import EngineSegmenter
from lpcnet_edge.backends.graphs import OPSET, from_model
from lpcnet_edge.backends.onnxruntime import OnnxRuntimeEngine
from lpcnet_edge.build import float_onnx
from lpcnet_edge.build.export import export_network
from lpcnet_edge.build.float_onnx import float_pair
from lpcnet_edge.build.parity import LEAST_CLASS_AGREEMENT, check_parity
from lpcnet_edge.errors import BuildFailed
from lpcnet_edge.network.inference import FloatNetwork
from lpcnet_edge.types import Prediction

KINDS = ("real", "small")


@pytest.fixture(params=KINDS)
def network(request: pytest.FixtureRequest) -> Exported:
    found: Exported = request.getfixturevalue(request.param)
    return found


def engines(found: Exported) -> tuple[OnnxRuntimeEngine, OnnxRuntimeEngine]:
    first, second = (OnnxRuntimeEngine(m.SerializeToString(), threads=1) for m in found.float_models.values())
    return first, second


def segmenter(found: Exported, batch: int = 4) -> EngineSegmenter:
    n = found.network
    first, second = engines(found)
    return EngineSegmenter(first, second, classes=n.classes, channels=n.channels, tile_px=n.tile_px, batch=batch)


def test_it_computes_what_torch_does(network: Exported) -> None:
    parity = check_parity(network.network, segmenter(network), network.tiles[:8])
    assert parity.tiles == 8
    assert parity.class_agreement >= 0.9999
    assert parity.heatmap_error <= 1e-4
    theirs, ours = network.network.predict(network.tiles[:8]), segmenter(network).predict(network.tiles[:8])
    assert np.abs(ours.confidence.astype(int) - theirs.confidence).max() <= 1
    np.testing.assert_allclose(ours.score, theirs.score, atol=1e-4)
    assert len(np.unique(theirs.classes)) > 1, "these tiles would agree under any network"


@pytest.mark.parametrize(("tiles", "count"), list(product((1, 3, 8), repeat=2)))
def test_any_number_of_tiles_and_of_picked_ones(tiles: int, count: int, small: Exported) -> None:
    """N tiles, M picked of them, in any order and repeated: each as torch has it."""
    first, second = engines(small)
    pixels = small.tiles[:tiles]
    picked = np.random.default_rng(10 * tiles + count).integers(0, tiles, count).astype(np.int32)
    found = first.run({"pixels": pixels})
    assert found["heatmap"].shape == (tiles, 1, 4, 4)
    maps = second.run({"pixels": pixels, "embedding": found["embedding"], "picked": picked})
    wanted = small.network.predict(pixels)
    assert maps["classes"].shape == maps["confidence"].shape == (count, 64, 64)
    assert (maps["classes"] == wanted.classes[picked]).mean() >= 0.9999
    np.testing.assert_allclose(found["heatmap"][:, 0], wanted.heatmap, atol=1e-4)
    np.testing.assert_allclose(found["score"], wanted.score, atol=1e-4)


@pytest.mark.parametrize("tiles", [(1, 3), (8, 1)])
def test_the_real_network_takes_any_number_too(tiles: tuple[int, int], real: Exported) -> None:
    count, picked = tiles
    first, second = engines(real)
    pixels = real.tiles[:count]
    embedding = first.run({"pixels": pixels})["embedding"]
    chosen = np.full(picked, count - 1, np.int32)
    maps = second.run({"pixels": pixels, "embedding": embedding, "picked": chosen})
    wanted = real.network.predict(pixels).classes[chosen]
    assert (maps["classes"] == wanted).mean() >= 0.9999


def test_inputs_and_outputs_are_bytes_and_dynamic(network: Exported) -> None:
    colour = [3] if network.network.channels == 3 else []
    side, cells = network.network.tile_px, network.network.tile_px // 16
    width = network.network.network.config.localization_widths[-1]
    wanted = {
        "localization": {
            "pixels": ("uint8", ["N", side, side, *colour]),
            "heatmap": ("float32", ["N", 1, cells, cells]),
            "embedding": ("float32", ["N", width, cells, cells]),
            "score": ("float32", ["N"]),
        },
        "confidence": {
            "pixels": ("uint8", ["N", side, side, *colour]),
            "embedding": ("float32", ["N", width, cells, cells]),
            "picked": ("int32", ["M"]),
            "classes": ("uint8", ["M", side, side]),
            "confidence": ("uint8", ["M", side, side]),
        },
    }
    for stage, model in network.float_models.items():
        found = {}
        for value in [*model.graph.input, *model.graph.output]:
            kind = value.type.tensor_type
            dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)).name
            found[value.name] = (dtype, [d.dim_param or d.dim_value for d in kind.shape.dim])
        assert found == wanted[stage]
        assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", OPSET)]


def test_names_can_be_read(network: Exported) -> None:
    for stage, model in network.float_models.items():
        names = [node.name for node in model.graph.node]
        assert len(set(names)) == len(names)
        readable = re.compile(r"(stage[12]|preprocess|output)(/[a-z][a-z0-9_]*)+")
        assert [name for name in names if not readable.fullmatch(name)] == [], stage
        outputs = {value.name for value in model.graph.output}
        tensors = [(node.name, tensor) for node in model.graph.node for tensor in node.output if tensor not in outputs]
        assert all(tensor == name or re.fullmatch(rf"{name}:\d+", tensor) for name, tensor in tensors)
    names = {node.name for node in network.pair.confidence.graph.node}
    assert {"stage2/decoder/up8/conv", "stage2/encoder/level8/block1/conv1", "preprocess/normalise"} <= names


def test_normalisation_is_inside_batch_normalisation_is_folded_and_nothing_constant_is_computed(
    network: Exported,
) -> None:
    for model in network.float_models.values():
        graph = from_model(model)
        ops = {node.op for node in graph.nodes}
        assert not ops & {"BatchNormalization", "Shape", "Constant", "Identity", "Dropout", "Concat"}
        assert all(any(not hasattr(t, "values") for t in node.inputs) for node in graph.nodes)
        pixels = next(t for t in graph.inputs if t.name == "pixels")
        assert [node.op for node in pixels.outputs] == ["Cast"], "TensorRT lets uint8 feed a Cast alone"
        assert not model.metadata_props
        assert not any(node.metadata_props for node in model.graph.node)


@pytest.mark.slow
def test_the_same_network_exports_to_the_same_bytes(small: Exported) -> None:
    again = export_network(FloatNetwork(random_network(SMALL), 64))
    for stage in STAGES:
        assert getattr(again, stage).SerializeToString() == small.float_models[stage].SerializeToString()


@pytest.mark.slow
@pytest.mark.parametrize("refine", [False, True])
@pytest.mark.parametrize("embed", [False, True])
def test_the_switches_export_too(refine: bool, embed: bool) -> None:
    config = replace(SMALL, refine_pixels=refine, embed_localization=embed)
    network = FloatNetwork(random_network(config), 64)
    found = Exported(network, export_network(network), fabric_tiles(8, 64, 1))
    assert check_parity(network, segmenter(found), found.tiles).class_agreement >= 0.9999
    assert [value.name for value in found.pair.confidence.graph.input] == ["pixels", "embedding", "picked"]


class Off:
    """A segmenter that is wrong in a stated way."""

    def __init__(self, true: FloatNetwork, pixels: int, heat: float) -> None:
        self._true, self._pixels, self._heat = true, pixels, heat
        self.classes, self.channels, self.tile_px = true.classes, true.channels, true.tile_px

    def predict(self, tiles: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> Prediction:
        right = self._true.predict(tiles)
        classes = right.classes.copy()
        classes.reshape(-1)[: self._pixels] ^= 1
        return replace(right, classes=classes, heatmap=right.heatmap + np.float32(self._heat))


def test_a_kept_export_that_was_damaged_is_made_again(
    small: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lpcnet_edge.build.float_onnx.export_network", lambda _: small.pair)
    assert float_pair(small.network, "0" * 64, tmp_path)[1] == ""
    for name, damage in (("*/confidence.onnx", b"x"), ("*/localization.onnx.sha256", b"\xff\xfe")):
        assert float_pair(small.network, "0" * 64, tmp_path)[1] == "export reused"
        (path,) = tmp_path.glob(name)
        path.write_bytes(damage)
        assert float_pair(small.network, "0" * 64, tmp_path)[1] == ""


@pytest.mark.parametrize("library", ["torch", "onnx", "onnxscript"])
def test_an_export_by_another_version_is_not_reused(
    library: str, small: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What failed the parity with one version is to be exported again with another, as the error says."""
    monkeypatch.setattr(float_onnx, "export_network", lambda network: small.pair)
    assert float_pair(small.network, "0" * 64, tmp_path)[1] == ""
    known = float_onnx.package_version
    monkeypatch.setattr(float_onnx, "package_version", lambda name: "99" if name == library else known(name))
    assert float_pair(small.network, "0" * 64, tmp_path)[1] == ""
    assert float_pair(small.network, "0" * 64, tmp_path)[1] == "export reused"


def test_parity_is_measured_to_the_pixel(small: Exported) -> None:
    tiles = small.tiles[:4]
    allowed = int((1 - LEAST_CLASS_AGREEMENT) * tiles.size)
    found = check_parity(small.network, Off(small.network, allowed, 5e-5), tiles)
    assert found.class_agreement == 1 - allowed / tiles.size
    assert found.heatmap_error == pytest.approx(5e-5, rel=0.01)
    for off in (Off(small.network, allowed + 1, 0), Off(small.network, 0, 2e-4), Off(small.network, 0, float("nan"))):
        with pytest.raises(BuildFailed, match="does not compute what torch does"):
            check_parity(small.network, off, tiles)
