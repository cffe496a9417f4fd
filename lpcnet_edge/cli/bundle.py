"""``sign``, ``verify`` and ``keygen``, and what ``show`` prints of a bundle."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lpcnet_edge.cli.console import add_json_option, print_json, text_console
from lpcnet_edge.cli.options import refuse_in_bundles

if TYPE_CHECKING:
    from lpcnet_edge.bundle.read import Bundle


def add_verbs(verbs: Any) -> None:
    """Add this module's verbs to the command."""
    parser = verbs.add_parser("sign", help="sign a bundle, after verifying all of it")
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="its folder")
    parser.add_argument("--key", required=True, type=Path, metavar="FILE", help="the private key (keygen makes one)")
    add_json_option(parser)
    parser.set_defaults(run=run_sign)

    parser = verbs.add_parser("verify", help="whether a bundle holds: files, ONNX, plans, signature")
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="its folder")
    parser.add_argument("--key", type=Path, metavar="PUBLIC", help="demand a signature by this public key")
    add_json_option(parser)
    parser.set_defaults(run=run_verify)

    parser = verbs.add_parser("keygen", help="make a key pair for signing bundles")
    parser.add_argument("--out", required=True, type=Path, metavar="PREFIX", help="writes PREFIX.key and PREFIX.pub")
    add_json_option(parser)
    parser.set_defaults(run=run_keygen)


def run_sign(args: argparse.Namespace) -> int:
    """``lpcnet-edge sign``"""
    from lpcnet_edge.bundle.read import open_bundle
    from lpcnet_edge.bundle.sign import fingerprint, load_private_key, sign_bundle

    key = load_private_key(args.key)
    bundle = open_bundle(args.bundle)
    sign_bundle(bundle.path, bundle.manifest_sha256, key)
    signer = fingerprint(key.public_key())
    if args.json:
        print_json({"id": bundle.id, "path": str(bundle.path), "key": signer})
    else:
        print(f"{bundle.path}: {bundle.id} is signed by the key {signer}")
    return 0


def run_verify(args: argparse.Namespace) -> int:
    """``lpcnet-edge verify``"""
    from lpcnet_edge.bundle.read import open_bundle

    bundle = open_bundle(args.bundle, trusted_key=args.key)
    signer = None
    if args.key:
        from lpcnet_edge.bundle.sign import fingerprint, load_public_key

        signer = fingerprint(load_public_key(args.key))
    files = bundle.manifest.files
    total = sum(record.size_bytes for record in files.values())
    models = [name for name in files if name.endswith(".onnx")]
    if args.json:
        about = {"id": bundle.id, "path": str(bundle.path), "files": len(files), "size_bytes": total}
        plans = [str(plans) for plans in bundle.plan_sets]
        print_json({**about, "models": models, "plans": plans, "signed": bundle.signed, "key": signer})
        return 0
    print(f"{bundle.path}: {bundle.id} holds")
    print(f"files      {len(files)} of {len(files)}, {_size(total)}: names, sizes and SHA-256 as stated, no others")
    print(f"ONNX       {', '.join(models)}: each stands alone, inputs and outputs as stated")
    print(f"plans      {'; '.join(str(plans) for plans in bundle.plan_sets) or 'none'}")
    print(f"signature  {_signature(bundle, signer)}")
    return 0


def run_keygen(args: argparse.Namespace) -> int:
    """``lpcnet-edge keygen``"""
    from lpcnet_edge.bundle.sign import fingerprint, load_public_key, make_keys

    refuse_in_bundles(args.out)
    private, public = make_keys(args.out)
    signer = fingerprint(load_public_key(public))
    if args.json:
        print_json({"private": str(private), "public": str(public), "key": signer})
    else:
        print(f"{private}: the private key, for signing; only you can read it")
        print(f"{public}: the public key {signer}, for the stations")
    return 0


def show_bundle(path: Path, *, as_json: bool) -> int:
    """``lpcnet-edge show BUNDLE``"""
    from lpcnet_edge.bundle.read import open_bundle

    bundle = open_bundle(path)
    if as_json:
        from lpcnet_edge.config import to_mapping

        plans = [to_mapping(plans) for plans in bundle.plan_sets]
        about = {"id": bundle.id, "path": str(bundle.path), "signed": bundle.signed}
        print_json({**about, **to_mapping(bundle.manifest), "plans": plans})
    else:
        _print_bundle(bundle)
    return 0


def _print_bundle(bundle: Bundle) -> None:
    """Two tables: what the bundle is, and the files in it. Texts of the bundle are never read as markup."""
    from rich.table import Table
    from rich.text import Text

    from lpcnet_edge.config import to_mapping

    def add_row(table: Table, *cells: str) -> None:
        table.add_row(*map(Text, cells))

    manifest = bundle.manifest
    table = Table(title=Text(bundle.id), title_justify="left", show_header=False)
    add_row(table, "precision", manifest.precision)
    add_row(table, "classes", ", ".join(manifest.classes))
    kind = "grey" if manifest.channels == 1 else "BGR"
    add_row(table, "tiles", f"{manifest.tile_px} x {manifest.tile_px} px, {kind}")
    for name, stage in manifest.stages.items():
        add_row(table, name, f"{stage.file}, {stage.precision}")
        add_row(table, "  in", "\n".join(map(str, stage.inputs)))
        add_row(table, "  out", "\n".join(map(str, stage.outputs)))
        add_row(table, "  in float", ", ".join(stage.float_layers) or "no further layer")
    gate = manifest.gate
    sure = "" if gate.confidence is None else f", confidence {gate.confidence:.6g}"
    add_row(table, "gate", "off: the second stage sees every tile" if gate.mode == "off" else
            f"scores from {gate.threshold:.4g}; alpha {gate.alpha:.4g} on {gate.parts} parts{sure}")  # fmt: skip
    rules = to_mapping(manifest.rules)
    add_row(table, "rejects", ", ".join(_lines(rules.pop("default"))))
    for name, rule in rules.pop("per_class").items():
        add_row(table, f"  {name}", ", ".join(_lines(rule)))
    add_row(table, "other rules", "\n".join(_lines({key: value for key, value in rules.items() if value})) or "none")
    for what, values in (("accuracy", manifest.accuracy), ("provenance", manifest.provenance)):
        add_row(table, what, "\n".join(_lines(values)) or "nothing stated")
    add_row(table, "plans", "\n".join(str(plans) for plans in bundle.plan_sets) or "none")
    add_row(table, "signature", _signature(bundle, None))
    files = Table("file", "size", "SHA-256")
    files.columns[1].justify = "right"
    for name, record in manifest.files.items():
        add_row(files, name, _size(record.size_bytes), f"{record.sha256[:12]}...")
    console = text_console()
    console.print(table)
    console.print(files)


def _signature(bundle: Bundle, signer: str | None) -> str:
    if signer:
        return f"by the key {signer}, as demanded"
    return "there, not checked (verify --key PUBLIC does)" if bundle.signed else "none"


def _lines(values: Any, name: str = "") -> list[str]:
    """Nested plain data as lines of ``a.b: value``."""
    if isinstance(values, dict) and values:
        return [line for key, value in values.items() for line in _lines(value, f"{name}.{key}" if name else str(key))]
    return [f"{name}: {values:.5g}" if isinstance(values, float) else f"{name}: {values}"] if name else []


def _size(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:.2f} MB" if size_bytes >= 1e5 else f"{size_bytes:,} B"
