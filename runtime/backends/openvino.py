"""OpenVINO on the CPU, in fp32 or in what half precision the processor has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import openvino as ov
import openvino.opset13 as ops
from openvino.frontend.onnx import ConversionExtension

from runtime.backends.base import Buffer, Engine
from runtime.backends.ort import OrtBackend
from runtime.bundle import Bundle
from runtime.cache import cache_folder
from runtime.errors import BackendUnavailable, BundleError
from runtime.place import HOST, Place

DEVICE = "CPU"
CAPABILITIES = {"fp32": "FP32", "bf16": "BF16", "fp16": "FP16"}
PRECISION_HINTS = {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}
# Small graphs that ONNX Runtime runs faster, also than OpenVINO's bf16 (benchmarks/notes.md). What the decoder finds
# decides what is kept, what is absent and which candidate is taken, so that it stays in fp32 in any case.
ORT_GRAPHS = ("mask_decoder", "memory_encoder")


def fused_attention(node: Any) -> Any:
    """The bundle's attention node, ONNX Runtime's MultiHeadAttention, as OpenVINO's own fused operator."""
    query, key, value = (node.get_input(i) for i in range(3))
    split = ops.constant([0, 0, node.get_attribute("num_heads"), -1], dtype=np.int64)
    swap = ops.constant([0, 2, 1, 3], dtype=np.int64)
    heads = (ops.transpose(ops.reshape(x, split, True), swap) for x in (query, key, value))
    joined = ops.transpose(ops.scaled_dot_product_attention(*heads), swap)
    return ops.reshape(joined, ops.constant([0, 0, -1], dtype=np.int64), True).outputs()


class OpenVinoEngine:
    """One compiled graph, fed and read through the caller's own buffers."""

    def __init__(self, compiled: Any) -> None:
        self._request = compiled.create_infer_request()

    def run(self, inputs: Mapping[str, Buffer], outputs: Mapping[str, Buffer]) -> None:
        held = {name: np.ascontiguousarray(array) for name, array in inputs.items()}
        for name, array in {**held, **outputs}.items():
            self._request.set_tensor(name, ov.Tensor(array, shared_memory=True))
        self._request.infer()


class OpenVinoBackend:
    """Graphs of one bundle on OpenVINO, but for `ORT_GRAPHS`, which stay on ONNX Runtime in fp32.

    Compiled models are kept in this user's cache (`runtime.cache`).

    Args:
        bundle: where the graphs come from.
        threads: threads within an operator; None leaves it to OpenVINO (one for each core).
        hint: "latency" or "throughput".
        precision: a key of `CAPABILITIES`.

    Raises BackendUnavailable if the processor does not compute in that precision.
    """

    place: Place = HOST

    def __init__(
        self,
        bundle: Bundle,
        threads: int | None = None,
        hint: str = "latency",
        precision: str = "fp32",
    ) -> None:
        self._bundle = bundle
        self._core = ov.Core()
        able = self._core.get_property(DEVICE, "OPTIMIZATION_CAPABILITIES")
        if CAPABILITIES[precision] not in able:
            name = self._core.get_property(DEVICE, "FULL_DEVICE_NAME")
            raise BackendUnavailable(
                f"{name} does not compute in {precision}, only in {', '.join(able)}; use openvino, in fp32"
            )
        self._core.add_extension(
            ConversionExtension("MultiHeadAttention", "com.microsoft", fused_attention)
        )
        if (cache := cache_folder("openvino")) is not None:
            self._core.set_property({"CACHE_DIR": str(cache)})
        self._options: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": PRECISION_HINTS[precision],
            "PERFORMANCE_HINT": hint.upper(),
        }
        if threads is not None:
            self._options["INFERENCE_NUM_THREADS"] = threads
        self._ort = OrtBackend(bundle, threads, hint)
        count = "all" if threads is None else str(threads)
        self.description = (
            f"OpenVINO {ov.__version__.partition('-')[0]}, {DEVICE}, {count} threads, {precision}; "
            f"{' and '.join(ORT_GRAPHS)} on ONNX Runtime"
        )

    def load(self, graph: str) -> Engine:
        """Raises BundleError for a graph that OpenVINO refuses."""
        if graph in ORT_GRAPHS:
            return self._ort.load(graph)
        data = self._bundle.read_graph(graph)
        try:
            model = self._core.read_model(data)
            compiled = self._core.compile_model(model, DEVICE, self._options)
        except RuntimeError as error:
            raise BundleError(
                f"{self._bundle.path}: OpenVINO {ov.__version__} refuses {graph}: {error}"
            ) from error
        return OpenVinoEngine(compiled)

    def close(self) -> None:
        """Nothing is held beyond the engines."""
