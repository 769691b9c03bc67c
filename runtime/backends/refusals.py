"""What an engine says against a graph, as one of our errors; and what it says of a graph, held to the contract."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from runtime.bundle.bundle import Bundle
from runtime.bundle.contract import GraphSpec, graph_specs
from runtime.bundle.external_data import has_external_data
from runtime.bundle.manifest import weights_file
from runtime.bundle.split_graph import SplitGraph, outer_weights
from runtime.errors import BackendUnavailable, BundleError, OutOfMemory, Sam2Error
from runtime.process.shortage import MORE_THREADS, is_out_of_memory, lacks_thread


def refusal(bundle: Bundle, engine: str, graph: str, error: Exception, verb: str) -> Sam2Error:
    """Why an engine could not open or run a graph: OutOfMemory where it says so, and a bad bundle otherwise.

    Args:
        bundle, graph: what was opened or run.
        engine: its name and version.
        error: what it raised.
        verb: what it did: "refuses", "fails to run".
    """
    said = str(error) or type(error).__name__
    if is_out_of_memory(error) and lacks_thread(error):
        return OutOfMemory(
            f"{engine} can start no thread for {graph} of {bundle.path}; take fewer (--threads 1), or {MORE_THREADS} "
            f"({said})"
        )
    if is_out_of_memory(error):
        return OutOfMemory(
            f"{engine} has not enough memory for {graph} of {bundle.path}; free some, or export a bundle of a "
            f"smaller image size ({said})"
        )
    return BundleError(f"{bundle.path}: {engine} {verb} {graph}: {said}; export the bundle again")


def read_whole_graph(bundle: Bundle, graph: str, precision: str = "fp32") -> bytes:
    """The checked bytes of a graph, which has to hold all its weights: those in other files nobody would have checked.

    Raises BackendUnavailable for one of the bundle's `split_graphs`, BundleError, and what `Bundle.read_graph` does.
    """
    if graph in bundle.split_graphs and precision == "fp32":
        raise BackendUnavailable(
            f"{graph} of {bundle.path} is larger than one file of ONNX may be, which only ort and openvino take; use "
            "one of them"
        )
    data = bundle.read_graph(graph, precision)
    with graphs_faults(bundle, graph):
        is_split = has_external_data(data)
    if is_split:
        raise BundleError(
            f"{bundle.path}: {graph} keeps weights in other files, which nobody has checked; export the bundle again"
        )
    return data


def read_split_graph(bundle: Bundle, graph: str) -> SplitGraph:
    """One of the bundle's `split_graphs` with its weights, all of them checked.

    Raises BundleError where a weight lies anywhere but in the bundle's own file, and what `Bundle.read_graph` does.
    """
    data = bundle.read_graph(graph)
    with graphs_faults(bundle, graph):
        outer = outer_weights(data)
    if any(weight.location != weights_file(graph) for weight in outer):
        raise BundleError(
            f"{bundle.path}: {graph} keeps weights in other files than {weights_file(graph)}, which nobody has "
            "checked; export the bundle again"
        )
    beside = bundle.read_weights(graph)
    with graphs_faults(bundle, graph):
        return SplitGraph(data, {weight.name: weight.of(beside) for weight in outer})


@contextmanager
def graphs_faults(bundle: Bundle, graph: str) -> Iterator[None]:
    """Raise what is wrong with a graph's bytes as a BundleError."""
    try:
        yield
    except ValueError as error:
        raise BundleError(
            f"{bundle.path}: the runtime refuses {graph}: it is no ONNX graph, {error}; export the bundle again"
        ) from error


def check_graph(bundle: Bundle, graph: str, opened: GraphSpec) -> None:
    """Raise BundleError unless a graph, as the engine that has opened it describes it, is as the contract says."""
    if why := graph_specs(bundle.model)[graph].difference(opened):
        raise BundleError(
            f"{bundle.path}: {graph} is not the graph that the manifest speaks of: {why}; export the bundle again"
        )
