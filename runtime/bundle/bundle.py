"""A bundle: a folder with a manifest and its ONNX graphs, perhaps some of them in eight bits too, or with large weights
in a file beside them.

It knows files and hashes, not what graphs compute. Graph bytes are read once, checked against the manifest and handed
on, so what runs is what was checked.
"""

from __future__ import annotations

import hashlib
import reprlib
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtime.bundle.confidence import Calibration
from runtime.bundle.contract import ModelNumbers
from runtime.bundle.defaults import Defaults
from runtime.bundle.manifest import CAUTIONS, graph_file, read_manifest, weights_file
from runtime.errors import BundleChanged, BundleIncomplete, InputError
from runtime.files.plain_file import read_plain

EMBEDDED = Path(__file__).parents[1] / "nano"


@dataclass(frozen=True, slots=True)
class Bundle:
    """An opened bundle.

    Attributes:
        path: its folder, absolute: graphs are read later, perhaps from elsewhere.
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
    def defaults(self) -> Defaults:
        """What `export.calibrate` has chosen for these weights; nothing where it has not."""
        return Defaults.parse(self.manifest.get("defaults", {}))

    @property
    def int8_graphs(self) -> tuple[str, ...]:
        """Graphs that are also there with weights in eight bits."""
        files = self.manifest["files"]
        return tuple(graph for graph in self.model.graphs if graph_file(graph, "int8") in files)

    @property
    def split_graphs(self) -> tuple[str, ...]:
        """Graphs whose large weights lie in a file of their own."""
        return tuple(g for g in self.model.graphs if weights_file(g) in self.manifest["files"])

    @property
    def licence(self) -> str:
        """Licence of the weights as the one who exported them said, or "unknown"."""
        return str(self.manifest["licence"])

    @property
    def fingerprint(self) -> str:
        """What the graphs are known by: SHA-256 over their own hashes, in the order of names, then of those in int8 and
        of weights beside them.
        """
        names = [graph_file(graph) for graph in sorted(self.model.graphs)]
        names += [graph_file(graph, "int8") for graph in sorted(self.int8_graphs)]
        names += [weights_file(graph) for graph in sorted(self.split_graphs)]
        hashes = [self.manifest["files"][name]["sha256"] for name in names]
        return hashlib.sha256("".join(hashes).encode()).hexdigest()

    @property
    def caution(self) -> str | None:
        """What a user must be told about these weights, or None."""
        return CAUTIONS[self.weights["kind"]]

    def read_graph(self, graph: str, precision: str = "fp32") -> bytes:
        """The checked bytes of one graph; `precision` "int8" only for `int8_graphs`.

        Raises:
            BundleIncomplete: the file is missing or shorter than the manifest says.
            BundleChanged: its hash differs from the manifest's.
        """
        return self._read(graph_file(graph, precision))

    def size_bytes(self, graph: str) -> int:
        """Of one graph in fp32, with weights beside it."""
        files = self.manifest["files"]
        names = [graph_file(graph), weights_file(graph)]
        return sum(int(files[name]["size_bytes"]) for name in names if name in files)

    def read_weights(self, graph: str) -> bytes:
        """The checked bytes of the file beside one of `split_graphs`; raises what `read_graph` does."""
        return self._read(weights_file(graph))

    def _read(self, name: str) -> bytes:
        entry = self.manifest["files"][name]
        try:
            data = read_plain(self.path / name, entry["size_bytes"])
        except OSError as error:
            raise BundleIncomplete(
                f"{self.path}: {name} cannot be read ({error.strerror}); export it again"
            ) from error
        if len(data) < entry["size_bytes"]:
            raise BundleIncomplete(
                f"{self.path}: {name} has {len(data)} bytes, the manifest says {entry['size_bytes']}; "
                "the copy was cut short: copy or export it again"
            )
        if hashlib.sha256(data).hexdigest() != entry["sha256"]:
            raise BundleChanged(
                f"{self.path}: {name} differs from the file that the manifest was written for "
                "(SHA-256); it was damaged or replaced: copy or export it again"
            )
        return data


def open_bundle(path: str | Path | None = None) -> Bundle:
    """Open a bundle folder, or the embedded demonstration model for None.

    Raises:
        BundleError: not a bundle, or one of another format version.
        BundleIncomplete: the manifest is cut short, lacks entries or misstates them.
        InputError: what was given is no path.
    """
    try:
        folder = EMBEDDED if path is None else Path(path)
    except TypeError as error:
        raise InputError(f"a bundle is named by its folder; found {reprlib.repr(path)}") from error
    manifest = read_manifest(folder)
    with suppress(OSError):  # the folder that the process is in may be gone
        folder = folder.absolute()
    return Bundle(folder, ModelNumbers(**manifest["model"]), manifest["weights"], manifest)
