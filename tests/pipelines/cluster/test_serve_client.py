"""What becomes of a request whose replica ends under it, without Ray: handles that answer as the test says."""

import pickle
import random
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from copy import copy
from typing import Any

import grpc
import numpy as np
import pytest
import ray.exceptions
import ray.serve.exceptions
from ray.serve._private.common import DeploymentID

from pipelines.client import Again, Rest
from pipelines.cluster.attempts import MAX_FULL, MAX_LOST, MAX_UNREADABLE
from pipelines.cluster.pieces import pieces
from pipelines.cluster.serve_client import ServeStageClient
from pipelines.ingress.request.errors import answer_to
from pipelines.routing.route import Route
from pipelines.routing.table import Member, ReplicaTable, pool_key
from stages.contract.errors import Broken, DeadlineExceeded, QueueFull, ReplicaLost, StageFailed, Unavailable, Unreadable
from stages.contract.item import Item, ReplicaEnded, Reply, StageReceipt, StreamEnd
from stages.contract.message import KNOWN, Unread
from stages.diffusion.messages import DecodeLatents, Latents, Pixels
from stages.vision.messages import EmbedInput, EncodeImage

REPLY = Reply(Pixels(np.zeros((1, 1, 3), np.uint8)), StageReceipt("stage", pool="d"))
BROKEN = ray.exceptions.RayTaskError("call", "traceback", Broken("its device broke"))
BROKEN_TOO = ray.exceptions.RayTaskError("call", "traceback", Broken("its device broke", detail="replica b"))
REFUSED = ray.exceptions.RayTaskError("call", "traceback", Unavailable("about to be replaced"))
FAILED = ray.exceptions.RayTaskError("call", "traceback", StageFailed("bad luck"))
DIED, DIED_TOO = ray.exceptions.RayActorError("a"), ray.exceptions.RayActorError("b")
GONE = ray.exceptions.ActorUnavailableError("", b"\x01" * 16)  # as a call by gRPC tells of any end
NODE = ray.exceptions.RayActorError("c", "The actor died because its node has died. Node Id: 1234")
PREEMPTED = ray.exceptions.RayActorError("d", preempted=True)
NODE_TOO = ray.exceptions.NodeDiedError("unreachable")
STRANGE = ray.exceptions.RayTaskError("call", "traceback", Unreadable("Generate has no field 'x' here"))
UNPICKLED = ray.exceptions.RaySystemError(AttributeError("no attribute 'read_message'"), "traceback")  # as Ray tells of it
ARGUMENTS = ray.exceptions.RayTaskError("call", "traceback", UNPICKLED)
BY_GRPC = grpc.aio.AioRpcError(
    grpc.StatusCode.UNKNOWN, grpc.aio.Metadata(), grpc.aio.Metadata(), "Unexpected <class 'AttributeError'>: no attribute"
)  # as its server tells of arguments that it could not unpickle
FULL = ray.exceptions.RayTaskError("call", "traceback", QueueFull("no room", retry_after_s=2))
AWAY = ray.serve.exceptions.DeploymentUnavailableError("d")


class Response:
    def __init__(self, answer: object) -> None:
        self._answer, self.is_called_off = answer, False

    def __await__(self) -> Any:
        if isinstance(self._answer, Exception):
            raise self._answer
        return self._answer
        yield

    async def __aiter__(self) -> AsyncIterator[Sequence[object] | bytes | Reply[Any]]:
        for event in self._answer if isinstance(self._answer, tuple) else (self._answer,):
            if isinstance(event, Exception):
                raise event
            yield event if isinstance(event, bytes | Reply) else [event]

    def cancel(self) -> None:
        self.is_called_off = True


class Handle:
    """A deployment whose answers are known beforehand; the last one is given again and again."""

    app_name = "app"

    def __init__(self, *answers: object) -> None:
        self._answers = answers
        self.responses: list[Response] = []

    @property
    def num_calls(self) -> int:
        return len(self.responses)

    def options(self, **options: object) -> "Handle":
        return self

    def remote(self, stage: str, item: Item[Any], to: object = None) -> Response:
        self.responses.append(Response(self._answers[min(self.num_calls, len(self._answers) - 1)]))
        return self.responses[-1]


def client(handle: Any) -> ServeStageClient:
    return ServeStageClient({"d": handle}, {"stage": ["d"]})


def anew() -> Rest:
    return Rest(None, None)


async def streamed(handle: Handle, again: Again | None = None) -> list[object]:
    stream = client(handle).stream("stage", Item("id", None), again=again)
    return [event async for events in stream for event in events if not isinstance(event, ReplicaEnded)]


@pytest.mark.parametrize("ended", [BROKEN, REFUSED, DIED, BROKEN.cause, REFUSED.cause, GONE])
async def test_what_has_shown_nothing_is_run_again(ended: Exception) -> None:
    assert await client(Handle(ended, REPLY)).call("stage", Item("id", None)) == REPLY
    assert await streamed(Handle(ended, (1, 2))) == [1, 2]


@pytest.mark.parametrize("ended", [BROKEN, DIED, BROKEN.cause, GONE])
async def test_a_stream_that_has_shown_something_ends_unless_it_can_start_anew(ended: Exception) -> None:
    with pytest.raises(Unavailable):
        await streamed(Handle((1, ended), (1, 2)))
    assert await streamed(Handle((1, ended), (1, 2)), anew) == [1, 1, 2]


async def test_a_stream_is_over_with_its_last_word_and_whatever_becomes_of_its_replica_then() -> None:
    handle = Handle((1, StreamEnd(StageReceipt("stage"))), AWAY)
    later = Handle((1, StreamEnd(StageReceipt("stage")), DIED), AWAY)
    for one in (handle, later):
        *_, end = await streamed(one)
        assert isinstance(end, StreamEnd)
        assert [response.is_called_off for response in one.responses] == [False]


async def test_a_stream_that_nobody_reads_any_more_is_called_off() -> None:
    handle = Handle((1, 2))
    async with aclosing(client(handle).stream("stage", Item("id", None))) as events:
        await anext(events)
    assert [response.is_called_off for response in handle.responses] == [True]


@pytest.mark.parametrize(
    "ended",
    [
        (BROKEN, BROKEN_TOO),
        (DIED, DIED_TOO),
        (DIED, BROKEN),
        (BROKEN, REFUSED, DIED),
        (GONE, BROKEN.cause),
        (REFUSED.cause, GONE, DIED),
    ],
)
async def test_a_request_that_ends_a_second_replica_is_given_up(ended: Sequence[Exception]) -> None:
    handle = Handle(*ended, REPLY)
    with pytest.raises(ReplicaLost):
        await client(handle).call("stage", Item("id", None))
    assert handle.num_calls == len(ended)
    handle = Handle(*ended, (1, 2))
    with pytest.raises(ReplicaLost):
        await streamed(handle, anew)
    assert handle.num_calls == len(ended)


async def test_pieces_of_one_request_count_together_and_one_replica_counts_once() -> None:
    lost: set[str] = set()
    assert await client(Handle(DIED, REPLY)).call("stage", Item("id", None), lost=lost) == REPLY
    assert await client(Handle(DIED, REPLY)).call("stage", Item("id", None), lost=lost) == REPLY  # the same one
    with pytest.raises(ReplicaLost):
        await client(Handle(DIED_TOO, REPLY)).call("stage", Item("id", None), lost=lost)


@pytest.mark.parametrize("ended", [NODE, NODE_TOO, PREEMPTED])
async def test_what_went_with_its_node_is_not_held_against_the_request(ended: Exception) -> None:
    handle = Handle(ended, DIED, ended, REPLY)
    assert await client(handle).call("stage", Item("id", None)) == REPLY


async def test_where_a_replica_was_lost_and_no_other_is_there_the_client_is_not_to_try_again() -> None:
    with pytest.raises(ReplicaLost):
        await client(Handle(DIED, AWAY)).call("stage", Item("id", None))
    with pytest.raises(Unavailable):
        await client(Handle(AWAY)).call("stage", Item("id", None))
    with pytest.raises(QueueFull):  # those in the queue are not the request's fault
        await client(Handle(DIED, FULL)).call("stage", Item("id", None))


class Room:
    """A pool of replicas that have no room, but for some; each is known by its number. `refusal`: what the others say."""

    def __init__(self, num_replicas: int, with_room: Sequence[str], refusal: Exception = FULL) -> None:
        self.with_room, self.asked, self._refusal = with_room, list[str](), refusal
        self._has_room: object = None
        self.table = ReplicaTable(random.Random(1).random)
        members = [Member(str(number), 8) for number in range(num_replicas)]
        self.table.members(pool_key("app", "d"), members, lambda replica: None, 0.0)
        self.client = ServeStageClient({"d": self}, {"stage": ["d"]}, table=self.table)

    app_name = "app"

    def options(self, **options: object) -> "Room":
        method = copy(self)
        method._has_room = ("events",) if options["method_name"] == "stream" else REPLY
        return method

    def remote(self, stage: str, item: object, to: Route) -> Response:
        self.asked.append(to.replica)
        return Response(self._has_room if to.replica in self.with_room else self._refusal)


@pytest.mark.parametrize("refusal", [FULL, FULL.cause])
@pytest.mark.parametrize("method", ["call", "stream"])
async def test_while_another_replica_may_have_room_a_full_one_refuses_nobody(
    method: str, refusal: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def ask(room: Room) -> None:
        if method == "call":
            await room.client.call("stage", Item("id", None))
        else:
            assert [event async for events in room.client.stream("stage", Item("id", None)) for event in events]

    pauses: list[float] = []

    async def paused(delay: float) -> None:
        pauses.append(delay)

    monkeypatch.setattr("pipelines.cluster.attempts.asyncio.sleep", paused)
    for number in "012":
        room = Room(3, [number], refusal)
        await ask(room)
        assert room.asked[-1] == number
        assert len(set(room.asked)) == len(room.asked)
        assert not room.table.demand()
    for num_replicas, num_asked in ((1, 1), (2, 2), (9, MAX_FULL + 1)):
        room = Room(num_replicas, (), refusal)
        with pytest.raises(QueueFull, match="no room"):
            await ask(room)
        assert len(set(room.asked)) == len(room.asked) == num_asked
    assert not any(pauses)


@pytest.mark.parametrize("unread", [STRANGE, STRANGE.cause, ARGUMENTS, UNPICKLED, BY_GRPC, Unread("of another version")])
async def test_what_one_replica_can_not_read_or_tells_so_that_nobody_here_can_is_asked_of_another(
    unread: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(KNOWN, "has_met_unread", isinstance(unread, Unread))  # as where it was unpickled here
    assert await client(Handle(unread, REPLY)).call("stage", Item("id", None)) == REPLY
    assert await streamed(Handle(unread, (1, 2))) == [1, 2]
    assert await streamed(Handle((1, unread), (1, 2)), anew) == [1, 1, 2]
    with pytest.raises(Unreadable):
        await streamed(Handle((1, unread), (1, 2)))


@pytest.mark.parametrize("unread", [STRANGE, STRANGE.cause, ARGUMENTS, UNPICKLED, BY_GRPC])
async def test_what_none_can_read_is_refused_after_a_few(unread: Exception) -> None:
    handle = Handle(unread)
    with pytest.raises(Unreadable) as refused:
        await client(handle).call("stage", Item("id", None))
    assert handle.num_calls == MAX_UNREADABLE
    answer = answer_to(refused.value)
    assert (answer.status, answer.retry) == (503, None)
    handle = Handle(unread)
    with pytest.raises(Unreadable):
        await streamed(handle)
    assert handle.num_calls == MAX_UNREADABLE


@pytest.mark.parametrize(("num_replicas", "num_asked"), [(1, 1), (2, 2), (9, MAX_UNREADABLE)])
async def test_of_replicas_that_are_known_each_is_asked_once_whether_it_can_read(num_replicas: int, num_asked: int) -> None:
    room = Room(num_replicas, (), STRANGE)
    with pytest.raises(Unreadable, match="no field 'x'"):
        await room.client.call("stage", Item("id", None))
    assert len(set(room.asked)) == len(room.asked) == num_asked
    for number in "012":
        room = Room(3, [number], STRANGE)
        assert (await room.client.call("stage", Item("id", None))).receipt.replica == REPLY.receipt.replica
        assert room.asked[-1] == number


@pytest.mark.parametrize("refused", [REFUSED, REFUSED.cause])
async def test_a_refusal_costs_no_attempt(refused: Exception) -> None:
    handle = Handle(*[refused] * (MAX_LOST + 1), REPLY)
    assert await client(handle).call("stage", Item("id", None)) == REPLY


async def test_what_is_told_in_pieces_that_nobody_here_can_unpickle_is_asked_of_another() -> None:
    torn = b"\x00" + pickle.dumps(["event"])[:-3]
    assert await streamed(Handle((torn,), (1, 2))) == [1, 2]


@pytest.mark.parametrize(
    "bug", [AttributeError("none"), ray.exceptions.RayTaskError("call", "traceback", ImportError("none"))]
)
async def test_a_fault_of_the_code_is_no_matter_of_versions(bug: Exception) -> None:
    handle = Handle(bug)
    with pytest.raises(StageFailed):
        await streamed(handle)
    assert handle.num_calls == 1


async def test_a_request_that_is_only_refused_ends_with_its_time() -> None:
    with pytest.raises(DeadlineExceeded):
        await client(Handle(REFUSED)).call("stage", Item("id", None, deadline=time.time() + 0.2))


async def test_a_time_limit_of_the_calls_own_is_no_deadline_of_the_request() -> None:
    there = ray.exceptions.RayTaskError("call", "traceback", TimeoutError("of a lock"))
    for error in (TimeoutError("of a lock"), there.as_instanceof_cause()):
        with pytest.raises(StageFailed):
            await client(Handle(error)).call("stage", Item("id", None))
        with pytest.raises(StageFailed):
            await streamed(Handle(error))


async def test_a_stages_own_deadline_is_told_as_the_stage_told_it() -> None:
    late = DeadlineExceeded("it was in the line")
    error = ray.exceptions.RayTaskError("call", "traceback", late).as_instanceof_cause()
    with pytest.raises(DeadlineExceeded) as caught:
        await client(Handle(error)).call("stage", Item("id", None))
    assert type(caught.value) is DeadlineExceeded
    with pytest.raises(DeadlineExceeded) as caught:
        await streamed(Handle(error))
    assert type(caught.value) is DeadlineExceeded


async def test_a_stages_failure_is_not_tried_again() -> None:
    handle = Handle(FAILED)
    with pytest.raises(StageFailed, match="bad luck"):
        await client(handle).call("stage", Item("id", None))
    assert handle.num_calls == 1


class Ways(Handle):
    """Notes by which way each call goes."""

    def __init__(self, *answers: object, method: str = "", by_grpc: bool | None = None, told: "Ways | None" = None) -> None:
        super().__init__(*answers)
        self._method, self._by_grpc, self._told = method, by_grpc, told or self
        self.ways: list[tuple[str, bool]] = []

    def options(self, **options: Any) -> "Ways":
        assert options["stream"] == (options["method_name"] != "call")
        return Ways(method=options["method_name"], by_grpc=not options["_by_reference"], told=self._told)

    def remote(self, stage: str, item: Item[Any], to: object = None) -> Response:
        assert self._by_grpc is not None
        self._told.ways.append((self._method, self._by_grpc))
        return Handle.remote(self._told, stage, item, to)


LARGE = Reply(Pixels(np.zeros((1024, 512, 3), np.uint8)), StageReceipt("stage"))
OF_BEFORE = ray.serve.exceptions.RayServeException(
    "Tried to call a method 'answer' that does not exist. Available methods: ['call', 'stream']."
)


async def test_small_things_go_by_grpc_and_large_ones_by_objects_whatever_serves_default_is() -> None:
    handle = Ways(REPLY, LARGE, LARGE, REPLY, REPLY)
    calling = client(handle)
    for _ in range(5):
        await calling.call("stage", Item("id", None))
    assert [is_small for _, is_small in handle.ways] == [True, True, False, False, True]  # as what was answered last
    assert [method for method, _ in handle.ways] == ["answer", "answer", "call", "call", "answer"]
    item = Item("id", DecodeLatents(Latents(np.zeros((4, 512, 512), np.float32))))
    handle.ways.clear()
    await calling.call("stage", item)
    await calling.call("stage", Item("id", EncodeImage(bytes(2**20), max_pixels=1)))
    await calling.call("stage", Item("id", EmbedInput(text="a" * 2**20)))
    assert handle.ways == [("call", False)] * 3
    streams = Ways((1, 2))
    assert await streamed(streams) == [1, 2]
    assert streams.ways == [("stream", True)]


async def test_a_replica_of_a_version_that_knows_no_answers_in_pieces_is_called_as_before() -> None:
    handle = Ways(OF_BEFORE, REPLY, REPLY)
    calling = client(handle)
    for _ in range(2):
        assert await calling.call("stage", Item("id", None)) == REPLY
    assert handle.ways == [("answer", True), ("call", False), ("call", False)]


async def test_a_deployment_called_answer_that_is_away_is_no_version_of_before() -> None:
    """Serve names it in its error."""
    with pytest.raises(Unavailable):
        await client(Ways(ray.serve.exceptions.DeploymentUnavailableError(DeploymentID("answer", "app")))).call(
            "stage", Item("id", None)
        )


async def test_an_answer_that_breaks_off_is_asked_for_again() -> None:
    handle = Handle(tuple(pieces(LARGE))[:1], REPLY)
    assert await client(handle).call("stage", Item("id", None)) == REPLY
