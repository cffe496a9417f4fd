"""Weights at rest: a safetensors file that knows its network, with a model card beside it."""

from __future__ import annotations

import hashlib
import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from lpcnet_edge.config import from_mapping, to_mapping
from lpcnet_edge.errors import BadWeights, LpcnetError
from lpcnet_edge.files import write_atomically
from lpcnet_edge.network.config import LARGEST_TILE_PX, TILE_MULTIPLE_PX, NetworkConfig
from lpcnet_edge.network.inference import FloatNetwork
from lpcnet_edge.network.model import LpcNet

FORMAT = "lpcnet-edge/1"
_TRACKED = "num_batches_tracked"
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_ABOUT = "lpcnet_edge"


def shipped_names() -> list[str]:
    """Names of the weights that come with the package."""
    folder = files("lpcnet_edge").joinpath("weights")
    if not folder.is_dir():
        return []
    return sorted(e.name.removesuffix(".safetensors") for e in folder.iterdir() if e.name.endswith(".safetensors"))


def weights_path(name_or_path: str | Path) -> Path:
    """The file of shipped weights by name, or a path as it is; raises ``BadWeights`` where there is none."""
    path = Path(name_or_path)
    if str(name_or_path) in shipped_names():
        return Path(str(files("lpcnet_edge").joinpath("weights", f"{name_or_path}.safetensors")))
    if not path.is_file():
        raise BadWeights(
            f"{str(name_or_path)!r} is neither shipped weights nor a file",
            mend=f"use one of: {', '.join(shipped_names())}; or the path of a .safetensors or .pt file",
        )
    return path


def save_weights(path: Path, config: NetworkConfig, state: dict[str, Tensor], tile_px: int) -> str:
    """Write float32 weights with their configuration, atomically; returns the file's SHA-256 (hex)."""
    tensors = {
        name: value.detach().to("cpu", torch.float32).contiguous()
        for name, value in state.items()
        if not name.endswith(_TRACKED)
    }
    # One key, since safetensors writes several in any order, and the same weights should be the same bytes.
    about = {"format": FORMAT, "config": to_mapping(config), "tile_px": tile_px}
    data = save(tensors, {_ABOUT: json.dumps(about, sort_keys=True)})
    write_atomically(path, data)
    return hashlib.sha256(data).hexdigest()


def load_network(name_or_path: str | Path, device: str = "cpu") -> FloatNetwork:
    """Read weights by shipped name, or from a ``.safetensors`` or ``.pt`` file of this network.

    A ``.pt`` file is a dictionary with ``config`` (plain data), ``tile_px`` and ``state``; it is read with
    ``weights_only=True``, so that nothing in it is executed. Raises ``BadWeights`` naming the file and what is wrong.
    """
    path = weights_path(name_or_path)
    metadata, state = _read_pt(path) if path.suffix in (".pt", ".pth") else _read_safetensors(path)
    try:
        config = from_mapping(NetworkConfig, metadata["config"], f"{path}: config")
        tile_px = _tile(metadata["tile_px"])
        with torch.device("meta"):  # names and shapes alone: what a damaged configuration asks for is never allocated
            wanted = {name: value.shape for name, value in LpcNet(config).state_dict().items()}
    except (KeyError, TypeError, ValueError, OverflowError, RuntimeError, LpcnetError) as exc:
        raise BadWeights(
            f"{path}: its network configuration cannot be used: {exc}", mend="train or export the weights again"
        ) from exc
    expected = {name for name in wanted if not name.endswith(_TRACKED)}
    if expected != set(state):
        missing, unknown = sorted(expected - set(state)), sorted(set(state) - expected)
        raise BadWeights(
            f"{path}: {len(missing)} tensors missing ({', '.join(missing[:3]) or 'none'}), "
            f"{len(unknown)} unknown ({', '.join(unknown[:3]) or 'none'})",
            mend="use weights of this version of the network",
        )
    for name, value in state.items():
        if not isinstance(value, Tensor) or value.shape != wanted[name] or not _is_plain(value):
            found = f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            raise BadWeights(
                f"{path}: {name} is {found}, the network takes floats of {tuple(wanted[name])}, dense and of 16 "
                "bits or more",
                mend="use weights of this configuration",
            )
    bad = [name for name, value in state.items() if not torch.isfinite(value.float()).all()]  # as it will be used
    if bad:
        raise BadWeights(f"{path}: {bad[0]} holds values that are not finite", mend="train again with a lower rate")
    network = LpcNet(config)
    network.load_state_dict(state, strict=False)
    return FloatNetwork(network, tile_px, device=device)


def _is_plain(value: Tensor) -> bool:
    """Whether a tensor holds floats that can be computed with: none of 8 bits, sparse or without content."""
    return value.dtype in _FLOATS and value.layout == torch.strided and not value.is_meta


def _tile(value: object) -> int:
    """The side of a tile that a file states; raises ``ValueError``."""
    if (
        not isinstance(value, int)
        or isinstance(value, bool)
        or value % TILE_MULTIPLE_PX
        or not 0 < value <= LARGEST_TILE_PX
    ):
        raise ValueError(f"tile_px is {value!r}, not a multiple of {TILE_MULTIPLE_PX} up to {LARGEST_TILE_PX}")
    return value


def _read_safetensors(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        with safe_open(path, framework="pt") as handle:
            header = dict(handle.metadata() or {})
            state = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as exc:
        raise BadWeights(f"{path}: not a safetensors file ({exc})", mend="copy or download the file again") from exc
    try:
        about = json.loads(header[_ABOUT])
        found = about["format"]
    except (KeyError, TypeError, ValueError, RecursionError):  # JSON's own error is a ValueError; so are long numbers
        about, found = {}, "missing"
    if found != FORMAT:
        raise BadWeights(
            f"{path}: format is {found!r}, this version reads {FORMAT!r}",
            mend="use weights written by lpcnet-edge train",
        )
    return about, state


def _read_pt(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as exc:  # torch raises many kinds for many kinds of damage
        raise BadWeights(f"{path}: torch cannot read it safely ({type(exc).__name__})", mend="save it again") from exc
    if not isinstance(content, dict) or not {"config", "tile_px", "state"} <= set(content):
        if isinstance(content, dict) and "digest" in content:  # what `train` goes on from
            raise BadWeights(
                f"{path} is the checkpoint of a training, which holds no finished weights",
                mend=f"finish it with `train --resume --out {path.parent}`, then take its weights.safetensors",
            )
        raise BadWeights(f"{path}: config, tile_px and state are expected in it", mend="save a dictionary of the three")
    if not isinstance(content["state"], dict) or not all(isinstance(name, str) for name in content["state"]):
        raise BadWeights(f"{path}: state is no dictionary of names and tensors", mend="save the network's state_dict()")
    state = {name: value for name, value in content["state"].items() if not name.endswith(_TRACKED)}
    return {"config": content["config"], "tile_px": content["tile_px"]}, state
