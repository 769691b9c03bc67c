"""Where the time goes on a device: stages between events, and steps as they are really run, replayed.

A watched step runs graph by graph and is waited for, so that stages and whole steps come from passes of their own.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from runtime.devices.cuda.memory import CudaMemory
from runtime.measure.latency import (
    PERCENTILE,
    STAGES,
    Stopwatch,
    TimedRun,
    first_masks,
    prompt_all,
    steady,
    time_volume,
)
from runtime.measure.phantom import Phantom
from runtime.model import Model
from runtime.predictors import VolumePredictor
from runtime.steps.cuda.steps import CudaSteps


@dataclass(frozen=True, slots=True)
class DeviceRun:
    """Measurements of one volume on a device.

    Attributes:
        run: replayed steps (`total`, of it on the `device` and on the `host`, milliseconds), and the first masks.
        stages_ms: device time for a slice by stage, mean over a volume run graph by graph.
        volume_ms: as `runtime.measure.latency.time_volume`.
        launches_per_step: kernels and copies in the graph of a step.
        device_memory_mib: in use on the device at the end, by whomever.
    """

    run: TimedRun
    stages_ms: dict[str, float]
    volume_ms: float
    launches_per_step: int | None
    device_memory_mib: float


def time_on_device(
    model: Model,
    phantom: Phantom,
    num_objects: int,
    max_feature_bytes: int | None,
    prompted: int,
    on_slice: Callable[[], object] = lambda: None,
) -> DeviceRun:
    """Box each object on the middle slice and follow it both ways, taking the time.

    Arguments are as for `time_propagation`; `on_slice` is called for the slices of a step's time and of a volume's.
    """
    memory, cuda = model.device_memory, model.steps
    assert isinstance(memory, CudaMemory) and isinstance(cuda, CudaSteps)
    run = _replayed(model, phantom, num_objects, max_feature_bytes, prompted, on_slice)
    stages_ms = _stages_ms(model, phantom, num_objects, max_feature_bytes, prompted)
    volume_ms = time_volume(model, phantom, num_objects, max_feature_bytes, on_slice)
    free, total = memory.device.memory_bytes
    return DeviceRun(run, stages_ms, volume_ms, cuda.launches_per_step, (total - free) / 2**20)


def summarise_device(runs: list[DeviceRun], num_maskmem: int) -> dict[str, dict[str, float]]:
    """Stages as means; whole steps with a full memory as median, mean and 95th percentile, in milliseconds."""
    table = {
        stage: {"mean": round(float(np.median([run.stages_ms[stage] for run in runs])), 4)}
        for stage in STAGES.values()
    }
    steps = steady([timed.run for timed in runs], num_maskmem)
    for column in ("device", "host", "total"):
        values = [step[column] for step in steps]
        table[column] = {
            "median": round(float(np.median(values)), 4),
            "mean": round(float(np.mean(values)), 4),
            f"p{PERCENTILE}": round(float(np.percentile(values, PERCENTILE)), 4),
        }
    return table


def _predictor(model: Model, phantom: Phantom, max_feature_bytes: int | None) -> VolumePredictor:
    predictor = VolumePredictor(model.plain(), max_feature_bytes=max_feature_bytes)
    predictor.set_volume(phantom.pixels, "none")
    return predictor


def _replayed(
    model: Model,
    phantom: Phantom,
    num_objects: int,
    max_feature_bytes: int | None,
    prompted: int,
    on_slice: Callable[[], object],
) -> TimedRun:
    """Steps of one direction; every object's mask of a step has come to the host when the step counts as done."""
    predictor = _predictor(model, phantom, max_feature_bytes)
    firsts = first_masks(predictor, phantom, num_objects)
    middle = prompt_all(predictor, phantom, num_objects, prompted)
    steps: list[dict[str, float]] = []
    logits = {}
    cuda, device = model.steps, model.device_memory
    assert isinstance(cuda, CudaSteps) and isinstance(device, CudaMemory)
    cuda.step_marks = []
    started, tracked = time.perf_counter(), 0
    try:
        for slice_mask in predictor.stream(directions=(1,)):
            logits[slice_mask.slice, slice_mask.object_id] = slice_mask.segmented.logits
            if slice_mask.slice <= middle:
                started = time.perf_counter()
                continue
            tracked += 1
            if tracked % num_objects == 0:
                now = time.perf_counter()
                steps.append(_step(cuda, device, 1e3 * (now - started)))
                on_slice()
                started = time.perf_counter()
    finally:
        cuda.step_marks = None
    return TimedRun(steps, firsts[0], logits, firsts[1])


def _step(cuda: CudaSteps, memory: CudaMemory, total_ms: float) -> dict[str, float]:
    marks = cuda.step_marks or []
    device_ms = sum(memory.device.elapsed_ms(start, stop) for start, stop in marks)
    marks.clear()
    return {"device": device_ms, "host": total_ms - device_ms, "total": total_ms}


def _stages_ms(
    model: Model, phantom: Phantom, num_objects: int, max_feature_bytes: int | None, prompted: int
) -> dict[str, float]:
    watch, slices = Stopwatch(), [0]

    def observe(graph: str, inputs: Any, outputs: Any, ms: float) -> None:
        watch(graph, inputs, outputs, ms)
        if graph == "image_encoder":
            slices[0] += inputs["image"].shape[0]

    predictor = _predictor(model.observed(observe), phantom, max_feature_bytes)
    middle = prompt_all(predictor, phantom, num_objects, prompted)
    encode_ms = watch.lap().get("encode", 0.0)
    steps = 0
    for slice_mask in predictor.stream(directions=(1,)):
        if slice_mask.slice == middle and slice_mask.object_id == num_objects:
            encode_ms += watch.lap().get("encode", 0.0)
        steps += slice_mask.slice > middle and slice_mask.object_id == num_objects
    spent = watch.lap()
    means_ms = {stage: spent.get(stage, 0.0) / max(steps, 1) for stage in STAGES.values()}
    means_ms["encode"] = (encode_ms + spent.get("encode", 0.0)) / max(slices[0], 1)
    return means_ms
