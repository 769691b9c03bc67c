"""The picture that README opens with: a fundus photograph and a synthetic volume, segmented from boxes.

pip install scikit-image        # brings the photograph: Mikael Häggström, CC0
python examples/opening_picture.py
"""

from pathlib import Path

import numpy as np
from skimage.data import retina

from runtime import Box, ImagePredictor, Result, VolumePredictor, load
from runtime.measure.phantom import make_phantom
from runtime.preview.preview import draw_gallery, write_preview

SLICES = (8, 12, 16, 20, 24, 28, 32)
PROMPTED = 20

out = Path("out")
out.mkdir(exist_ok=True)
model = load()

photograph = np.ascontiguousarray(retina()[330:1030, :700])
optic_disc = Box(y=(210, 430), x=(118, 322))
image = ImagePredictor(model, zoom=model.defaults.zoom, smooth=model.defaults.smooth)
image.set_image(photograph)
disc = image.predict(optic_disc)

phantom = make_phantom((40, 256, 256), seed=3)
volume = VolumePredictor(model)
volume.set_volume(phantom.pixels)
for object_id in (1, 2, 3):
    volume.add(phantom.box(PROMPTED, object_id), object_id=object_id)
followed = volume.propagate()

images = [photograph, *(phantom.pixels[z] for z in SLICES)]
masks = {o: {i: followed.slices[o][z] for i, z in enumerate(SLICES, 1)} for o in (1, 2, 3)}
masks[1][0] = disc
prompts = {o: [phantom.box(PROMPTED, o)] for o in (1, 2, 3)}
prompts = {o: [Box(slice=1 + SLICES.index(PROMPTED), y=b.y, x=b.x)] for o, (b,) in prompts.items()}
prompts[1].append(optic_disc)
names = ["optic disc", *(f"synthetic, z = {z}" for z in SLICES)]
result = Result(tuple(i.shape[:2] for i in images), masks)
picture = draw_gallery(images, result, prompts, names, "one box each, embedded model")
write_preview(out / "opening.png", picture)
print(out / "opening.png")
