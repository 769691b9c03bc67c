"""A command in odd surroundings: no home, other locales, paths of any bytes, Python's own switches, another folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from runtime.io import Volume, read_volume, write_mask
from runtime.measure.phantom import make_phantom

ROOT = Path(__file__).parents[3]
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
ODD = os.fsdecode(b"half a letter \xff, a whole \xc3\xbc\n and a line")
PROMPT = ("--box", "1,8,24,8,24", "--threads", "1")

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="names are text there")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study") / ODD
    folder.mkdir()
    volume = Volume.from_array(make_phantom((3, 32, 32)).pixels)
    write_mask(folder / f"{ODD}.nii.gz", np.asarray(volume.array, np.uint8), like=volume)
    return folder


def segment(
    *words: str, cwd: Path, switches: tuple[str, ...] = (), **variables: str
) -> subprocess.CompletedProcess[bytes]:
    # Nothing of this process's surroundings goes with it, HOME neither.
    command = [sys.executable, *switches, "-m", "runtime.segment", *words, *PROMPT]
    environment = {"PYTHONPATH": str(ROOT), **variables}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True)


@pytest.mark.parametrize(
    ("switches", "variables"),
    [
        ((), {"MEDSAM2_RUNTIME_CACHE": "relative\udcff"}),
        ((), {**ASCII, "HOME": "/dev/null", "TMPDIR": "/nowhere"}),
        (("-W", "error", "-bb", "-O"), {"HOME": "relative"}),
    ],
    ids=str,
)
def test_a_mask_is_found_whatever_the_surroundings(
    switches: tuple[str, ...], variables: dict[str, str], study: Path, tmp_path: Path
) -> None:
    (tmp_path / "runtime").mkdir()  # as somebody may call it
    mask, preview = study / f"mask {ODD}.nii.gz", study / f"{ODD}.png"
    words = ["-i", str(study / f"{ODD}.nii.gz"), "-o", str(mask), "--preview", str(preview)]
    done = segment(*words, cwd=tmp_path, switches=switches, **variables)
    assert done.returncode == 0, done.stderr
    assert read_volume(mask).array.any()
    mask.unlink(), preview.unlink()
    assert os.listdir(study) == [f"{ODD}.nii.gz"]
    report = json.loads(done.stdout.decode("ascii"))
    report["outputs"]["mask"].encode("utf-8")  # no half letters
    assert report["outputs"]["mask"].endswith("half a letter \\xff, a whole ü\n and a line.nii.gz")


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("n" * 300 + ".nii", "File name too long"),
        ("loop/ct.nii", "loop/ct.nii does not exist"),
        (os.fsdecode(b"\xff.nii"), "\\udcff.nii does not exist"),
        ("-.nii", "-.nii does not exist"),
    ],
)
def test_a_path_that_cannot_be_is_bad_input(path: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    done = segment(f"-i={path}", "-o", "mask.nii", cwd=tmp_path)
    (line,) = done.stderr.decode().splitlines()
    assert done.returncode == 3
    assert words in line


def test_a_folder_that_is_gone_is_bad_input(tmp_path: Path) -> None:
    code = (
        "import os, sys; os.mkdir('gone'); os.chdir('gone'); os.rmdir('../gone')\n"
        "from runtime.process.run import run_command; run_command('runtime.commands.segment', sys.argv[1:])"
    )
    command = [sys.executable, "-c", code, "-i", "ct.nii", "-o", "mask.nii", *PROMPT]
    done = subprocess.run(
        command, cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert done.returncode == 3
    assert "Traceback" not in done.stderr and done.stderr.startswith("error: ")
