"""Static batches: diffusers' pipeline behind LitServe.

A pipeline call has one number of steps and one guidance scale, so a batch of mixed requests is split. `--policy`:
- `exact`: into groups of equal steps and guidance, so that every request gets what it asked for;
- `longest`: into guided and unguided, each painted with the most steps that any of its requests asked for (more than asked,
  and another image than the same request paints alone).

`python -m benchmarks.peers.litserve_server --folder demo/weights/painter --port 8002 --torch-threads 2 --workers 1 --max-batch-size 16
--batch-timeout-s 0.01 --policy exact`
"""

import argparse
from collections import defaultdict
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import litserve

from benchmarks.loads.wishes import Wish
from benchmarks.peers.library_painter import LibraryPainter, answer_of, wish_of

EXACT, LONGEST = "exact", "longest"


class PaintApi(litserve.LitAPI):
    def __init__(self, folder: Path, torch_threads: int, policy: str, **batching: Any) -> None:
        super().__init__(api_path="/paint", **batching)
        self._folder, self._torch_threads, self._policy = folder, torch_threads, policy

    def setup(self, device: str) -> None:
        self._painter = LibraryPainter(self._folder, torch_threads=self._torch_threads)

    def decode_request(self, request: dict[str, Any]) -> Wish:
        return wish_of(request)

    def batch(self, inputs: list[Wish]) -> list[Wish]:
        return inputs

    def predict(self, x: list[Wish]) -> list[bytes]:
        pngs: dict[int, bytes] = {}
        for places in _groups(x, self._policy):
            group = [x[place] for place in places]
            painted = self._painter.paint(group, steps=max(wish.steps for wish in group))
            pngs.update(zip(places, painted, strict=True))
        return [pngs[place] for place in range(len(x))]

    def unbatch(self, output: list[bytes]) -> list[bytes]:
        return output

    def encode_response(self, output: bytes) -> dict[str, str]:
        return answer_of(output)


def _groups(batch: list[Wish], policy: str) -> list[list[int]]:
    """Places in the batch that share a pipeline call."""
    groups: dict[Hashable, list[int]] = defaultdict(list)
    for place, wish in enumerate(batch):
        groups[(wish.guidance, wish.steps if policy == EXACT else None)].append(place)
    return list(groups.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--torch-threads", type=int, required=True, help="of each worker")
    parser.add_argument("--workers", type=int, required=True)
    parser.add_argument("--max-batch-size", type=int, required=True)
    parser.add_argument("--batch-timeout-s", type=float, required=True)
    parser.add_argument("--policy", choices=[EXACT, LONGEST], required=True)
    given = parser.parse_args()
    api = PaintApi(
        given.folder,
        given.torch_threads,
        given.policy,
        max_batch_size=given.max_batch_size,
        batch_timeout=given.batch_timeout_s,
    )
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=given.workers, timeout=False)
    server.run(host="127.0.0.1", port=given.port, num_api_servers=1, generate_client_file=False, log_level="warning")


if __name__ == "__main__":
    main()
