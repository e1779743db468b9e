"""A served Triptych that remembers everything that it can, over two Redis servers of the test's own, for several tenants; and what each of
them asks."""

import base64
import hashlib
import io
import json
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cache.redis.redis_store import NAMESPACE
from demo.held_out import example
from tests.cache.redis_server import RedisServer
from tests.cache.slow_line import SlowLine
from tests.cluster.server import PATIENT, WAIT_S, Server, eventually, served, shipped_config

SEE, PAINT = "triptych-see", "triptych-paint"
LLM, ENCODER = f"{SEE}.llm", f"{SEE}.vision_encoder"
DENOISER, TEXTS, LATENTS = f"{PAINT}.denoiser", f"{PAINT}.text_encoder", f"{PAINT}.vae_encoder"
OPERATOR = "operator"
TENANTS = (OPERATOR, *(f"tenant-{number}" for number in range(64)))
PAGE_TOKENS = 64
STEPS = 6
STILL_S = 2.5
"""Stages tell of what is new every second, and are asked twice a second at most."""
SHARED = {"replica", "batch_size", "cache", "bytes_moved"}
"""What of a receipt tells of others."""
USAGE = f"{NAMESPACE}:usage:"
"""What the HTTP replicas' own totals have names with."""

_BOXES = ("red", "blue", "green", "yellow", "white", "black", "brown", "pink", "gray", "orange")
LONG_TEXT = " ".join(
    f"The {colour} box stands in room {number} and holds {number + 3} apples, {number + 5} pears and {number + 7} nuts."
    for number, colour in enumerate(_BOXES)
)
"""Some pages."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a chat was answered."""

    text: str
    prompt_tokens: int
    cached_tokens: int
    stages: Mapping[str, Mapping[str, Any]]

    @property
    def num_pages(self) -> int:
        """Full ones of its prompt, of which the last token is computed in any case."""
        return (self.prompt_tokens - 1) // PAGE_TOKENS


@dataclass(frozen=True, slots=True)
class Painting:
    """`pixels`: [height, width, 3], signed so that differences can be taken."""

    pixels: NDArray[np.int64]
    stages: Mapping[str, Mapping[str, Any]]


class Tenant:
    """Whoever has this key. Asked twice for the same, an answer is the same."""

    def __init__(self, url: str, name: str) -> None:
        self.name = name
        self._http = httpx.Client(
            base_url=url, timeout=WAIT_S, trust_env=False, headers={"authorization": f"Bearer {key_of(name)}", **PATIENT}
        )

    def ask(self, question: str = "What does the red box hold?", text: str = LONG_TEXT) -> Answer:
        """About a long text."""
        return self._chat([{"role": "system", "content": text}, {"role": "user", "content": question}])

    def look(self, image: bytes) -> Answer:
        address = "data:image/png;base64," + base64.b64encode(image).decode()
        content = [{"type": "image_url", "image_url": {"url": address}}, {"type": "text", "text": example().question}]
        return self._chat([{"role": "user", "content": content}])

    def paint(self, steps: int = STEPS, seed: int = 11) -> Painting:
        body = {"model": PAINT, "prompt": example().sentence, "seed": seed, "num_inference_steps": steps}
        return _painting(self._sound(self._http.post("/v1/images/generations", json=body)))

    def edit(self, image: bytes) -> Painting:
        data = {
            "model": PAINT,
            "prompt": example().sentence,
            "seed": "11",
            "num_inference_steps": str(STEPS),
            "strength": "0.6",
        }
        files = {"image": ("image.png", image)}
        return _painting(self._sound(self._http.post("/v1/images/edits", data=data, files=files)))

    def steps_of_a_painting(self, steps: int, seed: int) -> Iterator[int]:
        """As its progress is told."""
        body = {"model": PAINT, "prompt": example().sentence, "seed": seed, "num_inference_steps": steps, "stream": True}
        with self._http.stream("POST", "/v1/images/generations", json=body | {"triptych": {"progress": True}}) as response:
            assert response.status_code == 200, response.read()
            for line in response.iter_lines():
                event = json.loads(line.removeprefix("data: ")) if line.startswith("data: {") else {}
                assert "error" not in event, event
                if event.get("type") == "triptych.progress":
                    yield event["step"]

    def _chat(self, messages: Sequence[Mapping[str, object]]) -> Answer:
        body = {"model": SEE, "messages": messages, "temperature": 0, "max_tokens": 8}
        found = self._sound(self._http.post("/v1/chat/completions", json=body))
        usage = found["usage"]
        return Answer(
            found["choices"][0]["message"]["content"],
            usage["prompt_tokens"],
            usage["prompt_tokens_details"]["cached_tokens"],
            _stages(found),
        )

    def _sound(self, response: httpx.Response) -> dict[str, Any]:
        assert response.status_code == 200, f"{self.name}: {response.status_code} {response.text[:500]}"
        found: dict[str, Any] = response.json()
        return found

    def close(self) -> None:
        self._http.close()


@dataclass(frozen=True, slots=True)
class Answers:
    """Of everything at once. `longest_s`: of one of them."""

    asked: Answer
    other: Answer
    looked: Answer
    painted: Painting
    edited: Painting
    longest_s: float

    def assert_same(self, others: "Answers") -> None:
        pairs = ((self.asked, others.asked), (self.other, others.other), (self.looked, others.looked))
        assert [one.text for one, _ in pairs] == [other.text for _, other in pairs]
        for one, other in ((self.painted, others.painted), (self.edited, others.edited)):
            assert np.abs(one.pixels - other.pixels).max() <= 2

    def receipts(self) -> list[Mapping[str, Any]]:
        all_of_it = (self.asked, self.other, self.looked, self.painted, self.edited)
        return [visit for one in all_of_it for visit in one.stages.values()]


def everything(tenant: Tenant, image: bytes) -> Answers:
    """A bounded load: one of each at once, and a second chat that begins as the first one."""
    asks = (tenant.ask, partial(tenant.ask, "Where does the blue box stand?"), partial(tenant.look, image))
    with ThreadPoolExecutor(8) as callers:
        began = time.monotonic()
        chats = [callers.submit(_timed, ask, began) for ask in asks]
        paintings = [callers.submit(_timed, paint, began) for paint in (tenant.paint, partial(tenant.edit, image))]
        (asked, other, looked), (painted, edited) = ([one.result() for one in those] for those in (chats, paintings))
    longest_s = max(one[1] for one in (asked, other, looked, painted, edited))
    return Answers(asked[0], other[0], looked[0], painted[0], edited[0], longest_s)


def _timed(ask: Any, began: float) -> tuple[Any, float]:
    return ask(), time.monotonic() - began


class Remembering:
    """The server, its tenants, and its Redis servers, of results and of pages, each at the end of a line."""

    def __init__(self, server: Server, results: RedisServer, pages: RedisServer, lines: Sequence[SlowLine]) -> None:
        self.server, self.results, self.pages, self.lines = server, results, pages, lines
        self._tenants: dict[str, Tenant] = {}
        self._free = iter(TENANTS[1:])
        server.http.headers["authorization"] = f"Bearer {key_of(OPERATOR)}"
        self.operator = self.tenant(OPERATOR)

    def stranger(self) -> Tenant:
        """A tenant who has never asked anything."""
        return self.tenant(next(self._free))

    def tenant(self, name: str) -> Tenant:
        return self._tenants.setdefault(name, Tenant(self.server.url, name))

    @property
    def stores(self) -> tuple[RedisServer, RedisServer]:
        return self.results, self.pages

    def keys(self) -> set[bytes]:
        """In both."""
        return keys_of(self.results) | keys_of(self.pages)

    def count(self, name: str, stage: str) -> float:
        """A counter of a stage, over its replicas, once they have reported: they do so every second."""
        self.settle()
        return self.server.counter(f"triptych_stage_{name}", stage)

    def settle(self) -> None:
        """Returns once every stage has told what it did up to now: its counters stand still."""
        told: list[str] = []
        since = time.monotonic()

        def still() -> bool:
            nonlocal told, since
            lines = [line for line in self.server.metrics() if line.startswith("triptych_stage_") and "_total{" in line]
            if lines != told:
                told, since = lines, time.monotonic()
            time.sleep(0.4)
            return time.monotonic() - since > STILL_S

        eventually(still, "the stages' counters stand still")

    def written(self, before: set[bytes], at_least: int) -> set[bytes]:
        """The new keys, once there are so many and no more come."""
        seen: list[set[bytes]] = []

        def done() -> bool:
            seen.append(self.keys() - before)
            time.sleep(0.3)
            return len(seen) > 2 and len(seen[-1]) >= at_least and seen[-1] == seen[-3]

        eventually(done, f"{at_least} values are written")
        return seen[-1]

    def close(self) -> None:
        for tenant in self._tenants.values():
            tenant.close()


@contextmanager
def remembering(folder: Path) -> Iterator[Remembering]:
    with ExitStack() as stack:
        stores = []
        for name in ("results", "pages"):
            (folder / name).mkdir()
            store = RedisServer(folder / name, tcp=True, maxmemory="512mb")
            stack.callback(store.kill)
            stores.append(store.start())
        results, pages = stores
        lines = [stack.enter_context(closing(SlowLine(folder / name / "s.sock"))) for name in ("results", "pages")]
        server = stack.enter_context(served(_config(folder, *(line.url for line in lines)), folder))
        yield stack.enter_context(closing(Remembering(server, results, pages, lines)))


def key_of(tenant: str) -> str:
    return f"{tenant}-key-{hashlib.sha256(tenant.encode()).hexdigest()}"


def fresh_png(seed: int) -> bytes:
    """An image that nobody has seen."""
    noise = np.random.default_rng(seed).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "PNG")
    return buffer.getvalue()


def _config(folder: Path, results: str, pages: str) -> dict[str, Any]:
    secret = folder / "secret"
    secret.write_text(secrets.token_hex(32))
    secret.chmod(0o600)
    config = shipped_config()
    application = config["applications"][0]
    application["name"] = "remembering"  # another server may run beside it
    args = application["args"]
    del args["models"]["triptych-clip"], args["deployments"]["clip"]
    args["models"][PAINT] |= {"keep_steps": [0.5], "remember_images": True}
    args["models"][SEE]["llm"] |= {"num_slots": 4}
    for part in (part for model in (SEE, PAINT) for part in args["models"][model].values() if isinstance(part, dict)):
        part["dtype"] = "float32"  # else an answer depends on what is beside it, where the CPU computes in half precision
    for name, deployment in args["deployments"].items():
        del deployment["autoscaling_config"]
        deployment["num_replicas"] = 2 if name in ("llm", "vision-encoder") else 1
    args["cache"] = {"redis": {"url": results}, "kv": {"redis": {"url": pages}}}
    keys = [{"tenant": name, "sha256": hashlib.sha256(key_of(name).encode()).hexdigest()} for name in TENANTS]
    args["auth"] = {"keys": keys, "secret_file": str(secret), "operators": [OPERATOR]}
    return config


def _stages(found: Mapping[str, Any]) -> Mapping[str, Mapping[str, Any]]:
    return {visit["stage"]: visit for visit in found["triptych"]["stages"]}


def _painting(found: Mapping[str, Any]) -> Painting:
    (image,) = found["data"]
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(image["b64_json"])))).astype(np.int64)
    return Painting(pixels, _stages(found))


def keys_of(store: RedisServer) -> set[bytes]:
    """Of results and pages: the server's own totals, and its lists of what it keeps, come and go when it likes."""
    with store.client() as client:
        return {key for key in client.scan_iter(count=1000, _type="string") if not key.startswith(USAGE.encode())}


@contextmanager
def keys_named_to(store: RedisServer) -> Iterator[set[str]]:
    """The keys of all that clients say to it, once the block has ended; but for the server's own totals of what tenants have used, of all
    of them in one value."""
    found: set[str] = set()
    end = f"end-{secrets.token_hex(4)}"
    with store.client() as client, client.monitor() as monitor:
        yield found
        with store.client() as other:
            other.exists(end)
        for command in monitor.listen():
            name, *arguments = command["command"].split(" ")
            if arguments[:1] == [end]:
                return
            if name.upper() in ("GET", "SET", "EXISTS", "GETRANGE", "UNLINK"):
                named = arguments if name.upper() in ("EXISTS", "UNLINK") else arguments[:1]
                found.update(key for key in named if not key.startswith(USAGE))


def hits(store: RedisServer) -> int:
    """How often a key that it was asked for was there."""
    with store.client() as client:
        return int(client.info("stats")["keyspace_hits"])
