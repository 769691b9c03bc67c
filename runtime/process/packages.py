"""Packages that not every installation has: which extra brings them, and what to say where one is missing."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from runtime.errors import BackendUnavailable, MissingPackage

DISTRIBUTION = "medsam2-runtime"
OURS = ("kernels", "runtime", "export", "benchmarks")
# Top-level module -> extra of ours.
EXTRAS = {
    "onnxruntime": "cpu",
    "torch": "export",
    "onnx": "export",
    "onnxscript": "export",
    "huggingface_hub": "export",
    "safetensors": "export",
    "scipy": "benchmarks",
    "matplotlib": "benchmarks",
    "av": "video",
    "openvino": "openvino",
    "highdicom": "dicom-seg",
    "tensorrt": "gpu",
    "cuda": "gpu",
    "starlette": "serve",
    "uvicorn": "serve",
    "h11": "serve",
    "python_multipart": "serve",
    "blosc2": "serve",
    "ray": "cohort",
    "pyarrow": "cohort",
    "dicomweb_client": "dicomweb",
    "requests": "dicomweb",
}
# Distributions of ONNX Runtime; every one of them installs the same module over that of the others.
ONNXRUNTIMES = (
    "onnxruntime",
    "onnxruntime-gpu",
    "onnxruntime-directml",
    "onnxruntime-openvino",
    "onnxruntime-training",
)


def missing(error: ImportError) -> MissingPackage | None:
    """What an import that failed means for people; None where a module of ours failed, which is a fault of ours."""
    module = (error.name or "").partition(".")[0]
    if not module or module in OURS:
        return None
    return MissingPackage(f"this needs {module} ({error}); {how_to_install(module)}")


def imported(name: str) -> Any:
    """A module. Raises MissingPackage, with what to install, where its package is not here."""
    try:
        return import_module(name)
    except ImportError as error:
        if (why := missing(error)) is None:
            raise
        raise why from error


def how_to_install(module: str) -> str:
    """The command that brings a module."""
    if module not in EXTRAS:
        return f"pip install {module}"
    either = "; on a CUDA machine [gpu] instead of [cpu]" if module == "onnxruntime" else ""
    return f"pip install '{DISTRIBUTION}[{EXTRAS[module]}]'{either}"


def installed(names: Sequence[str]) -> dict[str, str]:
    """Versions of those of some distributions that are installed."""
    versions = {}
    for name in names:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions


def check_one_onnxruntime() -> None:
    """Raise BackendUnavailable where distributions of ONNX Runtime lie on top of each other."""
    if len(versions := installed(ONNXRUNTIMES)) > 1:
        names = [f"{name} {number}" for name, number in versions.items()]
        raise BackendUnavailable(
            f"{' and '.join(names)} are installed over each other, and nobody can tell which one runs; "
            f"pip uninstall -y {' '.join(versions)}, then "
            f"pip install '{DISTRIBUTION}[cpu]' or, on a CUDA machine, [gpu]"
        )
