"""What ONNX Runtime computes in, by what the processor reports; reports are faked, arithmetic is this machine's."""

from __future__ import annotations

import numpy as np
import pytest

from runtime.backends import open_backend, ort
from runtime.backends.ort import BF16, OrtBackend
from runtime.bundle.bundle import Bundle, open_bundle
from runtime.bundle.contract import GRAPHS
from runtime.errors import BackendUnavailable
from runtime.measure.parity import TOLERANCES, criteria_of
from runtime.model import load

GRAVITON = ("NEON", "DOTPROD", "FP16", "I8MM", "BF16", "SVE")
XEON = ("AVX2", "FMA", "AVX-512", "AVX-512 VNNI", "AVX-512 BF16", "AMX BF16")


@pytest.fixture
def embedded() -> Bundle:
    return open_bundle()


def in_bf16(backend: OrtBackend) -> set[str]:
    """Graphs whose products are asked for in bf16."""
    asked = set()
    for graph in GRAPHS:
        try:
            if backend._options(graph, None).get_session_config_entry(BF16) == "1":
                asked.add(graph)
        except RuntimeError:  # no such entry
            continue
    return asked


def test_bf16_is_for_arm_and_leaves_what_decides_in_fp32(
    embedded: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ort, "instruction_sets", lambda: GRAVITON)
    backend = open_backend("ort-bf16", embedded)
    assert isinstance(backend, OrtBackend)
    assert in_bf16(backend) == {"image_encoder", "memory_attention"}
    assert backend.description.endswith("; image_encoder and memory_attention in bf16")
    assert in_bf16(OrtBackend(embedded)) == set()
    assert criteria_of(embedded, "ort-bf16").tolerances == dict.fromkeys(GRAPHS, TOLERANCES["bf16"])
    size = embedded.model.image_size
    image = np.zeros((1, 3, size, size), np.float32)
    found = load(embedded, "ort-bf16").encode(image).vision_features
    assert np.isfinite(np.asarray(found)).all()


@pytest.mark.parametrize("reported", [XEON, GRAVITON[:4], ("unknown",)], ids=str)
def test_no_other_processor_is_said_to_compute_in_bf16(
    reported: tuple[str, ...], embedded: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ort, "instruction_sets", lambda: reported)
    with pytest.raises(BackendUnavailable, match="only on Arm processors with BF16; use ort"):
        open_backend("ort-bf16", embedded)
