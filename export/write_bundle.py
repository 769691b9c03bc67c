"""A model to a bundle folder, written beside its destination, read back, and moved there when it is whole."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import onnx

from export.dice_check import MAX_DICE_DROP, check_dice
from export.model.network import Network
from export.model.sam2 import Sam2
from export.quantise import quantised, record
from export.split_weights import detached, is_too_large
from export.to_onnx import OPSET, to_onnx
from runtime.bundle.bundle import open_bundle
from runtime.bundle.contract import FORMAT_VERSION, GRAPHS
from runtime.bundle.manifest import (
    LARGEST_INT8,
    MANIFEST,
    MAX_GRAPH_BYTES,
    graph_file,
    weights_file,
)
from runtime.errors import InputError
from runtime.files.atomic_folder import write_whole_folder
from runtime.model import load

# Where the products of weights are. The decoder stays in fp32: what it finds decides what is kept and what is absent.
INT8_GRAPHS = ("image_encoder", "memory_attention", "memory_encoder")

Progress = Callable[[Sequence[str]], Iterable[str]]


def write_bundle(
    model: Network,
    path: str | Path,
    weights: dict[str, Any],
    licence: str,
    *,
    precision: str = "fp32",
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
        precision: one of `runtime.bundle.manifest.PRECISIONS`; "int8" adds `INT8_GRAPHS`, as far as there are
            such, in eight bits.
        max_dice_drop: what those may lose on phantoms.
        overwrite: replace a bundle that is already there; anything else is never replaced.
        progress: wraps the names of the graphs as they are worked through, like `tqdm`.

    The folder appears when it is whole and has been read back; a bundle that is replaced stays until then.

    Raises InputError if the destination cannot be used, Mismatch if int8 loses too much, Sam2Error if it
    cannot be written.
    """
    target = Path(path)
    check_target(target, overwrite)
    _check_model(model, precision)

    def fill(folder: Path) -> None:
        files = {}
        for graph in progress(model.numbers.graphs):
            made = to_onnx(model, graph)
            if is_too_large(made):
                files[weights_file(graph)] = _write_weights(folder, weights_file(graph), made)
            files[graph_file(graph)] = _write_graph(
                folder, graph_file(graph), made.SerializeToString()
            )
            if weights_file(graph) in files:
                onnx.checker.check_model(folder / graph_file(graph))
        _write_manifest(folder, _manifest(model, weights, licence, files))
        if precision == "int8":
            add_int8(folder, max_dice_drop)

    return write_whole_folder(target, fill, _read_back, is_replaced=overwrite)


def _check_model(model: Network, precision: str) -> None:
    """Raise InputError for what cannot be exported, before hours are spent on it."""
    size_bytes = sum(4 * parameter.numel() for parameter in model.image_encoder.parameters())
    if precision == "int8" and size_bytes > MAX_GRAPH_BYTES:
        raise InputError(
            f"the image encoder of {model.numbers.name} has {size_bytes / 2**30:.1f} GiB of weights, and graphs in "
            "int8 are made of ones of less than 2 GiB; leave --precision out, or take a smaller model of the family"
        )


def _read_back(folder: Path) -> None:
    """Raise BundleError unless the disk holds what was written."""
    bundle = open_bundle(folder)
    for graph in bundle.model.graphs:
        bundle.read_graph(graph)
    for graph in bundle.int8_graphs:
        bundle.read_graph(graph, "int8")
    for graph in bundle.split_graphs:
        bundle.read_weights(graph)


def add_int8(folder: Path, max_dice_drop: float) -> None:
    """Add graphs in eight bits to a bundle, once they have been seen to segment as well."""
    plain = open_bundle(folder)
    graphs = [graph for graph in INT8_GRAPHS if graph in plain.model.graphs]
    recordings = record(load(plain, "ort"), graphs)
    manifest = json.loads((folder / MANIFEST).read_text("utf-8"))
    about: dict[str, Any] = {"largest_weight": LARGEST_INT8, "graphs": {}}
    for graph in graphs:
        small = quantised(onnx.load_from_string(plain.read_graph(graph)), recordings.pop(graph))
        name = graph_file(graph, "int8")
        manifest["files"][name] = _write_graph(folder, name, small.model.SerializeToString())
        about["graphs"][graph] = {
            "products": small.products,
            "in_fp32": len(small.kept),
            "error": round(small.error, 5),
        }
    manifest["int8"] = about
    _write_manifest(folder, manifest)
    about |= check_dice(open_bundle(folder), max_dice_drop)
    _write_manifest(folder, manifest)


def _write_graph(folder: Path, name: str, data: bytes) -> dict[str, Any]:
    """Write a graph's file; returns its entry in the manifest."""
    (folder / name).write_bytes(data)
    return {"size_bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def _write_weights(folder: Path, name: str, model: onnx.ModelProto) -> dict[str, Any]:
    """Write a graph's large weights to a file beside it, and take them out of it; returns its entry in the manifest."""
    digest, size_bytes = hashlib.sha256(), 0
    with (folder / name).open("wb") as stream:
        for piece in detached(model, name):
            stream.write(piece)
            digest.update(piece)
            size_bytes += len(piece)
    return {"size_bytes": size_bytes, "sha256": digest.hexdigest()}


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
