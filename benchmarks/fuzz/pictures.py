"""Sets of images, and videos."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.fuzz.mutate import damage
from benchmarks.fuzz.target import Target
from runtime.io.pictures.images import Images, read_images
from runtime.io.pictures.video import read_video

SIZE = (40, 50)


def sample() -> NDArray[np.uint8]:
    """A colour picture with smooth and noisy parts."""
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    picture = np.stack([rows * 6, columns * 5, (rows + columns) * 2], 2).astype(np.uint8)
    picture[10:20, 10:30] = np.random.default_rng(3).integers(0, 255, (10, 20, 3))
    return picture


def image_target(suffix: str, picture: NDArray[Any], has_checksums: bool) -> Target:
    """A folder with two images, one of which is damaged."""

    def prepare(folder: Path) -> Images:
        for name in "ab":
            Image.fromarray(picture).save(folder / f"{name}{suffix}")
        return read_images(folder)

    def spoil(folder: Path, rng: Random) -> None:
        path = folder / f"a{suffix}"
        path.write_bytes(damage(path.read_bytes(), rng))

    def judge(images: Images, folder: Path, truth: Images) -> str | None:
        if len(images.arrays) != 2:
            return f"{len(images.arrays)} images, not 2"
        if not np.array_equal(images.arrays[1], truth.arrays[1]):
            return "the undamaged image differs"
        if has_checksums and not np.array_equal(images.arrays[0], truth.arrays[0]):
            return "its checksums are wrong, and it was read otherwise"
        return None

    return Target(prepare, spoil, read_images, judge, share=2)


def video_target(suffix: str, codec: str) -> Target:
    """A short video."""

    def prepare(folder: Path) -> int:
        import av

        with av.open(str(folder / f"a{suffix}"), "w") as container:
            stream = container.add_stream(codec, rate=10)
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
            for shift in range(8):
                plane = np.roll(np.full((48, 64, 3), 90, np.uint8) + sample()[:1, :1], shift, 1)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(plane, format="rgb24")))
            container.mux(stream.encode())
        return 8

    def spoil(folder: Path, rng: Random) -> None:
        path = folder / f"a{suffix}"
        path.write_bytes(damage(path.read_bytes(), rng))

    def read(folder: Path) -> list[tuple[int, ...]]:
        return [frame.shape for frame in read_video(folder / f"a{suffix}")]

    def judge(shapes: list[tuple[int, ...]], folder: Path, truth: int) -> str | None:
        return "frames of several sizes" if len(set(shapes)) > 1 else None

    return Target(prepare, spoil, read, judge, ("av",), share=1)


PICTURES = {
    "png": image_target(".png", sample(), has_checksums=True),
    "png-16": image_target(".png", sample()[..., 0].astype(np.uint16) * 200, has_checksums=True),
    "jpeg": image_target(".jpg", sample(), has_checksums=False),
    "tiff": image_target(".tif", sample(), has_checksums=False),
    "bmp": image_target(".bmp", sample(), has_checksums=False),
    "mp4": video_target(".mp4", "mpeg4"),
}
