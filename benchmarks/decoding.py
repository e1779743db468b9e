"""How long a decode goes on that nobody wants any more: the longest time between two looks at that, of an image of 25 million pixels
in each format. Beside it, what a process costs that could be killed in the middle.

`python -m benchmarks.decoding` (about 20 seconds). CPU times of one thread, so that the machine need not be quiet for the shape of it.
"""

from __future__ import annotations

import io
import subprocess
import sys
import time
from collections.abc import Mapping
from itertools import pairwise

import numpy as np
from PIL import Image

from benchmarks.reporting.command import results_folder, start
from benchmarks.reporting.report import Report
from stages.contract.wanted import wanted_while
from stages.images.image import decoded
from stages.images.pixel_budget import PixelBudget

SIDE, QUICK_SIDE = 5000, 1500
START = "import sys, numpy, PIL.Image; sys.stdout.buffer.write(b'x'); sys.stdout.flush(); sys.stdin.buffer.read()"


def files(side: int) -> Mapping[str, bytes]:
    """Flat: the fewest bytes, so that a block of the file holds the most pixels. Noise: the most bytes."""
    flat = Image.new("RGB", (side, side), (200, 30, 90))
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8))
    return {
        "PNG, flat": _saved(flat, "PNG"),
        "PNG, noise": _saved(noise, "PNG"),
        "PNG, transparent": _saved(flat.convert("RGBA"), "PNG"),
        "JPEG, flat": _saved(flat, "JPEG"),
        "JPEG, noise": _saved(noise, "JPEG"),
        "JPEG, progressive": _saved(noise, "JPEG", progressive=True),
        "GIF, flat": _saved(flat, "GIF"),
        "BMP": _saved(flat, "BMP"),
        "WebP, lossless, flat": _saved(flat, "WEBP", lossless=True),
        "WebP, lossy, noise": _saved(noise, "WEBP", method=0),
    }


def _saved(image: Image.Image, format: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, format, **options)
    return out.getvalue()


def between_looks(data: bytes, side: int) -> list[float]:
    """Seconds of this thread between one look and the next, of a whole decode."""
    looks = [time.thread_time()]

    def look() -> bool:
        looks.append(time.thread_time())
        return True

    with wanted_while(look), decoded(data, max_pixels=side * side, param="image", budget=PixelBudget(2 * side * side)):
        looks.append(time.thread_time())
    return [later - earlier for earlier, later in pairwise(looks)]


def process_s(num_bytes: int) -> tuple[float, float]:
    """Until a process is there that can decode; and until it has been sent as many bytes as the pixels have, by its pipe."""
    began = time.monotonic()
    process = subprocess.Popen([sys.executable, "-c", START], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdout.read(1)
    there = time.monotonic()
    process.stdin.write(bytes(num_bytes))
    process.stdin.close()
    process.wait()
    return there - began, time.monotonic() - there


def main() -> None:
    quick = start(__doc__)
    side = QUICK_SIDE if quick else SIDE
    report = Report("decoding", {"pixels": side * side})
    for name, data in files(side).items():
        times = between_looks(data, side)
        report.add(
            side=name,
            load=f"{len(data)} bytes",
            whole_ms=1000 * sum(times),
            longest_between_looks_ms=1000 * max(times),
            looks=len(times),
        )
    started_s, sent_s = process_s(3 * side * side)
    report.add(side="a process", load="start", whole_ms=1000 * started_s)
    report.add(side="a process", load="its pixels through a pipe", whole_ms=1000 * sent_s)
    report.publish(results_folder(quick=quick))


if __name__ == "__main__":
    main()
