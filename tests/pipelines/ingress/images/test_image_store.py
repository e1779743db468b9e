"""Images kept under addresses: for how long, how many, at whose expense, and where."""

from pipelines.ingress.images.image_store import ImageStore
from pipelines.ingress.tenants.auth import Caller
from tests.pipelines.ingress.kept.workers import Clock, SharedStore, values_in

SERVER = Caller("", "the server's salt")


def store(clock: Clock, shared: SharedStore | None = None, *, tenant_bytes: int = 100) -> ImageStore:
    values = values_in(shared or SharedStore(10**6, clock))
    return ImageStore(values, SERVER, keep_s=60, tenant_bytes=tenant_bytes)


async def kept(store: ImageStore, *keys: str) -> list[bool]:
    return [await store.get(key) is not None for key in keys]


async def test_an_image_is_found_under_its_key_until_its_time_is_over() -> None:
    clock = Clock()
    images = store(clock)
    key = await images.put(b"abc", "image/png", tenant="ada")
    found = await images.get(key)
    assert found is not None
    assert (found.data, found.media_type) == (b"abc", "image/png")
    clock.now += 61
    assert await kept(images, key, "unknown", "../x") == [False, False, False]


async def test_an_image_is_found_by_every_process_that_shares_the_store() -> None:
    clock = Clock()
    shared = SharedStore(10**6, clock)
    key = await store(clock, shared).put(b"abc", "image/webp", tenant="ada")
    found = await store(clock, shared).get(key)
    assert found is not None
    assert (found.data, found.media_type) == (b"abc", "image/webp")


async def test_a_tenants_oldest_make_room_and_no_other_tenants() -> None:
    images = store(Clock())
    few = await images.put(b"12", "image/png", tenant="ada")
    many = [await images.put(b"1" * 30, "image/png", tenant="bob") for _ in range(5)]
    assert await kept(images, few, *many) == [True, False, False, False, True, True]


async def test_the_newest_image_is_kept_whatever_its_size() -> None:
    images = store(Clock())
    large = await images.put(b"x" * 500, "image/png", tenant="eve")
    assert await kept(images, large) == [True]
    small = await images.put(b"1", "image/png", tenant="eve")
    assert await kept(images, large, small) == [False, True]


async def test_keys_tell_nothing_of_each_other() -> None:
    images = store(Clock(), tenant_bytes=10**6)
    keys = {await images.put(b"1", "image/png", tenant="ada") for _ in range(100)}
    assert len(keys) == 100
    assert {len(key) for key in keys} == {43}  # 256 bits
