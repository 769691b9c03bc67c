"""What JSON says: prompts, manifests of bundles, certificates; and graphs and checkpoints with right hashes."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.fuzz.mutate import damage, damage_json
from benchmarks.fuzz.target import Target
from runtime import Box, VolumePredictor, load
from runtime.backends.certificate import Choice, choose, keep, stamp
from runtime.bundle.bundle import EMBEDDED, Bundle, open_bundle
from runtime.bundle.contract import GRAPHS
from runtime.bundle.manifest import MANIFEST, graph_file
from runtime.files.cache import VARIABLE
from runtime.prompts.prompt_file import Calls, read_prompts

PROMPTS = {
    "objects": [
        {
            "id": 1,
            "prompts": [
                {"slice": 3, "box": {"y": [2, 8], "x": [1, 9]}},
                {"slice": 3, "point": {"y": 4, "x": 5}, "positive": False},
                {"slice": 5, "mask": "mask.png"},
            ],
        },
        {"id": 2, "prompts": [{"slice": 0, "point": {"y": 1.5, "x": 2.5}}]},
    ]
}


def _write_prompts(folder: Path) -> None:
    (folder / "prompts.json").write_text(json.dumps(PROMPTS))
    Image.fromarray(np.eye(10, 12, dtype=np.uint8) * 255).save(folder / "mask.png")


def _judge_prompts(calls: Calls, folder: Path, truth: Any) -> str | None:
    for object_id, prompts in calls:
        for prompt in prompts:
            numbers = np.ravel([getattr(prompt, "y", 0), getattr(prompt, "x", 0)])
            are_whole = type(prompt.slice) is int and type(object_id) is int
            if not (np.isfinite(numbers).all() and are_whole):
                return f"accepted {prompt}"
    return None


def _json_target(
    name: str,
    prepare: Callable[[Path], Any],
    read: Callable[[Path], Any],
    judge: Callable[[Any, Path, Any], str | None],
    share: int = 3,
) -> Target:
    def spoil(folder: Path, rng: Random) -> None:
        path = folder / name
        path.write_bytes(damage_json(path.read_bytes(), rng))

    return Target(prepare, spoil, read, judge, share=share)


VOLUME = np.random.default_rng(1).integers(0, 255, (3, 32, 32)).astype(np.uint8)


def _used(folder: Path) -> np.ndarray:
    """Every logit of a short propagation with the bundle in a folder."""
    model = load(folder, "ort", threads=1)
    try:
        predictor = VolumePredictor(model)
        predictor.set_volume(VOLUME)
        predictor.add(Box(slice=1, y=(8, 20), x=(8, 20)))
        return np.stack([slice_mask.segmented.logits for slice_mask in predictor.stream()])
    finally:
        model.close()


def _copy_bundle(folder: Path) -> np.ndarray:
    """A copy of the embedded bundle; returns what it computes."""
    shutil.copytree(EMBEDDED, folder, dirs_exist_ok=True)
    return _used(folder)


def _judge_logits(logits: np.ndarray, folder: Path, truth: np.ndarray) -> str | None:
    return None if np.isfinite(logits).all() else "masks of numbers that are not finite"


def _spoil_graph(folder: Path, rng: Random) -> None:
    """Damage to a graph whose hash and size are put right in the manifest."""
    name = graph_file(rng.choice(GRAPHS))
    data = damage((folder / name).read_bytes(), rng)
    (folder / name).unlink()
    (folder / name).write_bytes(data)
    manifest = json.loads((folder / MANIFEST).read_bytes())
    manifest["files"][name] = {"size_bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (folder / MANIFEST).write_text(json.dumps(manifest))


CERTIFIED = "openvino"


def _prepare_certificate(folder: Path) -> Bundle:
    bundle = open_bundle()
    os.environ[VARIABLE] = str(folder)
    keep({**stamp(bundle, CERTIFIED), "passed": True, "times_reference": 3.5, "graphs": {}}, bundle)
    return bundle


def _certificate(folder: Path) -> Path:
    return next(folder.rglob(f"{CERTIFIED}.json"))


def _spoil_certificate(folder: Path, rng: Random) -> None:
    path = _certificate(folder)
    path.write_bytes(damage_json(path.read_bytes(), rng))


def _chosen(folder: Path) -> Choice:
    os.environ[VARIABLE] = str(folder)
    return choose(open_bundle())


def _judge_choice(choice: Choice, folder: Path, bundle: Bundle) -> str | None:
    """A back end may only be chosen by a certificate that is whole: its stamp, a true pass and a finite figure."""
    if choice.backend == "ort":
        return None
    certificate = json.loads(_certificate(folder).read_bytes())
    figure = certificate.get("times_reference")
    is_whole = (
        certificate.items() >= stamp(bundle, CERTIFIED).items()
        and certificate.get("passed") is True
    )
    if is_whole and type(figure) in (int, float) and np.isfinite(figure):
        return None
    return f"{choice.backend} was chosen by {json.dumps(certificate)[:500]}"


DOCUMENTS = {
    "prompts": _json_target(
        "prompts.json",
        _write_prompts,
        lambda folder: read_prompts(folder / "prompts.json").calls,
        _judge_prompts,
    ),
    "manifest": _json_target(MANIFEST, _copy_bundle, _used, _judge_logits, share=2),
    "graph": Target(_copy_bundle, _spoil_graph, _used, _judge_logits, share=1),
    "certificate": Target(
        _prepare_certificate, _spoil_certificate, _chosen, _judge_choice, share=2
    ),
}
