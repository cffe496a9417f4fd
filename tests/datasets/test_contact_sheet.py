from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lpcnet_edge.datasets.carbon_fabric import CarbonFabric
from lpcnet_edge.datasets.contact_sheet import contact_sheet, main, write_sheet
from lpcnet_edge.errors import UsageError
from lpcnet_edge.imaging import read_image


def test_a_sheet_has_a_row_for_every_class_that_occurs() -> None:
    fabric = CarbonFabric(20, seed=1, size=128)
    whole = contact_sheet(fabric, per_class=1, view_px=128)
    good = contact_sheet(fabric.select([i for i, e in enumerate(fabric.entries) if e.label == 0]), per_class=1)
    assert whole.dtype == np.uint8
    assert whole.shape[0] == 6 * good.shape[0]


def test_a_sheet_is_thinned_until_it_fits(tmp_path: Path) -> None:
    sheet = contact_sheet(CarbonFabric(20, seed=1, size=128), per_class=1, view_px=64)
    untouched = write_sheet(tmp_path / "large.png", sheet, max_kb=5000)
    thinned = write_sheet(tmp_path / "small.png", sheet, max_kb=60)
    assert untouched == 1 < thinned
    assert (tmp_path / "small.png").stat().st_size <= 60_000
    with pytest.raises(UsageError, match="does not fit into 1 kB"):
        write_sheet(tmp_path / "none.png", sheet, max_kb=1)


def test_the_command_writes_a_sheet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "sheet.png"
    assert main(["carbon-fabric:count=20,seed=3", str(out), "--per-class", "1"]) == 0
    assert "kB" in capsys.readouterr().out
    assert read_image(out, 3).shape[2] == 3


def test_the_help_warns_of_real_data(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "not commit sheets of real data" in " ".join(capsys.readouterr().out.split())


def test_an_error_is_one_line_with_its_exit_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "nothing"), str(tmp_path / "sheet.png")]) == 3
    assert "does not exist" in capsys.readouterr().err
    assert main(["carbon-fabric:count=1", str(tmp_path / "sheet.png"), "--per-class", "0"]) == 2
    assert "0 samples of each class" in capsys.readouterr().err
