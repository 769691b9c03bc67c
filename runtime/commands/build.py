"""`medsam2 build`: TensorRT engines of a bundle, built ahead and certified on the card they were built on."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from tqdm import tqdm

from runtime.backends import BACKENDS
from runtime.backends.certificate import Certificate, choose, keep
from runtime.backends.lowering.typed_graph import PRECISIONS
from runtime.backends.tensorrt.build import build_engine
from runtime.backends.tensorrt.parts import kernel_reads, parts
from runtime.backends.tensorrt.trt import BuildBar
from runtime.bundle.bundle import Bundle, open_bundle
from runtime.bundle.contract import ModelNumbers
from runtime.commands.certify import add_slices_option, certify, check_slices, in_words
from runtime.errors import BundleError, Mismatch
from runtime.model import load
from runtime.process.counted import counted
from runtime.process.streams import print_result
from runtime.process.subcommands import command_parser

FALLBACKS = [
    name
    for precision in ("bf16", "mixed", "fp32")
    for attention in ("-kernel", "", "-unfused")
    if (name := f"trt-{precision}{attention}") in BACKENDS
]

EXAMPLES = """examples:
  medsam2 build --bundle medsam2                       # bfloat16, or what comes nearest and is right
  medsam2 build --bundle medsam2 --backend trt-mixed
  medsam2 build --bundle medsam2 --check               # on any machine: does TensorRT take every graph?

Engines and timings are kept for this user and card; whatever uses the same bundle afterwards starts at once. Each set
of engines is compared with ONNX Runtime in fp32 before it is trusted. One that fails is refused, and the next of
trt-bf16, trt-mixed, trt-fp32 is built, each with memory read by a kernel of ours first, where there is one for such
memories, then with TensorRT's fused attention, and without it then.
"""


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    p = command_parser("medsam2 build", "Build and certify TensorRT engines.", EXAMPLES)
    p.add_argument("--bundle", metavar="BUNDLE", help="default: the embedded demonstration model")
    p.add_argument(
        "--backend",
        choices=[name for name in BACKENDS if name.startswith("trt-")],
        help="what to begin with (default: trt-bf16-kernel where the model has 256 channels, or trt-bf16)",
    )
    add_slices_option(p)
    p.add_argument(
        "--check",
        action="store_true",
        help="build every graph for every shape and keep nothing; needs no GPU with TensorRT-RTX",
    )
    return p


def main(arguments: list[str] | None = None) -> None:
    """Run the command: a line for each step, then everything as JSON."""
    args = parser().parse_args(arguments)
    check_slices(args.slices)
    bundle = open_bundle(args.bundle)
    names = fallbacks(args.backend, bundle.model)
    if args.check:
        print_result({"bundle": bundle.path.name, "graphs": check(bundle, names[0])})
        return
    tried = build_until_certified(bundle, names, args.slices)
    choice = choose(bundle)
    print(f"auto takes {choice.backend}: {choice.reason}", file=sys.stderr)
    print_result({"auto": choice.backend, "certificates": tried})
    if not tried[-1]["passed"]:
        raise Mismatch(
            f"no engines of {bundle.path} compute what ONNX Runtime does on this card; tried "
            f"{', '.join(certificate['backend'] for certificate in tried)}"
        )


def fallbacks(first: str | None, model: ModelNumbers) -> list[str]:
    """Back ends to try, from one on, or all: each precision first with whatever is fused, then without.

    The kernel that reads memory is passed over for a model that it does not read, unless it was asked for.
    """
    reads = kernel_reads(model)
    names = [name for name in FALLBACKS if reads or name == first or not name.endswith("-kernel")]
    if first is None:
        return names
    return names[names.index(first) :] if first in names else [first, *names[-2:]]


def build_until_certified(
    bundle: Bundle, names: Sequence[str], num_slices: int
) -> list[Certificate]:
    """Build and certify one back end after the other until one passes; all certificates are kept.

    Raises BundleError if TensorRT takes the bundle in none of these ways.
    """
    tried: list[Certificate] = []
    for name in names:
        try:
            build_s = build(bundle, name)
        except BundleError as error:
            if name == names[-1]:
                raise
            print(f"{name} cannot be built: {error}", file=sys.stderr)
            continue
        certificate = {**certify(bundle, name, num_slices), "build_s": round(build_s, 1)}
        keep(certificate, bundle)
        tried.append(certificate)
        print(f"{in_words(certificate)}; built in {build_s:.1f} s", file=sys.stderr)
        if certificate["passed"]:
            break
        print(f"{name} is refused for this bundle on this card", file=sys.stderr)
    return tried


def build(bundle: Bundle, name: str) -> float:
    """Have engines of all graphs, from the cache or new. Returns the seconds it took."""
    started = time.perf_counter()
    model = load(bundle, name)
    for graph in tqdm(bundle.model.graphs, desc=name, unit="engine", file=sys.stderr):
        model.engine(graph)
    model.close()
    return time.perf_counter() - started


def check(bundle: Bundle, name: str) -> dict[str, Any]:
    """Build every graph for every shape the runtime uses and throw it away; bytes and seconds by graph or segment.

    Raises BundleError for a graph that TensorRT refuses, BackendUnavailable without it.
    """
    options = BACKENDS[name].options
    precision = replace(PRECISIONS[options["precision"]], attention=options["attention"])
    engines: dict[str, Any] = {}
    for part in (
        part for graph in bundle.model.graphs for part in parts(bundle, graph, precision)[0]
    ):
        started = time.perf_counter()
        with BuildBar(part.name) as bar:
            plan = build_engine(
                part.typed, part.profiles, part.name, None, bar.update, part.uses_tf32
            )
        seconds = round(time.perf_counter() - started, 2)
        count = len(part.profiles)
        engines[part.name] = {"bytes": len(plan), "profiles": count, "build_s": seconds}
        print(
            f"{part.name}: {counted(count, 'profile')}, {len(plan)} bytes, {seconds} s",
            file=sys.stderr,
        )
    return engines
