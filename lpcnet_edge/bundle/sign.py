"""Ed25519 signatures (RFC 8032) over the bytes of ``bundle.yaml``, which hold the digest of every other file.

``signature`` is the 64 raw bytes, and keys are PEM (PKCS 8, SubjectPublicKeyInfo), so OpenSSL can check one as well:
``openssl pkeyutl -verify -pubin -inkey KEY.pub -rawin -in bundle.yaml -sigfile signature``.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from lpcnet_edge.bundle import tree
from lpcnet_edge.bundle.names import MANIFEST, SIGNATURE
from lpcnet_edge.errors import BadKey, ChangedFile, SignatureError, UsageError
from lpcnet_edge.files import write_atomically
from lpcnet_edge.yamlfile import MAX_BYTES

_MAX_KEY_BYTES = 1 << 14
_KEYGEN = "make a pair with `lpcnet-edge keygen --out PREFIX`"


def make_keys(prefix: Path) -> tuple[Path, Path]:
    """Make a key pair: ``PREFIX.key`` (private, mode 0600) and ``PREFIX.pub``; returns both paths.

    Raises :class:`~lpcnet_edge.errors.UsageError` rather than replace a file that exists.
    """
    if not prefix.name:
        raise UsageError(f"'{prefix}' names no file", mend="give a prefix: --out keys/line4")
    private, public = (prefix.with_name(prefix.name + suffix) for suffix in (".key", ".pub"))
    for path in (private, public):
        if path.exists() or path.is_symlink():
            raise UsageError(f"{path} exists, and a key is never replaced", mend="give another prefix")
    key = Ed25519PrivateKey.generate()
    prefix.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(private, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
            stream.flush()
            os.fsync(stream.fileno())
        write_atomically(public, _public_pem(key.public_key()))
    except BaseException:  # half a pair is of no use, and would stand in the way of the next call
        private.unlink(missing_ok=True)
        raise
    return private, public


def load_private_key(path: Path) -> Ed25519PrivateKey:
    """Read a private key; raises :class:`~lpcnet_edge.errors.BadKey` also where others than its owner can read it."""
    raw, mode = _read_key(path)
    if b"PUBLIC KEY" in raw:
        raise BadKey(f"{path} is a public key; signing takes the private one", mend="give the .key file")
    if stat.S_IMODE(mode) & 0o077:
        raise BadKey(
            f"{path} is a private key that others can read (mode {stat.S_IMODE(mode):04o})",
            mend=f"chmod 600 {shlex.quote(str(path))}",
        )
    key = _parse(path, lambda: load_pem_private_key(raw, password=None))
    if not isinstance(key, Ed25519PrivateKey):
        raise BadKey(f"{path} is a private key of another kind than Ed25519", mend=_KEYGEN)
    return key


def load_public_key(path: Path) -> Ed25519PublicKey:
    """Read a public key; raises :class:`~lpcnet_edge.errors.BadKey`."""
    raw, _ = _read_key(path)
    if b"PRIVATE KEY" in raw:
        raise BadKey(f"{path} is a private key; checking takes the public one", mend="give the .pub file")
    key = _parse(path, lambda: load_pem_public_key(raw))
    if not isinstance(key, Ed25519PublicKey):
        raise BadKey(f"{path} is a public key of another kind than Ed25519", mend=_KEYGEN)
    return key


def fingerprint(key: Ed25519PublicKey) -> str:
    """The first 16 hex digits of the SHA-256 of the key's 32 raw bytes, to tell keys apart."""
    return hashlib.sha256(key.public_bytes(Encoding.Raw, PublicFormat.Raw)).hexdigest()[:16]


def check_signature(manifest: bytes, signature: bytes | None, key: Ed25519PublicKey, where: str) -> None:
    """Raise :class:`~lpcnet_edge.errors.SignatureError` unless ``signature`` is the key's over the manifest's bytes."""
    if signature is None:
        raise SignatureError(
            f"{where} is not signed, and a signature by the key {fingerprint(key)} is demanded",
            mend=f"lpcnet-edge sign {shlex.quote(where)} --key PRIVATE, by whoever built it",
        )
    try:
        key.verify(signature, manifest)
    except InvalidSignature as exc:
        raise SignatureError(
            f"{where}: the signature over its manifest is not by the trusted key {fingerprint(key)}, or the manifest "
            "was changed since",
            mend="get the bundle again from whoever built it, or check that the key is theirs",
        ) from exc


def sign_bundle(folder: Path, manifest_sha256: str, key: Ed25519PrivateKey) -> None:
    """Sign the bundle that was opened with this manifest, and put ``signature`` into it, in one step.

    Raises :class:`~lpcnet_edge.errors.ChangedFile` where ``bundle.yaml`` is another one by now. A killed call leaves
    nothing inside the folder.
    """
    folder = folder.resolve()
    with tree.locked(folder.parent):  # as writing does: no other bundle may come in between
        _sign(folder, manifest_sha256, key)


def _sign(folder: Path, manifest_sha256: str, key: Ed25519PrivateKey) -> None:
    with tree.open_inside(folder, MANIFEST) as stream:
        manifest = stream.read(MAX_BYTES + 1)
    if hashlib.sha256(manifest).hexdigest() != manifest_sha256:
        raise ChangedFile(f"{folder}/{MANIFEST} was changed just now; nothing was signed", mend="sign it again")
    handle, temporary = tempfile.mkstemp(prefix=f".{folder.name}.", suffix=".signature", dir=folder.parent)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(key.sign(manifest))
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, folder / SIGNATURE)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _public_pem(key: Ed25519PublicKey) -> bytes:
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def _read_key(path: Path) -> tuple[bytes, int]:
    try:
        with path.open("rb") as stream:
            raw = stream.read(_MAX_KEY_BYTES + 1)
            mode = os.fstat(stream.fileno()).st_mode
    except OSError as exc:
        raise BadKey(f"{path}: {exc.strerror or exc}", mend=f"check the path, or {_KEYGEN}") from exc
    if len(raw) > _MAX_KEY_BYTES or not raw.lstrip().startswith(b"-----BEGIN"):
        raise BadKey(f"{path} is no key in PEM form", mend=_KEYGEN)
    return raw, mode


def _parse(path: Path, load: Callable[[], object]) -> object:
    try:
        return load()
    except TypeError as exc:  # a password is asked for
        raise BadKey(f"{path} is encrypted", mend="give a key without a password, kept where only you read") from exc
    except (ValueError, UnsupportedAlgorithm) as exc:
        raise BadKey(f"{path} is damaged, or no key: {' '.join(str(exc).split())}", mend=_KEYGEN) from exc
