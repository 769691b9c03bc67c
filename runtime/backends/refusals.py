"""What an engine says against a graph, as one of our errors; and what it says of a graph, held to the contract."""

from __future__ import annotations

from runtime.bundle.bundle import Bundle
from runtime.bundle.contract import GraphSpec, graph_specs
from runtime.bundle.external_data import has_external_data
from runtime.errors import BundleError, OutOfMemory, Sam2Error
from runtime.process.shortage import is_out_of_memory


def refusal(bundle: Bundle, engine: str, graph: str, error: Exception, verb: str) -> Sam2Error:
    """Why an engine could not open or run a graph: OutOfMemory where it says so, and a bad bundle otherwise.

    Args:
        bundle, graph: what was opened or run.
        engine: its name and version.
        error: what it raised.
        verb: what it did: "refuses", "fails to run".
    """
    said = str(error) or type(error).__name__
    if is_out_of_memory(error):
        return OutOfMemory(
            f"{engine} has not enough memory for {graph} of {bundle.path}; free some, or export a bundle of a "
            f"smaller image size ({said})"
        )
    return BundleError(f"{bundle.path}: {engine} {verb} {graph}: {said}; export the bundle again")


def read_whole_graph(bundle: Bundle, graph: str, precision: str = "fp32") -> bytes:
    """The checked bytes of a graph, which has to hold all its weights: those in other files nobody would have checked.

    Raises BundleError, and what `Bundle.read_graph` does.
    """
    data = bundle.read_graph(graph, precision)
    try:
        is_split = has_external_data(data)
    except ValueError as error:
        raise BundleError(
            f"{bundle.path}: the runtime refuses {graph}: it is no ONNX graph, {error}; export the bundle again"
        ) from error
    if is_split:
        raise BundleError(
            f"{bundle.path}: {graph} keeps weights in other files, which nobody has checked; export the bundle again"
        )
    return data


def check_graph(bundle: Bundle, graph: str, opened: GraphSpec) -> None:
    """Raise BundleError unless a graph, as the engine that has opened it describes it, is as the contract says."""
    if why := graph_specs(bundle.model)[graph].difference(opened):
        raise BundleError(
            f"{bundle.path}: {graph} is not the graph that the manifest speaks of: {why}; export the bundle again"
        )
