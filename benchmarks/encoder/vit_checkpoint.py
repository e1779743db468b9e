"""An open_clip checkpoint with the vision tower of ViT-B-32 and random weights, in the files that such checkpoints have.

The text tower is as small as it may be, since images never visit it. A tower's speed doesn't depend on what it has learnt.
"""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
from PIL import Image

MODEL = {
    "embed_dim": 512,
    "vision_cfg": {"image_size": 224, "layers": 12, "width": 768, "patch_size": 32},
    "text_cfg": {"context_length": 8, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 1},
}
PREPROCESS = {
    "mean": [0.48145466, 0.4578275, 0.40821073],
    "std": [0.26862954, 0.26130258, 0.27577711],
    "interpolation": "bicubic",
    "resize_mode": "shortest",
}


def save_vit(folder: Path) -> Path:
    """About 350 MB in float32."""
    import torch

    from stages.device.torchvision_shim import ensure_torchvision
    from stages.vision.clip.tower import CONFIG_FILE, WEIGHTS_FILE

    ensure_torchvision()
    from open_clip.model import CLIP
    from safetensors.torch import save_file

    torch.manual_seed(0)
    model = CLIP(**MODEL)
    (folder / CONFIG_FILE).write_text(json.dumps({"model_cfg": MODEL, "preprocess_cfg": PREPROCESS}))
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, folder / WEIGHTS_FILE)
    return folder


def image(seed: int, side: int = 224) -> bytes:
    """A PNG of smooth noise, another for each seed."""
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).resize((side, side), Image.Resampling.BILINEAR).save(out, "PNG")
    return out.getvalue()
