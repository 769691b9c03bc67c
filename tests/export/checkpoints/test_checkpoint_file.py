from __future__ import annotations

import io
import json
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save
from torch import Tensor

from benchmarks.fuzz.mutate import damage
from export.checkpoints.checkpoint_file import read_file
from runtime.errors import CheckpointError, OutOfMemory

CONTENT = {
    "model": {"a": torch.arange(12.0).reshape(3, 4), "b": torch.linspace(0, 1, 5)},
    "epoch": 3,
}


def saved(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


def as_bytes(content: Any, legacy: bool = False) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=not legacy)
    return buffer.getvalue()


SMALL = as_bytes(CONTENT)
SAFE = save(CONTENT["model"])


def read_bytes(data: bytes, path: Path) -> Any:
    path.write_bytes(data)
    return read_file(path)


def same(found: Any, wanted: Any) -> bool:
    if isinstance(wanted, Tensor):
        return isinstance(found, Tensor) and torch.equal(found, wanted)
    if isinstance(wanted, dict):
        is_like = isinstance(found, dict) and found.keys() == wanted.keys()
        return is_like and all(same(found[name], value) for name, value in wanted.items())
    return found == wanted


def rezipped(
    change: Callable[[str, bytes], bytes | None], compression: int = zipfile.ZIP_STORED
) -> bytes:
    """A checkpoint with parts changed, left out where None, and every checksum right."""
    target = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(SMALL)) as source,
        zipfile.ZipFile(target, "w", compression) as changed,
    ):
        for name in source.namelist():
            if (data := change(name, source.read(name))) is not None:
                changed.writestr(name, data)
    return target.getvalue()


def test_both_kinds_of_file_are_read(tmp_path: Path) -> None:
    assert same(read_bytes(SMALL, tmp_path / "a.pt"), CONTENT)
    assert same(read_bytes(rezipped(lambda _, data: data), tmp_path / "a.pt"), CONTENT)
    assert same(read_bytes(SAFE, tmp_path / "a.pt"), CONTENT["model"]), "known by content, not name"


def test_one_flipped_bit_anywhere_is_refused_or_changes_nothing(tmp_path: Path) -> None:
    refused, directory = 0, SMALL.index(b"PK\x01\x02")  # the list of parts, which has no checksum
    for at in (*range(0, directory, 7), *range(directory, len(SMALL))):
        data = bytearray(SMALL)
        data[at] ^= 1 << at % 8
        try:
            assert same(read_bytes(bytes(data), tmp_path / "a.pt"), CONTENT), at
        except CheckpointError:
            refused += 1
    assert refused > 200


def test_a_flipped_bit_of_a_weight_is_named_by_its_part(tmp_path: Path) -> None:
    data = bytearray(SMALL)
    data[SMALL.index(torch.arange(12.0).numpy().tobytes()) + 7] ^= 1
    with pytest.raises(CheckpointError, match=r"Bad CRC-32 for file '\w+/data/0'"):
        read_bytes(bytes(data), tmp_path / "a.pt")


def test_numbers_of_numpy_beside_the_weights_do_no_harm_and_are_not_made(tmp_path: Path) -> None:
    numbers = {
        "best": np.float64(0.9),
        "step": np.int64(3),
        "flag": np.bool_(True),
        "half": np.float32(1),
        "history": np.arange(6.0).reshape(2, 3),
    }
    content = read_file(saved(tmp_path / "a.pt", {**CONTENT, **numbers}))
    assert isinstance(content, dict)
    assert same(content["model"], CONTENT["model"])
    assert not any(isinstance(content[name], np.generic | np.ndarray) for name in numbers)


def test_numbers_of_older_numpy_are_known_too(tmp_path: Path) -> None:
    torch.save({**CONTENT, "best": np.float64(0.9)}, tmp_path / "new.pt")
    with (
        zipfile.ZipFile(tmp_path / "new.pt") as new,
        zipfile.ZipFile(tmp_path / "old.pt", "w") as old,
    ):
        for name in new.namelist():
            data = new.read(name)
            assert b"numpy._core" in data or not name.endswith("data.pkl")
            old.writestr(name, data.replace(b"numpy._core", b"numpy.core"))
    content = read_file(tmp_path / "old.pt")
    assert isinstance(content, dict) and same(content["model"], CONTENT["model"])


def test_a_file_that_would_run_code_is_refused_and_does_not_run(tmp_path: Path) -> None:
    marker = tmp_path / "it_ran"

    class Payload:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(marker),)

    path = saved(tmp_path / "a.pt", {"model": Payload()})
    with pytest.raises(CheckpointError, match=r"more than tensors \(.*mkdir\)"):
        read_file(path)
    assert not marker.exists()
    with pytest.raises(CheckpointError, match="bare pickle"):
        read_bytes(pickle.dumps(Payload()), tmp_path / "bare.pt")
    assert not marker.exists()
    torch.load(path, weights_only=False)  # the payload is live
    assert marker.exists()


class Settings:
    """What a training script may leave in a checkpoint."""


def test_objects_beside_the_weights_are_named(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.pt", {**CONTENT, "settings": Settings()})
    with pytest.raises(CheckpointError, match=r"more than tensors \(.*Settings\)"):
        read_file(path)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "is empty"),
        (b"hello, this is no checkpoint\n", "is not a whole PyTorch checkpoint"),
        (b"\n<!DOCTYPE html><html><title>404</title></html>", "is a web page"),
        (b"<html>", "is a web page"),
        (b'{"error": "Repository not found"}', "is JSON"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\n", "Git LFS.*git lfs pull"),
        (b"\x93NUMPY\x01\x00v\x00{'descr': '<f8'}", "a NumPy array"),
        (b"\x1f\x8b\x08\x00" + bytes(30), "compressed with gzip"),
        (b"PK\x05\x06" + bytes(18), "is a zip file of nothing"),
        (SMALL[:-100], "is not a whole PyTorch checkpoint"),
        (SMALL[:300], "is not a whole PyTorch checkpoint"),
        (as_bytes(CONTENT, legacy=True), "bare pickle.*before 1.6.*write it anew"),
        (as_bytes(CONTENT, legacy=True)[:-10], "bare pickle"),
        (SAFE[:-1], "is not a whole checkpoint"),
        (SAFE[:40], "is not a whole PyTorch checkpoint"),
        (SAFE + b"1", "is not a whole checkpoint"),
        (rezipped(lambda _, data: data, zipfile.ZIP_DEFLATED), "packed parts"),
        (rezipped(lambda name, data: None if name.endswith("pkl") else data), "zip file of 'archive/"),
        (rezipped(lambda name, data: None if name.endswith("/0") else data), "not a whole"),
        (rezipped(lambda name, data: data[:-4] if name.endswith("/0") else data), "not a whole"),
    ],
)  # fmt: skip
def test_a_file_that_is_cut_short_or_something_else_says_what(
    data: bytes, said: str, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match=said) as refused:
        read_bytes(data, tmp_path / "medsam2.pt")
    assert refused.value.exit_code == 3
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("raised", "wanted", "said"),
    [
        (MemoryError(), OutOfMemory, "does not fit into memory"),
        (
            RuntimeError(
                "DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"
            ),
            OutOfMemory,
            "does not fit into memory",
        ),
        (
            PermissionError(13, "Permission denied"),
            CheckpointError,
            "cannot be read: Permission denied",
        ),
        (RecursionError(), CheckpointError, r"not a whole checkpoint \(RecursionError\)"),
    ],
    ids=repr,
)
def test_what_the_system_refuses_is_told_from_damage(
    raised: Exception,
    wanted: type[Exception],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise raised

    path = saved(tmp_path / "a.pt", CONTENT)
    monkeypatch.setattr(torch, "load", fail)
    with pytest.raises(wanted, match=said):
        read_file(path)


def test_a_torchscript_program_is_named(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.pt", "w") as archive:
        for name in ("data.pkl", "constants.pkl", "code/a.py"):
            archive.writestr(f"a/{name}", b"")
    with pytest.raises(CheckpointError, match="TorchScript"):
        read_file(tmp_path / "a.pt")


def test_shards_are_named_and_a_single_one_is_not(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"one of 3 shards.*wanted one file"):
        read_bytes(SAFE, tmp_path / "model-00001-of-00003.safetensors")
    assert read_bytes(SAFE, tmp_path / "model-00001-of-00001.safetensors")
    index = json.dumps({"metadata": {}, "weight_map": {}}).encode()
    with pytest.raises(CheckpointError, match=r"index of shards.*wanted one file"):
        read_bytes(index, tmp_path / "model.safetensors.index.json")


@pytest.mark.parametrize("kind", ["pt", "pickle", "safetensors", "header"])
def test_any_damage_ends_in_one_kind_of_error(kind: str, tmp_path: Path) -> None:
    """Where a checksum can tell, it is left right: in `pickle` and `header` what is parsed is damaged itself."""
    read = 0
    for seed in range(120):
        draw = Random(seed)
        if kind == "pickle":
            data = rezipped(
                lambda name, part, draw=draw: (
                    damage(part, draw) if name.endswith("data.pkl") else part
                )
            )
        elif kind == "header":
            size = int.from_bytes(SAFE[:8], "little")
            header = damage(SAFE[8 : 8 + size], draw)
            data = struct.pack("<Q", len(header)) + header + SAFE[8 + size :]
        else:
            data = damage(SMALL if kind == "pt" else SAFE, draw)
        try:
            read_bytes(data, tmp_path / "a.pt")
            read += 1
        except (CheckpointError, OutOfMemory) as error:
            assert "\n" not in str(error), seed
    assert read < 100
