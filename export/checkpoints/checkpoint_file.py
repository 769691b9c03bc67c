"""What a checkpoint's file holds, read without running anything in it: PyTorch's zip files and safetensors.

It knows nothing of networks. PyTorch writes a checksum of each part and does not look at it when it reads; here every
part is checked before any is loaded. safetensors has no checksums: there only sizes and layout can be checked.
"""

from __future__ import annotations

import pickle
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from zipfile import ZIP_STORED, BadZipFile, ZipFile

import torch
from safetensors import SafetensorError, safe_open
from torch.serialization import safe_globals

from runtime.errors import CheckpointError, OutOfMemory, Sam2Error
from runtime.process.shortage import is_out_of_memory

AGAIN = "download it again"
FORBIDDEN_GLOBAL = re.compile(r"GLOBAL (\S+)")  # how torch.load names what a file would run
SHARD = re.compile(r"-(\d{5})-of-(\d{5})\.")  # how shards are named on Hugging Face's hub
HEAD_BYTES = 512

# What downloads turn out to be, by their first bytes after white space.
STRANGERS = (
    (
        b"version https://git-lfs",
        "a Git LFS pointer, not the file itself: run git lfs pull, or " + AGAIN,
    ),
    (
        b"{",
        "JSON, such as settings, an index of shards or a server's answer; wanted one file with all tensors",
    ),
    (b"<", "a web page, not a checkpoint: use the link that downloads the file"),
    (b"\x93NUMPY", "a NumPy array, not a checkpoint"),
    (b"\x89HDF", "an HDF5 file, not a PyTorch checkpoint"),
    (b"\x1f\x8b", "compressed with gzip: unpack it first"),
    (
        b"\x80",
        "a bare pickle, as PyTorch wrote checkpoints before 1.6, without checksums. Where you trust it, write it anew: "
        "torch.save(torch.load(OLD, weights_only=True), NEW)",
    ),
)


class NotNeeded:
    """Stands in for NumPy's numbers beside the weights, such as a best score; nothing of NumPy's is called."""

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, _: object) -> None:
        pass


NUMPY_NAMES = (
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("scalar", "_reconstruct")),
    "numpy.dtype",
    "numpy.ndarray",
)  # fmt: skip


def read_file(file: Path) -> object:
    """What a file holds: tensors in dictionaries, and numbers and strings beside them.

    Raises CheckpointError for what is damaged, cut short, holds more than tensors, or is something else; OutOfMemory.
    """
    with _typed_errors(file):
        with file.open("rb") as stream:
            head = stream.read(HEAD_BYTES)
        _refuse_shards(file)
        if _is_safetensors(file, head):
            return _load_safetensors(file)
        if head.startswith(b"PK"):
            return _load(_checked_copy(file))
        _refuse_strangers(file, head)
    raise CheckpointError(
        f"{file} is not a whole PyTorch checkpoint (.pt) or safetensors file: it was cut short or is something else; "
        + AGAIN
    )


@contextmanager
def _typed_errors(file: Path) -> Iterator[None]:
    """Whatever the libraries raise as an error of ours; they raise almost anything on bytes that are not theirs."""
    try:
        yield
    except Sam2Error:
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise OutOfMemory(f"{file} does not fit into memory") from error
        if isinstance(error, OSError):
            raise CheckpointError(f"{file} cannot be read: {error.strerror or error}") from error
        forbidden = FORBIDDEN_GLOBAL.search(str(error))
        if isinstance(error, pickle.UnpicklingError) and forbidden:
            raise CheckpointError(
                f"{file} holds more than tensors ({forbidden[1]}) and was not opened, because that could run code "
                "from it; ask its author for a file of tensors only"
            ) from error
        kind = "PyTorch checkpoint" if isinstance(error, BadZipFile) else "checkpoint"
        why = (
            str(error) if isinstance(error, (BadZipFile, SafetensorError)) else type(error).__name__
        )
        raise CheckpointError(
            f"{file} is not a whole {kind} ({why}): it was cut short or damaged; {AGAIN}"
        ) from error


def _refuse_shards(file: Path) -> None:
    shard = SHARD.search(file.name)
    if shard is not None and int(shard[2]) > 1:
        raise CheckpointError(
            f"{file} is one of {int(shard[2])} shards of a checkpoint; wanted one file with all tensors"
        )


def _refuse_strangers(file: Path, head: bytes) -> None:
    if not head:
        raise CheckpointError(f"{file} is empty; {AGAIN}")
    for start, what in STRANGERS:
        if head.lstrip().startswith(start):
            raise CheckpointError(f"{file} is {what}")


def _checked_copy(file: Path) -> BytesIO:
    """A zip file of the same parts, each of which has had its checksum.

    PyTorch gets this rather than the file, whose list of parts has no checksum: with one bit of it changed PyTorch has
    been seen to take a part for a folder and to return memory that nobody had written.
    """
    copy = BytesIO()
    try:
        with ZipFile(file) as source, ZipFile(copy, "w", ZIP_STORED) as target:
            parts = source.infolist()
            _check_layout(file, [part.filename for part in parts])
            size = sum(part.file_size for part in parts)
            if (
                any(part.compress_type != ZIP_STORED for part in parts)
                or size > file.stat().st_size
            ):
                raise CheckpointError(
                    f"{file} has packed parts, which PyTorch never writes; {AGAIN}"
                )
            for part in parts:
                target.writestr(f"archive/{_inner(part.filename)}", source.read(part))
    except (CheckpointError, OSError, MemoryError):
        raise
    except Exception as error:  # zipfile raises almost anything on bytes that it did not write
        raise CheckpointError(
            f"{file} is not a whole PyTorch checkpoint ({error}): it was cut short or damaged; {AGAIN}"
        ) from error
    copy.seek(0)
    return copy


def _inner(name: str) -> str:
    """Name of a part inside the one folder, which is called after the file that was written first."""
    return name.partition("/")[2]


def _check_layout(file: Path, names: list[str]) -> None:
    folders = {name.partition("/")[0] for name in names}
    ends = {_inner(name) for name in names}
    if "constants.pkl" in ends:
        raise CheckpointError(f"{file} is a TorchScript program; wanted a checkpoint of tensors")
    if len(set(names)) < len(names) or len(folders) != 1 or "data.pkl" not in ends:
        raise CheckpointError(
            f"{file} is a zip file of {', '.join(map(repr, names[:3])) or 'nothing'}, not a PyTorch checkpoint"
        )


def _load(checked: BytesIO) -> object:
    stand_ins = [(NotNeeded, name) for name in NUMPY_NAMES]
    with safe_globals(stand_ins), warnings.catch_warnings():
        # Of odd protocols and old storages, which the result tells better.
        warnings.simplefilter("ignore")
        return torch.load(checked, map_location="cpu", weights_only=True)


def _is_safetensors(file: Path, head: bytes) -> bool:
    """Whether a file begins with the length of a JSON object and that object."""
    return head[8:9] == b"{" and int.from_bytes(head[:8], "little") < file.stat().st_size


def _load_safetensors(file: Path) -> object:
    with safe_open(file, framework="pt") as archive:
        return {name: archive.get_tensor(name) for name in archive.keys()}  # noqa: SIM118
