"""Images kept under addresses: for how long, how many, and at whose expense."""

from pipelines.ingress.images.image_store import ImageStore


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def store(capacity_bytes: int = 10, clock: Clock | None = None) -> ImageStore:
    return ImageStore(capacity_bytes=capacity_bytes, keep_s=60, now=clock or Clock())


def kept(store: ImageStore, *keys: str) -> list[bool]:
    return [store.get(key) is not None for key in keys]


def test_an_image_is_found_under_its_key_until_its_time_is_over() -> None:
    clock = Clock()
    images = store(clock=clock)
    key = images.put(b"abc", "image/png", tenant="ada")
    found = images.get(key)
    assert found is not None
    assert (found.data, found.media_type) == (b"abc", "image/png")
    clock.now = 61
    assert kept(images, key, "unknown") == [False, False]


def test_what_was_asked_for_longest_ago_goes_first() -> None:
    images = store()
    keys = [images.put(b"1234", "image/png", tenant="ada") for _ in range(2)]
    images.get(keys[0])
    keys.append(images.put(b"1234", "image/png", tenant="ada"))
    assert kept(images, *keys) == [True, False, True]


def test_who_keeps_the_most_makes_room_and_no_other_tenant() -> None:
    images = store()
    few = images.put(b"12", "image/png", tenant="ada")
    many = [images.put(b"1234", "image/png", tenant="bob") for _ in range(20)]
    assert kept(images, few, *many[-3:]) == [True, False, True, True]
    more = images.put(b"12", "image/png", tenant="eve")
    assert kept(images, few, *many[-2:], more) == [True, False, True, True]


def test_the_newest_image_is_kept_whatever_its_size() -> None:
    images = store()
    old = [images.put(b"123", "image/png", tenant=tenant) for tenant in ("ada", "bob")]
    large = images.put(b"x" * 50, "image/png", tenant="eve")
    assert kept(images, *old, large) == [False, False, True]
    small = images.put(b"1", "image/png", tenant="ada")
    assert kept(images, large, small) == [False, True]


def test_keys_tell_nothing_of_each_other() -> None:
    images = store(capacity_bytes=1000)
    keys = {images.put(b"1", "image/png", tenant="ada") for _ in range(100)}
    assert len(keys) == 100
    assert {len(key) for key in keys} == {43}  # 256 bits
