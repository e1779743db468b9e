"""Values that clients come back for: whose they are, how much one tenant keeps, and what nobody else can do about them."""

import pytest

from cache.store import MemoryStore, StoreDown
from pipelines.ingress.kept.kept_values import KeptFull, Kind, Listed, is_id, new_id
from pipelines.ingress.tenants.auth import Caller
from stages.contract.errors import Unavailable
from tests.pipelines.ingress.kept.workers import ADA, BOB, Clock, SharedStore, values_in

FILE = Kind("file", "files", keep_s=60, max_bytes=100, max_items=3, setting="ingress.kept.files")
IMAGE = Kind("image", "images", keep_s=60, max_bytes=100, max_items=3, makes_room=True)


async def test_a_value_is_its_owners_alone() -> None:
    values = values_in(MemoryStore(10**6))
    assert await values.put(FILE, "a", b"hers", ADA)
    assert await values.put(FILE, "a", b"his", BOB)
    assert [await values.get(FILE, "a", owner) for owner in (ADA, BOB)] == [b"hers", b"his"]
    assert await values.get(IMAGE, "a", ADA) is None
    await values.delete(FILE, "a", BOB)
    assert [await values.get(FILE, "a", owner) for owner in (ADA, BOB)] == [b"hers", None]
    assert (await values.listed(FILE, ADA), await values.listed(FILE, BOB)) == ([Listed("a", 4)], [])


async def test_an_id_that_is_taken_is_not_taken_again_and_its_value_may_be_replaced() -> None:
    values = values_in(MemoryStore(10**6))
    assert await values.put(FILE, "a", b"one", ADA)
    assert not await values.put(FILE, "a", b"two", ADA)
    assert await values.get(FILE, "a", ADA) == b"one"
    assert await values.replace(FILE, "a", b"three", ADA)
    assert await values.get(FILE, "a", ADA) == b"three"


async def test_what_was_deleted_is_not_brought_back_by_who_writes_it_anew() -> None:
    values = values_in(MemoryStore(10**6))
    await values.put(FILE, "a-0", b"one", ADA)
    await values.put(FILE, "ab", b"another's", ADA)
    await values.delete_all(FILE, "a-", ADA)
    assert not await values.replace(FILE, "a-0", b"two", ADA)
    assert [await values.get(FILE, id, ADA) for id in ("a-0", "ab")] == [None, b"another's"]
    assert await values.listed(FILE, ADA) == [Listed("ab", 9)]


async def test_the_newest_is_listed_first_and_what_is_over_not_at_all() -> None:
    clock = Clock()
    values = values_in(SharedStore(10**6, clock))
    for name in ("a", "b"):
        await values.put(FILE, name, b"1", ADA)
        clock.now += 20
    assert [listed.id for listed in await values.listed(FILE, ADA)] == ["b", "a"]
    clock.now += 30
    assert [listed.id for listed in await values.listed(FILE, ADA)] == ["b"]
    assert await values.get(FILE, "a", ADA) is None


async def test_a_tenant_that_keeps_too_much_is_refused_or_its_oldest_make_room() -> None:
    values = values_in(MemoryStore(10**6))
    for number in range(3):
        await values.put(FILE, f"f{number}", b"1" * 10, ADA)
        await values.put(IMAGE, f"i{number}", b"1" * 10, ADA)
    with pytest.raises(KeptFull, match=r"3 files of 30 bytes are kept; at most 3 of 100 bytes are \(ingress\.kept\.files\)"):
        await values.put(FILE, "more", b"", ADA)
    await values.put(FILE, "more", b"", BOB)
    await values.put(IMAGE, "more", b"1" * 85, ADA)
    assert [listed.id for listed in await values.listed(IMAGE, ADA)] == ["more", "i2"]
    assert await values.get(IMAGE, "i0", ADA) is None
    await values.put(IMAGE, "huge", b"1" * 1000, ADA)
    assert [listed.id for listed in await values.listed(IMAGE, ADA)] == ["huge"]


async def test_an_id_that_is_taken_needs_no_room() -> None:
    values = values_in(MemoryStore(10**6))
    for number in range(3):
        await values.put(FILE, f"f{number}", b"1", ADA)
        await values.put(IMAGE, f"i{number}", b"1", ADA)
    assert not await values.put(FILE, "f1", b"1", ADA)
    assert not await values.put(IMAGE, "i1", b"1", ADA)
    assert [listed.id for listed in await values.listed(IMAGE, ADA)] == ["i2", "i1", "i0"]


async def test_what_is_kept_at_anothers_expense_takes_that_ones_room() -> None:
    values, server = values_in(MemoryStore(10**6)), Caller("", "the server's salt")
    for number in range(4):
        await values.put(IMAGE, f"i{number}", b"1", server, charged_to="ada")
    await values.put(IMAGE, "his", b"1", server, charged_to="bob")
    assert [await values.get(IMAGE, f"i{number}", server) for number in range(4)] == [None, b"1", b"1", b"1"]
    assert await values.get(IMAGE, "his", server) == b"1"


async def test_what_others_wrote_into_the_store_is_not_believed() -> None:
    store = SharedStore(10**6, Clock())
    values = values_in(store)
    await values.put(FILE, "a", b"hers", ADA)
    await values.put(FILE, "b", b"hers, too", ADA)
    (a, b) = (next(key for key in store._entries if key.endswith(f":{name}")) for name in "ab")
    sealed = store.read(b)
    assert sealed is not None
    for forged in (b"", b"x" * 50, sealed, sealed[:-1] + b"!"):
        store.write(a, forged, ttl_s=60)
        assert await values.get(FILE, "a", ADA) is None
    assert await values.get(FILE, "b", Caller("ada", "another salt")) is None


async def test_what_no_id_can_be_is_nobodys_key() -> None:
    values = values_in(MemoryStore(10**6))
    for text in ("", "../a", "a:b", "a b", "ä", "a" * 101, "a\n"):
        assert not is_id(text)
        assert await values.get(FILE, text, ADA) is None
        await values.delete(FILE, text, ADA)
    assert is_id(new_id("imgjob-"))
    assert new_id("a") != new_id("a")


async def test_a_store_that_does_not_answer_is_a_503_and_tells_no_address() -> None:
    class Gone(SharedStore):
        def read(self, key: str) -> bytes | None:
            raise StoreDown("Redis at 10.0.0.7:6379: it doesn't answer")

    with pytest.raises(Unavailable) as caught:
        await values_in(Gone(10**6, Clock())).get(FILE, "a", ADA)
    assert "10.0.0.7" not in caught.value.message
    assert "10.0.0.7" in str(caught.value)


async def test_what_is_kept_elsewhere_from_now_on_is_found_there() -> None:
    values, other = values_in(MemoryStore(10**6)), SharedStore(10**6, Clock())
    await values.put(FILE, "a", b"here", ADA)
    values.keep_in(other)
    assert values.is_shared
    assert await values.get(FILE, "a", ADA) is None
    await values.put(FILE, "b", b"there", ADA)
    assert await values_in(other).get(FILE, "b", ADA) == b"there"
    values.keep_in(None)
    assert await values.get(FILE, "a", ADA) == b"here"
