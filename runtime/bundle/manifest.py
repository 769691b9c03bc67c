"""The manifest of a bundle: what it must say, and nothing read from it that has not been checked.

A name that is unknown is refused where values are computed with (`model`, `constants`, `files`, `calibration`,
`defaults`), since a slip of the pen would be silent there. Elsewhere it is left alone: a later exporter may tell more,
and whatever changes the meaning of the rest raises `FORMAT_VERSION`.
"""

from __future__ import annotations

import reprlib
from pathlib import Path
from typing import Any

from runtime.bundle.confidence import MEASURES, Calibration
from runtime.bundle.contract import (
    FORMAT_VERSION,
    KINDS,
    MASK_SCALE,
    PROFILES,
    ModelNumbers,
)
from runtime.bundle.defaults import DEFAULTS_RULE
from runtime.errors import BundleError, BundleIncomplete
from runtime.files.plain_file import read_plain
from runtime.files.strict_json import (
    Boolean,
    Fault,
    Integer,
    Number,
    Numbers,
    Object,
    OneOf,
    Rule,
    Sha256,
    Text,
    parse,
)

MANIFEST = "manifest.json"
# Of a manifest; the largest known has 10 KB, a calibration by many masks adds 100.
MAX_BYTES = 4 * 2**20
PRECISIONS = ("fp32", "int8")
"""Of the graphs in a bundle. Those in fp32 are always there; beside them some may lie with weights in eight bits."""
# Of a weight in int8. Processors without VNNI add up two products of weights with bytes in 16 bits, which saturate:
# larger ones compute something else there.
LARGEST_INT8 = (2**15 - 1) // (2 * 255)
UNKNOWN = "unknown"  # licence of weights of which nobody has said one
HOW_TO_EXPORT = (
    "export real weights with: medsam2 export --checkpoint hf:wanglab/MedSAM2/MedSAM2_latest.pt "
    "-o medsam2"
)
CAUTIONS = {  # by kind of weights
    "checkpoint": None,
    "demonstration": "demonstration weights, trained on synthetic data, not for clinical use; "
    + HOW_TO_EXPORT,
    "random": "random weights: masks are meaningless, only speed and parity mean anything; "
    + HOW_TO_EXPORT,
}

MIN_IMAGE_SIZE = 64  # pixels
MAX_IMAGE_SIZE = 8192  # pixels; eight times what any member of the family was trained at
MIN_GRID, MAX_GRID = 2, 2048  # cells
MAX_CHANNELS = 4096
MAX_MEMORIES = 256
MAX_GRAPH_BYTES = 2**31 - 1  # of one protobuf message
MAX_WEIGHT_BYTES = 2**36  # beside a graph; the largest known are 2.4 GiB
MAX_SEED = 2**63 - 1
LARGEST_WEIGHT = 1e30  # well inside float32
MAX_KNOTS = 100_000

_WEIGHT = Number(-LARGEST_WEIGHT, LARGEST_WEIGHT)
_ROW = Numbers(_WEIGHT, MASK_SCALE, MASK_SCALE)
_SHARES = Numbers(Number(0, 1), 1, MAX_KNOTS)


def graph_file(graph: str, precision: str = "fp32") -> str:
    """File name of a graph inside a bundle; `precision` is one of `PRECISIONS`."""
    return f"{graph}.onnx" if precision == "fp32" else f"{graph}.{precision}.onnx"


def weights_file(graph: str) -> str:
    """Name of the file with a graph's large weights, where they do not fit into the graph's own."""
    return f"{graph}.weights"


class CalibrationRule:
    """One way or the other of saying what a measure is worth, see `runtime.bundle.confidence.Calibration`."""

    def check(self, value: Any, where: str) -> None:
        """Raise Fault for anything else."""
        temperature = {"temperature": Number(1e-3, 1e3)}
        knots = {"measured": _SHARES, "worth": _SHARES}
        is_knots = isinstance(value, dict) and "temperature" not in value
        Object(required=knots if is_knots else temperature).check(value, where)
        try:
            Calibration.parse(value)
        except ValueError as error:
            raise Fault(f"{where} is {error}") from error


_NETWORK: dict[str, Rule] = {
    "name": Text(),
    "kind": OneOf(tuple(KINDS)),
    "image_size": Integer(MIN_IMAGE_SIZE, MAX_IMAGE_SIZE),
    "prompt_size": Integer(MIN_IMAGE_SIZE, MAX_IMAGE_SIZE),
    "grid": Integer(MIN_GRID, MAX_GRID),
    # The finest features have an eighth of them.
    "d_model": Integer(8, MAX_CHANNELS, 8),
    "has_high_res": Boolean(),
}
_MEMORY: dict[str, Rule] = {
    "mem_dim": Integer(1, MAX_CHANNELS),
    "memory_tokens": Integer(1, MAX_GRID**2),
    "keys_per_memory": Integer(1, MAX_GRID**2),
    "num_maskmem": Integer(1, MAX_MEMORIES),
    "max_obj_ptrs": Integer(1, MAX_MEMORIES),
}
_MEMORY_CONSTANTS: dict[str, Rule] = {
    "mask_downsample_weight": Numbers(_ROW, MASK_SCALE, MASK_SCALE),
    "mask_downsample_bias": _WEIGHT,
    "no_obj_ptr": Numbers(_WEIGHT, 1, MAX_CHANNELS),
}
_NO_MEMORY: dict[str, Rule] = dict.fromkeys(_MEMORY, Integer(0, 0))


def _rules(kind: str) -> Rule:
    """What a bundle of one kind says."""
    is_volume = kind == "volume"
    file, weights = (
        Object(required={"size_bytes": Integer(1, most), "sha256": Sha256()})
        for most in (MAX_GRAPH_BYTES, MAX_WEIGHT_BYTES)
    )
    return Object(
        required={
            "model": Object(
                required={
                    **_NETWORK,
                    "profile": OneOf(PROFILES[kind]),
                    **(_MEMORY if is_volume else _NO_MEMORY),
                }
            ),
            "weights": Object(
                required={"kind": OneOf(tuple(CAUTIONS)), "source": Text()},
                optional={"sha256": Sha256(), "seed": Integer(0, MAX_SEED), "entry": Text()},
                others=True,
            ),
            "licence": Text(),
            "precision": OneOf(("fp32",)),
            "constants": Object(required=_MEMORY_CONSTANTS if is_volume else {}),
            "files": Object(
                required={graph_file(graph): file for graph in KINDS[kind]},
                optional={
                    **{graph_file(graph, "int8"): file for graph in KINDS[kind]},
                    **{weights_file(graph): weights for graph in KINDS[kind]},
                },
            ),
        },
        optional={
            "calibration": Object(optional=dict.fromkeys(MEASURES, CalibrationRule())),
            "defaults": DEFAULTS_RULE,
            "int8": Object(required={"largest_weight": Integer(1, LARGEST_INT8)}, others=True),
        },
        others=True,
    )


RULES = {kind: _rules(kind) for kind in KINDS}


def read_manifest(folder: Path, name: str = MANIFEST) -> dict[str, Any]:
    """The manifest of a bundle's folder, checked; `name` is another one's while it is being written.

    Raises:
        BundleError: not a bundle, or one of another format version.
        BundleIncomplete: the manifest is cut short, lacks entries or misstates them.
    """
    path = folder / name
    try:
        data = read_plain(path, MAX_BYTES)
    except (OSError, ValueError) as error:  # a ValueError for a NUL in the path
        why = error.strerror if isinstance(error, OSError) else error
        raise BundleError(
            f"{folder} is not a bundle ({MANIFEST}: {why}); make one with medsam2 export"
        ) from error
    if len(data) > MAX_BYTES:
        raise BundleError(
            f"{path} has more than {MAX_BYTES} bytes, which no manifest has; export the bundle again"
        )
    try:
        manifest = parse(data)
        if type(manifest) is not dict or "format_version" not in manifest:
            raise Fault("wanted an object with format_version")
    except Fault as fault:
        raise BundleIncomplete(f"{path} is not whole ({fault}); export the bundle again") from fault
    _check_version(folder, manifest["format_version"])
    try:
        RULES[_kind(manifest)].check(manifest, "")
        _check_sizes(manifest)
    except Fault as fault:
        raise BundleIncomplete(
            f"{path} lacks or misstates an entry: {fault}; export the bundle again"
        ) from fault
    return manifest


def _kind(manifest: dict[str, Any]) -> str:
    """The kind of bundle, or any where it does not say one, for its rules to find fault with that."""
    model = manifest.get("model")
    kind = model.get("kind") if type(model) is dict else None
    return kind if type(kind) is str and kind in KINDS else "volume"


def _check_version(folder: Path, version: Any) -> None:
    if type(version) is int and version == FORMAT_VERSION:
        return
    is_newer = type(version) is int and version > FORMAT_VERSION
    mend = (
        "upgrade medsam2-runtime, or export it again with this one"
        if is_newer
        else "export it again"
    )
    raise BundleError(
        f"{folder} has bundle format {reprlib.repr(version)}, this runtime reads {FORMAT_VERSION}; {mend}"
    )


def _check_sizes(manifest: dict[str, Any]) -> None:
    """Raise Fault where two entries do not go together."""
    model = ModelNumbers(**manifest["model"])
    is_small = any(graph_file(graph, "int8") in manifest["files"] for graph in model.graphs)
    if is_small != ("int8" in manifest):
        raise Fault("int8 and the graphs in int8 among files go together, and one is missing")
    if model.kind != "volume":
        return
    if model.d_model % model.mem_dim:
        raise Fault(
            f"model.mem_dim is {model.mem_dim}, wanted a divisor of d_model, which is {model.d_model}"
        )
    length = len(manifest["constants"]["no_obj_ptr"])
    if length != model.d_model:
        raise Fault(f"constants.no_obj_ptr has {length} numbers, wanted d_model, {model.d_model}")
