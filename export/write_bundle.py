"""A model to a bundle folder, written beside its destination, read back, and moved there when it is whole."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import onnx

from export.model.network import Network
from export.model.sam2 import Sam2
from export.quantise import MAX_DICE_DROP, check_dice, quantised
from export.to_onnx import OPSET, to_onnx
from runtime.bundle.bundle import open_bundle
from runtime.bundle.contract import FORMAT_VERSION, GRAPHS
from runtime.bundle.manifest import LARGEST_INT8, MANIFEST, MAX_GRAPH_BYTES, graph_file
from runtime.errors import InputError
from runtime.files.atomic_folder import write_whole_folder

Progress = Callable[[Sequence[str]], Iterable[str]]


def write_bundle(
    model: Network,
    path: str | Path,
    weights: dict[str, Any],
    licence: str,
    *,
    encoder: str = "fp32",
    max_dice_drop: float = MAX_DICE_DROP,
    overwrite: bool = False,
    progress: Progress = iter,
) -> Path:
    """Export all graphs and the manifest to a folder.

    Args:
        model: weights loaded.
        path: the folder to make; its parent must exist.
        weights: `kind` (see `runtime.bundle.manifest.CAUTIONS`), `source` and what else identifies them.
        licence: of the weights, as whoever exports them says, or `runtime.bundle.manifest.UNKNOWN`.
        encoder: one of `runtime.bundle.manifest.PRECISIONS`: precision of the image encoder's weights.
        max_dice_drop: what an encoder in int8 may lose on phantoms.
        overwrite: replace a bundle that is already there; anything else is never replaced.
        progress: wraps the names of the graphs as they are worked through, like `tqdm`.

    The folder appears when it is whole and has been read back; a bundle that is replaced stays until then.

    Raises InputError if the destination cannot be used, Mismatch if int8 loses too much, Sam2Error if it
    cannot be written.
    """
    target = Path(path)
    check_target(target, overwrite)
    _check_model(model, encoder)

    def fill(folder: Path) -> None:
        files = {}
        for graph in progress(model.numbers.graphs):
            data = to_onnx(model, graph).SerializeToString()
            files[graph_file(graph)] = _write_graph(folder, graph, data)
        _write_manifest(folder, _manifest(model, weights, licence, files))
        if encoder == "int8":
            _make_int8(folder, max_dice_drop)

    return write_whole_folder(target, fill, _read_back, is_replaced=overwrite)


def _check_model(model: Network, encoder: str) -> None:
    """Raise InputError for what cannot be exported, before hours are spent on it."""
    name, numbers = model.numbers.name, model.image_encoder.parameters()
    if encoder == "int8" and model.numbers.kind == "image":
        raise InputError(
            f"an encoder in int8 is judged by following objects, and {name} has no memory; leave --encoder out"
        )
    size_bytes = sum(4 * parameter.numel() for parameter in numbers)
    if size_bytes > MAX_GRAPH_BYTES:
        raise InputError(
            f"the image encoder of {name} has {size_bytes / 2**30:.1f} GiB of weights; a graph is one file of less "
            "than 2 GiB. Take a smaller model of the family"
        )


def _read_back(folder: Path) -> None:
    """Raise BundleError unless the disk holds what was written."""
    bundle = open_bundle(folder)
    for graph in bundle.model.graphs:
        bundle.read_graph(graph)


def _make_int8(folder: Path, max_dice_drop: float) -> None:
    """Exchange a bundle's encoder for one in int8, once it has been seen to segment as well."""
    small = folder / "int8"
    shutil.copytree(folder, small, ignore=shutil.ignore_patterns(small.name))
    manifest = json.loads((folder / MANIFEST).read_text("utf-8"))
    encoder = quantised(onnx.load(folder / graph_file("image_encoder")))
    manifest["files"][graph_file("image_encoder")] = _write_graph(
        small, "image_encoder", encoder.SerializeToString()
    )
    manifest["precision"] = "int8"
    manifest["quantisation"] = {"largest_weight": LARGEST_INT8}
    _write_manifest(small, manifest)
    figures = check_dice(open_bundle(folder), open_bundle(small), max_dice_drop)
    manifest["quantisation"] |= figures
    _write_manifest(small, manifest)
    for file in small.iterdir():
        file.replace(folder / file.name)
    small.rmdir()


def _write_graph(folder: Path, graph: str, data: bytes) -> dict[str, Any]:
    """Write a graph; returns its entry in the manifest."""
    (folder / graph_file(graph)).write_bytes(data)
    return {"size_bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def _write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    text = json.dumps(manifest, indent=1, allow_nan=False)
    (folder / MANIFEST).write_text(text + "\n", "utf-8")


def check_target(target: Path, overwrite: bool) -> None:
    """Raise InputError unless a bundle may be written to `target`."""
    if not target.parent.is_dir():
        raise InputError(f"{target.parent} is not a folder; make it first")
    if not target.exists():
        return
    # Web pages have a manifest.json too.
    is_bundle = any((target / graph_file(graph)).is_file() for graph in GRAPHS)
    if not is_bundle or not (target / MANIFEST).is_file():
        raise InputError(f"{target} exists and is not a bundle; choose another place")
    if not overwrite:
        raise InputError(f"{target} is a bundle already; pass --overwrite or choose another place")


def _manifest(
    model: Network, weights: dict[str, Any], licence: str, files: dict[str, Any]
) -> dict[str, Any]:
    return {
        "format_version": FORMAT_VERSION,
        "model": asdict(model.numbers),
        "weights": weights,
        "licence": licence,
        "precision": "fp32",
        "exporter": {"torch": version("torch"), "onnx": version("onnx"), "opset": OPSET},
        "constants": _constants(model),
        "files": files,
    }


def _constants(model: Network) -> dict[str, Any]:
    """The few weights that a mask prompt needs on the host."""
    if not isinstance(model, Sam2):
        return {}
    return {
        "mask_downsample_weight": model.mask_downsample.weight[0, 0].tolist(),
        "mask_downsample_bias": model.mask_downsample.bias[0].item(),
        "no_obj_ptr": model.no_obj_ptr[0].tolist(),
    }
