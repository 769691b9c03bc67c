"""A bundle: a folder with a manifest and four ONNX graphs. It knows files and hashes, not what graphs compute.

Graph bytes are read once, checked against the manifest and handed on, so what runs is what was checked.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtime.confidence import MEASURES, Calibration
from runtime.contract import FORMAT_VERSION, GRAPHS, ModelNumbers
from runtime.errors import BundleChanged, BundleError, BundleIncomplete

MANIFEST = "manifest.json"
PRECISIONS = ("fp32", "int8")  # of the image encoder's weights; all else is fp32
EMBEDDED = Path(__file__).parent / "nano"

HOW_TO_EXPORT = (
    "export real weights with: python -m export --checkpoint hf:wanglab/MedSAM2/MedSAM2_latest.pt "
    "-o medsam2"
)
CAUTIONS = {
    "checkpoint": None,
    "demonstration": "demonstration weights, trained on synthetic data, not for clinical use; "
    + HOW_TO_EXPORT,
    "random": "random weights: masks are meaningless, only speed and parity mean anything; "
    + HOW_TO_EXPORT,
}


def graph_file(graph: str) -> str:
    """File name of a graph inside a bundle."""
    return f"{graph}.onnx"


@dataclass(frozen=True, slots=True)
class Bundle:
    """An opened bundle.

    Attributes:
        path: its folder.
        model: numbers of the model inside.
        weights: where the weights come from: `kind` (a key of `CAUTIONS`), `source`, `sha256`.
        manifest: everything else the manifest says, as parsed JSON.
    """

    path: Path
    model: ModelNumbers
    weights: dict[str, Any]
    manifest: dict[str, Any]

    @property
    def calibrations(self) -> dict[str, Calibration]:
        """Measure of confidence to its calibration, as far as `export.calibrate` has been run."""
        entries = self.manifest.get("calibration", {}).items()
        return {measure: Calibration.parse(entry) for measure, entry in entries}

    @property
    def precision(self) -> str:
        """ "fp32", or "int8" where the image encoder's weights have eight bits."""
        return str(self.manifest["precision"])

    @property
    def fingerprint(self) -> str:
        """What the graphs are known by: SHA-256 over their own hashes, in the order of names."""
        hashes = [self.manifest["files"][graph_file(graph)]["sha256"] for graph in sorted(GRAPHS)]
        return hashlib.sha256("".join(hashes).encode()).hexdigest()

    @property
    def caution(self) -> str | None:
        """What a user must be told about these weights, or None."""
        return CAUTIONS[self.weights["kind"]]

    def read_graph(self, graph: str) -> bytes:
        """The checked bytes of one graph.

        Raises:
            BundleIncomplete: the file is missing or shorter than the manifest says.
            BundleChanged: its hash differs from the manifest's.
        """
        name = graph_file(graph)
        known = self.manifest["files"][name]
        try:
            data = (self.path / name).read_bytes()
        except OSError as error:
            raise BundleIncomplete(
                f"{self.path}: {name} cannot be read ({error}); export it again"
            ) from error
        if len(data) < known["size_bytes"]:
            raise BundleIncomplete(
                f"{self.path}: {name} has {len(data)} bytes, the manifest says {known['size_bytes']}; "
                "the copy was cut short: copy or export it again"
            )
        if hashlib.sha256(data).hexdigest() != known["sha256"]:
            raise BundleChanged(
                f"{self.path}: {name} differs from the file that the manifest was written for "
                "(SHA-256); it was damaged or replaced: copy or export it again"
            )
        return data


def open_bundle(path: str | Path | None = None) -> Bundle:
    """Open a bundle folder, or the embedded demonstration model for None.

    Raises:
        BundleError: not a bundle, or one of another format version.
        BundleIncomplete: the manifest is cut short or lacks entries.
    """
    folder = EMBEDDED if path is None else Path(path)
    try:
        text = (folder / MANIFEST).read_bytes()
    except OSError as error:
        raise BundleError(
            f"{folder} is not a bundle ({MANIFEST}: {error.strerror}); make one with python -m export"
        ) from error
    try:
        manifest = json.loads(text)
        version = manifest["format_version"]
    except (ValueError, KeyError, TypeError) as error:  # JSON and text encoding are ValueErrors
        raise BundleIncomplete(
            f"{folder / MANIFEST} is not whole ({error}); export the bundle again"
        ) from error
    if version != FORMAT_VERSION:
        raise BundleError(
            f"{folder} has bundle format {version}, this runtime reads {FORMAT_VERSION}; export it again"
        )
    try:
        return _parsed(folder, manifest)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BundleIncomplete(
            f"{folder / MANIFEST} lacks or misstates {error}; export the bundle again"
        ) from error


def _parsed(folder: Path, manifest: dict[str, Any]) -> Bundle:
    model = ModelNumbers(**manifest["model"])
    weights, _ = manifest["weights"], manifest["constants"]
    if manifest["precision"] not in PRECISIONS:
        raise KeyError(f"precision {manifest['precision']!r}")
    if weights["kind"] not in CAUTIONS:
        raise KeyError(f"weights kind {weights['kind']!r}")
    for graph in GRAPHS:
        entry = manifest["files"][graph_file(graph)]
        int(entry["size_bytes"]), str(entry["sha256"])
    bundle = Bundle(folder, model, weights, manifest)
    if unknown := set(bundle.calibrations) - set(MEASURES):
        raise KeyError(f"calibration {unknown.pop()!r}")
    return bundle
