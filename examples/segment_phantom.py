"""Make a synthetic volume, box three objects on one slice, follow them through it, and draw what came out."""

from pathlib import Path

from runtime import Volume, VolumePredictor, load, write_mask
from runtime.measure.phantom import make_phantom
from runtime.preview.preview import draw_preview, write_preview

out = Path("out")
out.mkdir(exist_ok=True)

phantom = make_phantom((40, 256, 256), seed=3)
volume = Volume.from_array(phantom.pixels, spacing_mm=(2.5, 0.8, 0.8))
prompts = {object_id: [phantom.box(20, object_id)] for object_id in (1, 2, 3)}

predictor = VolumePredictor(load())
predictor.set_volume(volume)
for object_id, given in prompts.items():
    predictor.add(*given, object_id=object_id)
result = predictor.propagate()

for object_id in result.object_ids:
    found, true = result.mask(object_id), phantom.labels == object_id
    dice = 2 * (found & true).sum() / (found.sum() + true.sum())
    print(f"object {object_id}: Dice {dice:.3f}")

write_mask(out / "phantom_mask.nii.gz", result, like=volume)
picture = draw_preview(
    phantom.pixels, result, prompts, volume.spacing_mm[1:], title="synthetic phantom"
)
write_preview(out / "phantom.png", picture)
print(f"written: {out / 'phantom_mask.nii.gz'}, {out / 'phantom.png'}")
