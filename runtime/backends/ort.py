"""ONNX Runtime on the CPU."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnxruntime

from runtime.backends.base import Buffer
from runtime.bundle import Bundle
from runtime.errors import BackendUnavailable, BundleError
from runtime.place import HOST, Place

PROVIDER = "CPUExecutionProvider"
WARNINGS_AND_WORSE = 2


class OrtEngine:
    """One inference session, fed and read through the caller's own buffers."""

    def __init__(self, session: onnxruntime.InferenceSession) -> None:
        self._session = session

    def run(self, inputs: Mapping[str, Buffer], outputs: Mapping[str, Buffer]) -> None:
        binding = self._session.io_binding()
        held = {name: np.ascontiguousarray(array) for name, array in inputs.items()}
        for name, array in held.items():
            binding.bind_input(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
        for name, array in outputs.items():
            binding.bind_output(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
        self._session.run_with_iobinding(binding)


class OrtBackend:
    """Graphs of one bundle on ONNX Runtime.

    Args:
        bundle: where the graphs come from.
        threads: threads within an operator; None leaves it to ONNX Runtime (one for each core).
        hint: "latency", or "throughput" for threads that do not spin while they wait.
    """

    place: Place = HOST

    def __init__(self, bundle: Bundle, threads: int | None = None, hint: str = "latency") -> None:
        self._bundle = bundle
        self._options = onnxruntime.SessionOptions()
        self._options.log_severity_level = WARNINGS_AND_WORSE
        # Each graph has threads of its own, which go on spinning after a run and slow down the next graph's.
        self._options.add_session_config_entry("session.force_spinning_stop", "1")
        if hint == "throughput":
            self._options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if threads is not None:
            self._options.intra_op_num_threads = threads
        count = "all" if threads is None else str(threads)
        self.description = (
            f"ONNX Runtime {onnxruntime.__version__}, {PROVIDER}, {count} threads, fp32"
        )

    def load(self, graph: str) -> OrtEngine:
        """Raises BundleError for a graph ONNX Runtime refuses, BackendUnavailable without its provider."""
        data = self._bundle.read_graph(graph)
        try:
            session = onnxruntime.InferenceSession(data, self._options, providers=[PROVIDER])
        except Exception as error:  # ONNX Runtime's own classes share no public base
            raise BundleError(
                f"{self._bundle.path}: ONNX Runtime {onnxruntime.__version__} refuses {graph}: {error}"
            ) from error
        if session.get_providers()[0] != PROVIDER:
            raise BackendUnavailable(
                f"asked for {PROVIDER}, ONNX Runtime opened {session.get_providers()}"
            )
        return OrtEngine(session)

    def close(self) -> None:
        """Nothing is held beyond the engines."""
