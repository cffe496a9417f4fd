"""Weights files: round trip, and every way a file can be bad has its own sentence."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from lpcnet_edge.config import to_mapping
from lpcnet_edge.errors import BadWeights
from lpcnet_edge.network.checkpoint import Checkpoint, save_checkpoint
from lpcnet_edge.network.config import NetworkConfig, preset
from lpcnet_edge.network.model import LpcNet
from lpcnet_edge.network.weights import load_network, save_weights, shipped_names

CONFIG = dataclasses.replace(
    preset("edge", ("background", "scratch"), 1), encoder_widths=(8, 8, 8, 8, 8), decoder_width=8
)


@pytest.fixture
def network() -> LpcNet:
    torch.manual_seed(1)
    return LpcNet(CONFIG)


@pytest.fixture
def path(network: LpcNet, tmp_path: Path) -> Path:
    target = tmp_path / "w.safetensors"
    save_weights(target, CONFIG, network.state_dict(), 128)
    return target


def test_round_trip(path: Path, network: LpcNet) -> None:
    loaded = load_network(path)
    assert loaded.network.config == CONFIG
    assert loaded.tile_px == 128
    assert loaded.classes == ("background", "scratch")
    for name, value in network.state_dict().items():
        assert torch.equal(loaded.network.state_dict()[name], value), name


def test_pt_round_trip(tmp_path: Path, network: LpcNet) -> None:
    content = {"config": to_mapping(CONFIG), "tile_px": 128, "state": network.state_dict()}
    torch.save(content, tmp_path / "w.pt")
    assert load_network(tmp_path / "w.pt").network.config == CONFIG


def test_writing_is_deterministic(path: Path, network: LpcNet, tmp_path: Path) -> None:
    save_weights(tmp_path / "again.safetensors", CONFIG, network.state_dict(), 128)
    assert (tmp_path / "again.safetensors").read_bytes() == path.read_bytes()


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def _foreign(path: Path) -> None:
    save_file({"x": torch.zeros(1)}, path)


def _missing(path: Path) -> None:
    _rewrite(path, lambda state: state.pop("localization.head.bias"))


def _shape(path: Path) -> None:
    _rewrite(path, lambda state: state.update({"localization.head.bias": torch.zeros(7)}))


def _nan(path: Path) -> None:
    _rewrite(path, lambda state: state["localization.head.bias"].fill_(float("nan")))


def _config(path: Path) -> None:
    about = {"format": "lpcnet-edge/1", "tile_px": 64, "config": {"classes": ["a"]}}
    save_file(load_file(path), path, {"lpcnet_edge": json.dumps(about)})


def _rewrite(path: Path, change: Any) -> None:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as handle:
        metadata = handle.metadata()
    state = load_file(path)
    change(state)
    save_file(state, path, metadata)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (_truncate, "not a safetensors file"),
        (_foreign, "format is 'missing'"),
        (_missing, "1 tensors missing .*localization.head.bias"),
        (_shape, r"head.bias is torch.float32 \(7,\), the network takes floats of \(1,\)"),
        (_nan, "not finite"),
        (_config, "configuration cannot be used"),
    ],
)
def test_bad_files_are_named(path: Path, spoil: Any, said: str) -> None:
    spoil(path)
    with pytest.raises(BadWeights, match=said) as caught:
        load_network(path)
    assert caught.value.mend


@pytest.mark.parametrize("about", ["[" * 100_000, '{"format": "lpcnet-edge/1", "tile_px": ' + "1" * 5000 + "}"])
def test_a_header_that_json_cannot_hold_is_named(tmp_path: Path, about: str) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "w.safetensors", {"lpcnet_edge": about})
    with pytest.raises(BadWeights, match="format is 'missing'"):
        load_network(tmp_path / "w.safetensors")


class _Payload:
    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("executed",))


def test_a_pt_file_cannot_execute(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"config": _Payload(), "tile_px": 1, "state": {}}, tmp_path / "evil.pt")
    with pytest.raises(BadWeights, match="cannot read it safely"):
        load_network(tmp_path / "evil.pt")
    assert "executed" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"tile_px": 100}, "tile_px is 100"),
        ({"tile_px": float("inf")}, "tile_px is inf"),
        ({"state": [1]}, "state is no dictionary"),
        ({"state": {3: torch.zeros(1)}}, "state is no dictionary"),
        ({"config": to_mapping(dataclasses.replace(CONFIG, decoder_width=10**7))}, "the network takes floats of"),
        ({"config": {**to_mapping(CONFIG), "pcm_window": 10**25 + 1}}, "configuration cannot be used"),
        ({"config": {**to_mapping(CONFIG), "encoder_blocks": [10**9, 1, 1, 1]}}, "encoder_blocks are"),
    ],
)
def test_a_pt_file_of_something_else_is_named(tmp_path: Path, network: LpcNet, change: Any, said: str) -> None:
    content = {"config": to_mapping(CONFIG), "tile_px": 128, "state": network.state_dict()}
    torch.save({**content, **change}, tmp_path / "w.pt")
    with pytest.raises(BadWeights, match=said) as caught:
        load_network(tmp_path / "w.pt")
    assert caught.value.mend


def test_a_pt_file_holds_tensors_of_floats(tmp_path: Path, network: LpcNet) -> None:
    for value, said in (
        (1.0, "head.bias is float"),
        (torch.zeros(1, dtype=torch.complex64), "complex64"),
        (torch.zeros(1, dtype=torch.float8_e4m3fn), "float8_e4m3fn"),
        (torch.zeros(1).to_sparse(), "head.bias is .*dense"),
        (torch.zeros(1, device="meta"), "head.bias is .*dense"),
        (torch.full((1,), 1e300, dtype=torch.float64), "not finite"),
    ):
        state = {**network.state_dict(), "localization.head.bias": value}
        torch.save({"config": to_mapping(CONFIG), "tile_px": 128, "state": state}, tmp_path / "w.pt")
        with pytest.raises(BadWeights, match=said):
            load_network(tmp_path / "w.pt")


def test_unknown_name() -> None:
    with pytest.raises(BadWeights, match="no-such-weights"):
        load_network("no-such-weights")


@pytest.mark.parametrize("name", shipped_names())
def test_shipped_weights_load_and_are_small(name: str) -> None:
    from lpcnet_edge.network.weights import weights_path

    assert weights_path(name).stat().st_size < 9_000_000
    assert weights_path(name).with_suffix(".yaml").is_file()
    assert isinstance(load_network(name).network.config, NetworkConfig)


def test_a_checkpoint_of_a_training_is_told_from_weights(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "checkpoint.pt", Checkpoint("d", 3, 1.0, [], {}))
    with pytest.raises(BadWeights, match="is the checkpoint of a training") as caught:
        load_network(tmp_path / "checkpoint.pt")
    assert f"train --resume --out {tmp_path}" in caught.value.mend
