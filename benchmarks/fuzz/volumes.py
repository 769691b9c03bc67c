"""Volume files: NIfTI, NRRD and MetaImage, whole or with detached data, and npz."""

from __future__ import annotations

import bz2
import gzip
import zlib
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.fuzz.mutate import damage, damage_text
from benchmarks.fuzz.oracles import Oracle, by_nibabel, by_numpy, by_pynrrd, by_the_letter
from benchmarks.fuzz.seen import Seen, lps_of_ras
from benchmarks.fuzz.target import Target
from runtime.io import Volume, read_volume

SPACING_MM = (2.5, 0.85, 0.7)
ORIGIN_MM = (-101.25, 33.75, 812.5)


def sample() -> Volume:
    """A small CT-like volume, obliquely placed."""
    array = np.random.default_rng(7).integers(-1000, 1000, (9, 10, 11)).astype(np.int16)
    array[2:7, 3:8, 3:9] = np.arange(6, dtype=np.int16)  # runs, which compression codes otherwise
    axes = np.linalg.qr(np.random.default_rng(2).normal(size=(3, 3)))[0]
    return Volume(array, SPACING_MM, ORIGIN_MM, tuple(axes.ravel().tolist()))


def judge(volume: Volume, folder: Path, truth: tuple[Seen, str, Oracle | None]) -> str | None:
    """Right is what the undamaged file held, or what an independent reader finds in the damaged one."""
    whole, name, oracle = truth
    ours = Seen.of(volume)
    if (changed := ours.difference(whole)) is None:
        return None
    if oracle is None:
        return f"its checksums are wrong, and it was read: {changed}"
    try:
        theirs = oracle(folder / name)
    except Exception as error:
        return (
            f"read, with {changed}; refused by {oracle.__name__}: {type(error).__name__}: {error}"
        )
    differs = ours.difference(theirs)
    return (
        None
        if differs is None
        else f"{differs} from {oracle.__name__}; from the undamaged: {changed}"
    )


def target(
    name: str,
    write: Callable[[Path, Volume], None],
    hurt: Callable[[bytes, Random], bytes],
    oracle: Oracle | None,
    packages: tuple[str, ...] = (),
    other: str | None = None,
) -> Target:
    """A volume in a file called `name`, perhaps with a second file `other` that is damaged as often."""

    def prepare(folder: Path) -> tuple[Seen, str, Oracle | None]:
        volume = sample()
        write(folder / name, volume)
        return Seen.of(read_volume(folder / name)), name, oracle

    def spoil(folder: Path, rng: Random) -> None:
        if other is not None and rng.random() < 0.3:
            path, how = folder / other, damage
        else:
            path, how = folder / name, hurt
        path.write_bytes(how(path.read_bytes(), rng))

    return Target(prepare, spoil, lambda folder: read_volume(folder / name), judge, packages)


def within_gzip(data: bytes, rng: Random) -> bytes:
    """Damage to what is compressed, with right checksums around it."""
    return gzip.compress(damage(gzip.decompress(data), rng), 1)


def header_of_nrrd(data: bytes, rng: Random) -> bytes:
    """Damage to an NRRD's text, mostly."""
    end = data.find(b"\n\n")
    return damage_text(data, rng, end) if rng.random() < 0.8 and end > 0 else damage(data, rng)


def header_of_meta(data: bytes, rng: Random) -> bytes:
    """Damage to a MetaImage's text, mostly."""
    end = data.find(b"\n", data.find(b"ElementDataFile")) + 1
    return damage_text(data, rng, end) if rng.random() < 0.8 and end > 0 else damage(data, rng)


def _nifti(path: Path, volume: Volume) -> None:
    import nibabel

    affine = lps_of_ras(Seen.of(volume).affine)
    image = nibabel.Nifti1Image(volume.array.transpose(), affine)
    image.set_qform(affine, 1)
    image.set_sform(affine, 1)
    nibabel.save(image, path)


def _scaled(path: Path, volume: Volume) -> None:
    """Big-endian NIfTI with a slope, an intercept and an extension."""
    import nibabel

    header = nibabel.Nifti1Header(endianness=">")
    header.set_data_dtype(np.int16)
    header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", b"a word"))
    image = nibabel.Nifti1Image(
        volume.array * 0.5 + 3.0, lps_of_ras(Seen.of(volume).affine), header
    )
    image.header.set_slope_inter(0.5, 3.0)
    nibabel.save(image, path)


NRRD = """NRRD0004
# a comment
type: {type}
dimension: 3
space: left-posterior-superior
sizes: {sizes}
space directions: {directions}
kinds: domain domain domain
endian: little
encoding: {encoding}
space origin: ({origin})
{more}
"""


def _nrrd_text(volume: Volume, encoding: str, more: str = "") -> str:
    columns = Seen.of(volume).affine[:3, :3].T.tolist()
    return NRRD.format(
        type="short",
        sizes=" ".join(map(str, volume.shape[::-1])),
        directions=" ".join(
            "(" + ",".join(f"{v:.17g}" for v in column) + ")" for column in columns
        ),
        encoding=encoding,
        origin=",".join(map(str, volume.origin_mm)),
        more=more,
    )


def _little(array: NDArray[Any]) -> bytes:
    return array.astype("<i2").tobytes()


ENCODE: dict[str, Callable[[bytes], bytes]] = {
    "raw": bytes,
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
}


def _nrrd(encoding: str) -> Callable[[Path, Volume], None]:
    def write(path: Path, volume: Volume) -> None:
        body = ENCODE[encoding](_little(volume.array))
        path.write_bytes(_nrrd_text(volume, encoding).encode() + body)

    return write


def _nhdr(path: Path, volume: Volume) -> None:
    path.write_bytes(_nrrd_text(volume, "raw", "data file: data.raw\n").encode())
    path.with_name("data.raw").write_bytes(_little(volume.array))


META = """ObjectType = Image
NDims = 3
BinaryData = True
BinaryDataByteOrderMSB = False
CompressedData = {compressed}
{more}TransformMatrix = {matrix}
Offset = {origin}
CenterOfRotation = 0 0 0
AnatomicalOrientation = RAI
ElementSpacing = {spacing}
DimSize = {sizes}
ElementType = MET_SHORT
ElementDataFile = {where}
"""


def _meta_text(volume: Volume, where: str, compressed: int | None = None) -> bytes:
    return META.format(
        compressed=compressed is not None,
        more="" if compressed is None else f"CompressedDataSize = {compressed}\n",
        matrix=" ".join(f"{v:.17g}" for v in np.reshape(volume.direction, (3, 3)).T.ravel()),
        origin=" ".join(map(str, volume.origin_mm)),
        spacing=" ".join(map(str, volume.spacing_mm[::-1])),
        sizes=" ".join(map(str, volume.shape[::-1])),
        where=where,
    ).encode()


def _mha(path: Path, volume: Volume) -> None:
    path.write_bytes(_meta_text(volume, "LOCAL") + _little(volume.array))


def _mha_packed(path: Path, volume: Volume) -> None:
    body = zlib.compress(_little(volume.array))
    path.write_bytes(_meta_text(volume, "LOCAL", len(body)) + body)


def _mhd(path: Path, volume: Volume) -> None:
    path.write_bytes(_meta_text(volume, "data.raw"))
    path.with_name("data.raw").write_bytes(_little(volume.array))


def _npz(path: Path, volume: Volume) -> None:
    pixels = (volume.array % 256).astype(np.uint8)
    np.savez_compressed(
        path,
        imgs=pixels,
        spacing=volume.spacing_mm[::-1],
        origin=volume.origin_mm,
        direction=volume.direction,
    )


NIBABEL, PYNRRD = ("nibabel",), ("nrrd",)
VOLUMES = {
    "nii": target("a.nii", _nifti, damage, by_nibabel, NIBABEL),
    "nii-scaled": target("a.nii", _scaled, damage, by_nibabel, NIBABEL),
    "nii.gz": target("a.nii.gz", _nifti, damage, None, NIBABEL),
    "nii.gz-within": target("a.nii.gz", _nifti, within_gzip, by_nibabel, NIBABEL),
    "nrrd": target("a.nrrd", _nrrd("raw"), header_of_nrrd, by_pynrrd, PYNRRD),
    "nrrd-gzip": target("a.nrrd", _nrrd("gzip"), header_of_nrrd, by_pynrrd, PYNRRD),
    "nhdr": target("a.nhdr", _nhdr, header_of_nrrd, by_pynrrd, PYNRRD, other="data.raw"),
    "mha": target("a.mha", _mha, header_of_meta, by_the_letter),
    "mha-packed": target("a.mha", _mha_packed, header_of_meta, by_the_letter),
    "mhd": target("a.mhd", _mhd, header_of_meta, by_the_letter, other="data.raw"),
    "npz": target("a.npz", _npz, damage, by_numpy),
}
