"""The machine's cache: whose it is, what it is for, and that nothing stale comes out of it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lpcnet_edge.bundle.cache import build_cache, cache_root, get_artifact, machine_cache, put_artifact
from lpcnet_edge.errors import StaleCache, UnsafeCache, UsageError

KEY = ("tiny-0123456789ab", "openvino", "2026.4.0", "Intel(R) Xeon(R) CPU")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of this test's own."""
    monkeypatch.setenv("LPCNET_EDGE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache_root() == tmp_path / "cache"
    monkeypatch.delenv("LPCNET_EDGE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_root() == tmp_path / "xdg" / "lpcnet-edge"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_root() == tmp_path / ".cache" / "lpcnet-edge"
    monkeypatch.setenv("LPCNET_EDGE_CACHE", "relative")
    with pytest.raises(UsageError, match="no absolute path"):
        cache_root()


def test_put_and_get(home: Path) -> None:
    cache = machine_cache(*KEY)
    assert cache == home / KEY[0] / "openvino-2026.4.0-Intel_R_Xeon_R_CPU"
    assert {path.stat().st_mode & 0o777 for path in (home, cache.parent, cache)} == {0o700}
    assert get_artifact(cache, "localization.plan") is None
    path = put_artifact(cache, "localization.plan", b"first")
    assert path.suffix == ".plan"
    assert path.stat().st_mode & 0o777 == 0o600
    put_artifact(cache, "timing.cache", b"times")
    put_artifact(cache, "localization.plan", b"second")
    again = machine_cache(*KEY)
    assert get_artifact(again, "localization.plan") == b"second"
    assert get_artifact(again, "timing.cache") == b"times"
    assert not path.exists(), "the older artifact is gone"


@pytest.mark.parametrize("other", range(4))
def test_another_key_is_another_cache(other: int) -> None:
    put_artifact(machine_cache(*KEY), "x.plan", b"x")
    key = [text + "1" if index == other else text for index, text in enumerate(KEY)]
    assert get_artifact(machine_cache(*key), "x.plan") is None


def test_a_cache_of_something_else_is_not_reused(home: Path) -> None:
    """The devices differ, the names of their folders do not."""
    machine_cache(*KEY)
    with pytest.raises(StaleCache, match=r"is a cache of .*Intel\(R\) Xeon\(R\) CPU, not of .*Intel\{R\}"):
        machine_cache(*KEY[:3], "Intel{R} Xeon{R} CPU")
    moved = home / "tiny-ba9876543210"
    moved.mkdir(mode=0o700)
    machine_cache(*KEY).rename(moved / machine_cache(*KEY).name)
    with pytest.raises(StaleCache, match="is a cache of tiny-0123456789ab"):
        machine_cache("tiny-ba9876543210", *KEY[1:])


@pytest.mark.parametrize("data", [b"firsT", b"firs", b"first!", None])
def test_a_damaged_artifact_is_not_reused(data: bytes | None) -> None:
    cache = machine_cache(*KEY)
    path = put_artifact(cache, "x.plan", b"first")
    path.unlink()
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(StaleCache) as caught:
        get_artifact(cache, "x.plan")
    assert caught.value.mend == f"rm -r {cache}, and build again"
    put_artifact(cache, "x.plan", b"first")
    assert get_artifact(cache, "x.plan") == b"first"


def test_a_link_in_the_place_of_an_artifact(tmp_path: Path) -> None:
    cache = machine_cache(*KEY)
    path = put_artifact(cache, "x.plan", b"first")
    path.rename(tmp_path / "outside")
    path.symlink_to(tmp_path / "outside")
    with pytest.raises(StaleCache):
        get_artifact(cache, "x.plan")


@pytest.mark.parametrize(
    "text", ["", "x: [", "schema_version: 1\n", "schema_version: 2\nbundle_id: a\nruntime: b\nversion: c\ndevice: d\n"]
)
def test_a_damaged_manifest(text: str) -> None:
    cache = machine_cache(*KEY)
    (cache / "manifest.yaml").write_text(text)
    with pytest.raises(StaleCache):
        machine_cache(*KEY)
    with pytest.raises(StaleCache):
        get_artifact(cache, "x.plan")


def test_a_manifest_that_names_files_outside() -> None:
    cache = machine_cache(*KEY)
    put_artifact(cache, "x.plan", b"first")
    text = (cache / "manifest.yaml").read_text()
    (cache / "manifest.yaml").write_text(text.replace("x.plan", "../x.plan"))
    with pytest.raises(StaleCache):
        machine_cache(*KEY)


def test_files_without_a_manifest() -> None:
    cache = machine_cache(*KEY)
    put_artifact(cache, "x.plan", b"first")
    (cache / "manifest.yaml").unlink()
    with pytest.raises(StaleCache, match=r"no manifest\.yaml"):
        machine_cache(*KEY)


@pytest.mark.parametrize("level", range(3))
def test_a_folder_that_others_can_write_to(level: int) -> None:
    cache = machine_cache(*KEY)
    folder = (cache, *cache.parents)[level]
    folder.chmod(0o770)
    with pytest.raises(UnsafeCache, match=r"mode 0770.*chmod 700"):
        machine_cache(*KEY)


def test_what_builds_share_is_private_whatever_the_umask(home: Path) -> None:
    before = os.umask(0o002)
    try:
        folder = build_cache("exports")
    finally:
        os.umask(before)
    assert folder == home / "exports"
    assert {path.stat().st_mode & 0o777 for path in (home, folder)} == {0o700}
    machine_cache(*KEY)
    folder.chmod(0o770)
    with pytest.raises(UnsafeCache, match="mode 0770"):
        build_cache("exports")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_a_folder_of_someone_else(home: Path) -> None:
    machine_cache(*KEY)
    os.chown(home, 65534, 65534)
    with pytest.raises(UnsafeCache, match="belongs to user 65534, this is user 0"):
        machine_cache(*KEY)


def test_a_link_in_the_place_of_the_cache(home: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    home.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UnsafeCache, match="symbolic link"):
        machine_cache(*KEY)


def test_names_that_are_none() -> None:
    cache = machine_cache(*KEY)
    for name in ("../x", "a/b", "", "manifest.yaml", ".x"):
        with pytest.raises(ValueError, match="name"):
            put_artifact(cache, name, b"")


def test_two_processes_put_at_once() -> None:
    cache = machine_cache(*KEY)
    code = (
        "import sys; from pathlib import Path; from lpcnet_edge.bundle.cache import put_artifact\n"
        "for n in range(10): put_artifact(Path(sys.argv[1]), f'{sys.argv[2]}{n}.plan', sys.argv[2].encode())"
    )
    writers = [subprocess.Popen([sys.executable, "-c", code, str(cache), name]) for name in "ab"]
    assert [writer.wait(timeout=60) for writer in writers] == [0, 0]
    assert [get_artifact(cache, f"{name}{n}.plan") for name in "ab" for n in range(10)] == [b"a"] * 10 + [b"b"] * 10
