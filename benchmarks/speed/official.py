"""The official `sam2` package (1.1.0), built for any row of the variants table: a rival here, an oracle in tests.

What a row of another family has of its own comes from that family's official package (`official_parts`).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from importlib.util import find_spec
from typing import Any
from unittest import mock

import numpy as np
import scipy.ndimage
import torch
from hydra import compose
from hydra.utils import instantiate
from omegaconf import OmegaConf

from benchmarks.speed.devices import timed_ms
from benchmarks.speed.official_graph import replay_modules
from benchmarks.speed.official_parts import join_parts, other_parts
from export.model.sam2 import Sam2
from export.trunks import HieraTrunk
from export.variants import VARIANTS, Variant
from kernels.preprocess import preprocess
from runtime.bundle.contract import PIXEL_MEAN, PIXEL_STD
from runtime.measure.latency import TimedRun
from runtime.measure.phantom import NUM_OBJECTS, Phantom

EIGHT_CONNECTED = np.ones((3, 3), int)

# build_sam.py's apply_postprocessing=True
POSTPROCESSING = (
    "++model.sam_mask_decoder_extra_args.dynamic_multimask_via_stability=true",
    "++model.sam_mask_decoder_extra_args.dynamic_multimask_stability_delta=0.05",
    "++model.sam_mask_decoder_extra_args.dynamic_multimask_stability_thresh=0.98",
    "++model.binarize_mask_from_pts_for_mem_enc=true",
    "++model.fill_hole_area=8",
)
PREDICTORS = {
    "eager": ("SAM2VideoPredictor", ()),
    "graph": ("SAM2VideoPredictor", ()),
    "compile": ("SAM2VideoPredictor", ("++model.compile_image_encoder=true",)),
    "vos_optimized": ("SAM2VideoPredictorVOS", ("++model.compile_image_encoder=true",)),
}
"""build_sam.py's choices: the class, and what else is overridden; "graph" is eager with its modules recorded."""


def official_predictor(variant: Variant, image_size: int, kind: str = "eager") -> torch.nn.Module:
    """A key of `PREDICTORS` as upstream's builder makes it, in eval mode on the CPU, weights not loaded."""
    import sam2  # registers the package's configuration folder with hydra

    assert sam2
    name, overrides = PREDICTORS[kind]
    config = compose(
        config_name=_config(variant),
        overrides=[
            f"++model._target_=sam2.sam2_video_predictor.{name}",
            f"++model.image_size={image_size}",
            *_numbers(variant),
            *POSTPROCESSING,
            *overrides,
        ],
    )
    parts = other_parts(variant, image_size, config.model)
    OmegaConf.set_struct(config, False)
    for name in parts:
        del config.model[name]
    if "image_encoder" in parts:  # which the predictor asks for its width
        parts["image_encoder"].neck.d_model = variant.d_model
    predictor = instantiate(config.model, **parts, _recursive_=True)
    join_parts(predictor, variant, config.model)
    return predictor.eval().requires_grad_(False)


def official_state(
    predictor: torch.nn.Module, images: torch.Tensor, height: int, width: int
) -> dict[str, Any]:
    """What `init_state` makes, from frames (n, 3, S, S) that are already normalised."""
    import sam2.sam2_video_predictor as module

    with mock.patch.object(module, "load_video_frames", lambda **_: (images, height, width)):
        return predictor.init_state("frames")


class OfficialContender:
    """The official predictor over a phantom, timed like `runtime.measure.latency.time_propagation`.

    Frames are resized and normalised beforehand, which counts for it: ours does so within its time. Upstream fills
    holes in masks only where its compiled extension works; in its first pass, which is compared and not timed, it is
    lent connected components, so that it computes what its configuration says. From then on it is spared the attempt.

    Args:
        model: whose weights to take.
        kind: a key of `PREDICTORS`.
        autocast: dtype to autocast to, as upstream's examples do; None is fp32 throughout.
        device: where PyTorch runs it.

    Raises BackendUnavailable for the kind "graph" off CUDA.
    """

    def __init__(self, model: Sam2, kind: str, autocast: torch.dtype | None, device: str) -> None:
        numbers = model.numbers
        self._predictor = official_predictor(VARIANTS[numbers.name], numbers.image_size, kind)
        self._predictor.load_state_dict(model.state_dict(), strict=True)
        self._predictor.to(device)
        if kind == "graph":
            replay_modules(self._predictor, device)
        self._autocast, self._device, self._size = autocast, device, numbers.image_size
        self._is_warm = False
        precision = "fp32" if autocast is None else str(autocast).removeprefix("torch.")
        self.description = f"sam2 1.1.0 {kind}, PyTorch {torch.__version__}, {device}, {precision}"

    def run(self, phantom: Phantom, num_objects: int) -> TimedRun:
        """Box each object on the middle slice and follow it to the last, taking the time."""
        with torch.inference_mode(), self._mixed(), self._filled():
            state = self._state(phantom, self._frames(phantom))
            first_mask_ms = self._timed(lambda: self._prompt(state, phantom, 1))
            for object_id in range(2, num_objects + 1):
                self._prompt(state, phantom, object_id)
            steps, logits = [], {}
            middle = len(phantom.pixels) // 2
            stream = self._predictor.propagate_in_video(state)
            for index in range(middle, len(phantom.pixels)):
                total_ms = self._timed(lambda: next(stream))
                if index > middle:
                    steps.append({"total": total_ms})
                for object_id in range(1, num_objects + 1):
                    logits[index, object_id] = _low_res(state, index, object_id)
        return TimedRun(steps, first_mask_ms, logits)

    def volume_ms(self, phantom: Phantom, num_objects: int) -> float:
        """From normalised frames on the host to the masks of all slices there, forwards and then backwards.

        On its way back it reads what it has found ahead, which ours does not; the number of steps is the same.
        """
        frames = self._frames(phantom)

        def segment() -> None:
            state = self._state(phantom, frames)
            for object_id in range(1, num_objects + 1):
                self._prompt(state, phantom, object_id)
            for is_reverse in (False, True):
                for *_, logits in self._predictor.propagate_in_video(state, reverse=is_reverse):
                    (logits > 0).cpu()

        with torch.inference_mode(), self._mixed(), self._filled():
            return self._timed(segment)

    def _frames(self, phantom: Phantom) -> torch.Tensor:
        return torch.from_numpy(preprocess(phantom.pixels, self._size, PIXEL_MEAN, PIXEL_STD))

    def _state(self, phantom: Phantom, frames: torch.Tensor) -> dict[str, Any]:
        return official_state(
            self._predictor, frames.to(self._device), *map(int, phantom.pixels.shape[1:])
        )

    def _mixed(self) -> AbstractContextManager[object]:
        if self._autocast is None:
            return nullcontext()
        return torch.autocast(torch.device(self._device).type, self._autocast)

    def _filled(self) -> AbstractContextManager[object]:
        if not self._is_warm:
            self._is_warm = True
            return holes_filled()
        if find_spec("sam2._C") is None:
            self._predictor.fill_hole_area = 0
        return nullcontext()

    def _timed(self, do: Callable[[], object]) -> float:
        return timed_ms(do, self._device)

    def _prompt(self, state: Any, phantom: Phantom, object_id: int) -> None:
        middle = len(phantom.pixels) // 2
        box = phantom.box(middle, (object_id - 1) % NUM_OBJECTS + 1)
        corners = np.array([box.x[0], box.y[0], box.x[1] - 1, box.y[1] - 1], np.float32)
        self._predictor.add_new_points_or_box(state, middle, object_id, box=corners)


def holes_filled() -> AbstractContextManager[object]:
    """Within it, upstream has the connected components that it otherwise has with its compiled extension only."""
    return mock.patch("sam2.utils.misc.get_connected_components", _connected_components)


def _connected_components(masks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Labels and areas of the 8-connected components of masks (n, 1, h, w)."""
    labels = torch.zeros_like(masks, dtype=torch.int32)
    areas = torch.zeros_like(labels)
    for i, mask in enumerate(masks[:, 0].cpu().numpy()):
        components, _ = scipy.ndimage.label(mask, EIGHT_CONNECTED)
        sizes = np.bincount(components.ravel())
        sizes[0] = 0
        labels[i, 0] = torch.from_numpy(components.astype(np.int32))
        areas[i, 0] = torch.from_numpy(sizes[components].astype(np.int32))
    return labels, areas


def _low_res(state: Any, index: int, object_id: int) -> np.ndarray:
    outputs = state["output_dict_per_obj"][state["obj_id_to_idx"][object_id]]
    output = outputs["cond_frame_outputs"].get(index) or outputs["non_cond_frame_outputs"][index]
    return output["pred_masks"][0, 0].float().cpu().numpy()


def _is_released(variant: Variant) -> bool:
    is_sam2 = isinstance(variant.trunk, HieraTrunk)
    return is_sam2 and variant.name.rpartition("_")[2] in ("t", "s", "b+", "l")


def _config(variant: Variant) -> str:
    family = "sam2.1" if variant.is_2_1 else "sam2"
    size = variant.name.rpartition("_")[2] if _is_released(variant) else "t"
    return f"configs/{family}/{family}_hiera_{size}.yaml"


def _numbers(variant: Variant) -> list[str]:
    """Overrides of the tiny configuration; a released size is taken as its own file has it."""
    if _is_released(variant):
        return []
    attention, encoder = "++model.memory_attention", "++model.memory_encoder"
    d, m = variant.d_model, variant.mem_dim
    return [
        *_encoder_numbers(variant),
        f"++model.use_high_res_features_in_sam={str(variant.trunk.has_high_res).lower()}",
        f"{attention}.d_model={d}",
        f"{attention}.layer.d_model={d}",
        f"{attention}.layer.dim_feedforward={variant.memory_mlp_dim}",
        f"{attention}.layer.self_attention.embedding_dim={d}",
        f"{attention}.layer.cross_attention.embedding_dim={d}",
        f"{attention}.layer.cross_attention.kv_in_dim={m}",
        f"{attention}.num_layers={variant.memory_layers}",
        f"++model.memory_encoder.in_dim={d}",
        f"{encoder}.out_dim={m}",
        f"{encoder}.position_encoding.num_pos_feats={m}",
        f"{encoder}.mask_downsampler.embed_dim={d}",
        f"{encoder}.fuser.layer.dim={d}",
    ]


def _encoder_numbers(variant: Variant) -> list[str]:
    """Of SAM 2's own kind of encoder; another is built apart."""
    numbers, d = variant.trunk, variant.d_model
    if not isinstance(numbers, HieraTrunk):
        return []
    trunk, neck = "++model.image_encoder.trunk", "++model.image_encoder.neck"
    return [
        f"{trunk}.embed_dim={numbers.embed_dim}",
        f"{trunk}.num_heads={numbers.num_heads}",
        f"{trunk}.stages={list(numbers.stages)}",
        f"{trunk}.global_att_blocks={list(numbers.global_att_blocks)}",
        f"{trunk}.window_spec={list(numbers.window_spec)}",
        f"{trunk}.window_pos_embed_bkg_spatial_size={[numbers.pos_embed_size] * 2}",
        f"{neck}.position_encoding.num_pos_feats={d}",
        f"{neck}.d_model={d}",
        f"{neck}.backbone_channel_list={list(reversed(numbers.stage_dims))}",
    ]
