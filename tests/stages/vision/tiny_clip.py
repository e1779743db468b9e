"""A tiny open_clip model and a projector for it, in the folders in which the demo weights come."""

import hashlib
import io
import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

from stages.device.torchvision_shim import ensure_torchvision
from stages.vision.clip.projector import Projector, ProjectorConfig
from stages.vision.clip.tower import CONFIG_FILE, WEIGHTS_FILE

MODEL = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 32, "layers": 3, "width": 48, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 12, "vocab_size": 49408, "width": 24, "heads": 2, "layers": 2},
}
PREPROCESS = {"mean": [0.5] * 3, "std": [0.25] * 3, "interpolation": "bicubic", "resize_mode": "shortest"}


def save_clip(folder: Path, seed: int = 0) -> Path:
    ensure_torchvision()
    from open_clip.model import CLIP

    torch.manual_seed(seed)
    folder.mkdir(parents=True, exist_ok=True)
    model = CLIP(**MODEL)
    (folder / CONFIG_FILE).write_text(json.dumps({"model_cfg": MODEL, "preprocess_cfg": PREPROCESS}))
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, folder / WEIGHTS_FILE)
    return folder


def save_projector(folder: Path, clip: Path, *, text_width: int = 40, vision_width: int = 48, layer: int = -2) -> Path:
    torch.manual_seed(1)
    config = ProjectorConfig(
        image_token="<image>",
        num_image_tokens=16,
        vision_width=vision_width,
        text_width=text_width,
        hidden_width=32,
        vision_layer=layer,
        clip_fingerprint=hashlib.sha256((clip / WEIGHTS_FILE).read_bytes()).hexdigest(),
    )
    Projector(config).save(folder, dtype=torch.float32)
    return folder


def image(seed: int, width: int = 40, height: int = 30) -> bytes:
    """A PNG of smooth noise."""
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR).save(out, "PNG")
    return out.getvalue()
