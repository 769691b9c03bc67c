"""MedSAM2's published volume scripts as presets.

Both clip to a window, stretch the clipped volume's own minimum and maximum over 0..255, drop the fraction, resize each
slice with Pillow's bicubic filter and normalise (`runtime.io.window`, `kernels.preprocess`: the scripts' own order),
then follow the object from the prompted slice in both directions independently: the defaults of `VolumePredictor`. What
is particular to each stands in the table.

Their defects that are not reproduced: the first one collects the lesions of a volume in one array that is never
cleared, so that each lesion's largest component is sought in the union with those before it; in the second a later
lesion overwrites an earlier one where they meet (here the larger logit wins); both lose hole filling without a compiled
extension.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from runtime.predictors.clean import clean
from runtime.predictors.result import Result, SliceMask
from runtime.predictors.slicewise import SlicewisePredictor
from runtime.predictors.volume import VolumePredictor
from runtime.prompts.prompts import Mask, Prompt


@dataclass(frozen=True, slots=True)
class Preset:
    """What a script does beyond the defaults.

    Attributes:
        reenters_mask: the prompted slice's mask, at the volume's resolution, is given again as a mask prompt.
        keeps_largest: of each object only the largest component (26 neighbours) stays.
        source: the script.
    """

    reenters_mask: bool
    keeps_largest: bool
    source: str


PRESETS = {
    "medsam2_lesion": Preset(False, True, "bowang-lab/MedSAM2 medsam2_infer_3D_CT.py"),
    "medsam2_recist": Preset(
        True, False, "bowang-lab/MedSAM2 medsam2_infer_CT_lesion_npz_recist.py"
    ),
}


def add_prompts(
    predictor: VolumePredictor | SlicewisePredictor,
    prompts: Sequence[Prompt],
    object_id: int,
    preset: Preset | None,
) -> SliceMask:
    """Prompt as the preset's script does; errors as for `VolumePredictor.add`."""
    slice_mask = predictor.add(*prompts, object_id=object_id)
    if preset and preset.reenters_mask and not isinstance(prompts[0], Mask):
        mask = Mask(slice=slice_mask.slice, mask=slice_mask.mask())
        return predictor.add(mask, object_id=object_id)
    return slice_mask


def finish(result: Result, preset: Preset | None) -> Result:
    """What the preset's script does with the masks of a run, object by object."""
    return clean(result, "largest" if preset and preset.keeps_largest else None)
