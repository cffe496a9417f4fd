"""Keys and signatures, and the verbs for them."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import cast

import pytest
from bundle_making import edit_manifest, write_tiny
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from lpcnet_edge.bundle.read import open_bundle
from lpcnet_edge.bundle.sign import load_private_key, load_public_key, make_keys, sign_bundle
from lpcnet_edge.cli import main
from lpcnet_edge.errors import BadKey, ChangedFile, UsageError


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, Path]:
    return make_keys(tmp_path / "keys" / "line4")


def test_sign_and_verify(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    unsigned = open_bundle(root).id
    assert main(["keygen", "--out", str(tmp_path / "k"), "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert main(["sign", str(root), "--key", made["private"]]) == 0
    capsys.readouterr()
    assert main(["verify", str(root), "--key", made["public"], "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["id"], shown["signed"], shown["key"]) == (unsigned, True, made["key"])
    assert main(["verify", str(root), "--key", made["public"]]) == 0
    assert f"by the key {made['key']}, as demanded" in capsys.readouterr().out
    assert main(["verify", str(root)]) == 0
    assert "there, not checked" in capsys.readouterr().out
    assert sorted(p.name for p in root.parent.iterdir()) == ["k.key", "k.pub", "tiny"]


def test_every_verb_that_uses_a_bundle_can_demand_its_signature(
    root: Path, keys: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    data = ["--data", "carbon-fabric:count=2,seed=1"]
    for verb in (["check", str(root), *data], ["selftest", str(root)], ["bench", str(root)], ["run", str(root), "."]):
        assert main([*verb, "--key", str(keys[1])]) == 3, verb
        assert "signature" in capsys.readouterr().err


def test_writing_signs(tmp_path: Path, keys: tuple[Path, Path]) -> None:
    bundle = write_tiny(tmp_path / "out", sign_with=keys[0])
    assert bundle.signed
    assert open_bundle(tmp_path / "out", trusted_key=keys[1]) == bundle


def test_signing_again_replaces_the_signature(root: Path, keys: tuple[Path, Path], tmp_path: Path) -> None:
    for private, public in (make_keys(tmp_path / "other"), keys):
        assert main(["sign", str(root), "--key", str(private)]) == 0
        assert open_bundle(root, trusted_key=public).signed


def test_nothing_is_signed_that_changed_since_it_was_verified(root: Path, keys: tuple[Path, Path]) -> None:
    bundle = open_bundle(root)
    edit_manifest(root, lambda mapping: mapping.update(name="other"))
    with pytest.raises(ChangedFile, match="nothing was signed"):
        sign_bundle(root, bundle.manifest_sha256, load_private_key(keys[0]))
    assert not (root / "signature").exists()


def test_no_bundle_takes_the_place_of_one_while_it_is_signed(root: Path, keys: tuple[Path, Path]) -> None:
    private = load_private_key(keys[0])
    turns: list[str] = []

    class Slow:
        def sign(self, manifest: bytes) -> bytes:
            handle = os.open(root.parent, os.O_RDONLY)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                turns.append("writers wait")
            finally:
                os.close(handle)
            return private.sign(manifest)

    sign_bundle(root, open_bundle(root).manifest_sha256, cast(ed25519.Ed25519PrivateKey, Slow()))
    assert turns == ["writers wait"]
    open_bundle(root, trusted_key=keys[1])


def test_half_a_pair_does_not_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("lpcnet_edge.bundle.sign.write_atomically", full)
        assert main(["keygen", "--out", str(tmp_path / "k")]) == 3
    assert list(tmp_path.iterdir()) == []
    assert main(["keygen", "--out", str(tmp_path / "k")]) == 0


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl command")
def test_openssl_agrees(root: Path, keys: tuple[Path, Path]) -> None:
    main(["sign", str(root), "--key", str(keys[0])])
    argv = ["openssl", "pkeyutl", "-verify", "-pubin", "-inkey", keys[1], "-rawin", "-in", root / "bundle.yaml"]
    done = subprocess.run([*argv, "-sigfile", root / "signature"], capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stdout + done.stderr


def test_keys_are_private_and_never_replaced(keys: tuple[Path, Path], tmp_path: Path) -> None:
    assert keys[0].stat().st_mode & 0o777 == 0o600
    held = keys[0].read_bytes()
    with pytest.raises(UsageError, match="never replaced"):
        make_keys(tmp_path / "keys" / "line4")
    assert keys[0].read_bytes() == held
    assert main(["keygen", "--out", str(tmp_path / "keys" / "line4")]) == 2


def test_a_private_key_that_others_can_read(keys: tuple[Path, Path]) -> None:
    keys[0].chmod(0o640)
    with pytest.raises(BadKey, match=r"mode 0640.*chmod 600"):
        load_private_key(keys[0])
    moved = keys[0].rename(keys[0].with_name("line 4.key"))
    with pytest.raises(BadKey, match=r"chmod 600 '.*line 4\.key'"):
        load_private_key(moved)


def test_keys_that_are_none(root: Path, keys: tuple[Path, Path], tmp_path: Path) -> None:
    pkcs8, pem = PrivateFormat.PKCS8, Encoding.PEM
    other = ec.generate_private_key(ec.SECP256R1())
    locked = ed25519.Ed25519PrivateKey.generate().private_bytes(pem, pkcs8, BestAvailableEncryption(b"secret"))
    damaged = keys[0].read_bytes().replace(b"M", b"N")
    private = {
        "another kind": other.private_bytes(pem, pkcs8, NoEncryption()),
        "encrypted": locked,
        "damaged": damaged,
        "no key in PEM": b"\x00" * 32,
        "a public key": keys[1].read_bytes(),
    }
    public = {
        "another kind": other.public_key().public_bytes(pem, PublicFormat.SubjectPublicKeyInfo),
        "damaged": keys[1].read_bytes().replace(b"M", b"N"),
        "no key in PEM": b"-" * 100_000,
        "a private key": keys[0].read_bytes(),
    }
    path = tmp_path / "key"
    for load, cases in ((load_private_key, private), (load_public_key, public)):
        for message, data in cases.items():
            path.write_bytes(data)
            path.chmod(0o600)
            with pytest.raises(BadKey, match=re.escape(message)):
                load(path)
            option = "sign" if cases is private else "verify"
            assert main([option, str(root), "--key", str(path)]) == 3
        with pytest.raises(BadKey, match="No such file"):
            load(tmp_path / "absent")
