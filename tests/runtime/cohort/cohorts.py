"""A small cohort as its command leaves it, without having run one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK as sitk

from runtime import Volume, read_volume, write_mask
from runtime.cohort.ledger import Ledger
from runtime.cohort.outcome import StudyOutcome
from runtime.cohort.study import StudyPrompts, stamped
from tests.runtime.cohort.fakes import OBJECT, SETTINGS, told

SHAPE = (3, 6, 5)
DRAWN = np.zeros(SHAPE, np.uint8)
DRAWN[1, 1:3, 1:3] = 1
DRAWN[1, 4:6, 3:5] = 2
CORRECTION = np.zeros(SHAPE, np.uint8)
CORRECTION[0, 0, 0] = 1


def make_cohort(tmp_path: Path) -> Path:
    """A cohort of two studies with two objects each, as its command leaves it."""
    studies, out = tmp_path / "studies", tmp_path / "out"
    studies.mkdir()
    (out / "masks").mkdir(parents=True)
    rng = np.random.default_rng(0)
    ledger = Ledger(out)
    for name, suffix, doubt in (("a", ".nii.gz", 0.2), ("b", ".nrrd", 0.6)):
        pixels = rng.integers(-900, 900, SHAPE).astype(np.int16)
        volume = Volume(pixels, (2.0, 0.5, 0.75), (1.0, 2.0, 3.0))
        path = studies / f"{name}{suffix}"
        sitk.WriteImage(volume.to_image(), str(path))
        study = stamped(name, path, StudyPrompts("rows", "[]"))
        ledger.meet([study], SETTINGS.key, retries=False)
        write_mask(out / "masks" / f"{name}.nii.gz", DRAWN, read_volume(path))
        found = ledger.next(())
        assert found is not None
        task = found[0]
        objects = [OBJECT | {"doubt": doubt}, OBJECT | {"id": 2, "doubt": doubt / 2}]
        outcome = StudyOutcome(task.number, key=f"key {name}", told=told() | {"objects": objects})
        ledger.settle(outcome, f"masks/{name}.nii.gz")
    ledger.note("window", "abdomen")
    ledger.close()
    return out
