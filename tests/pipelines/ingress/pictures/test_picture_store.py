"""Pictures kept under addresses: for how long, how many, and at whose expense."""

from pipelines.ingress.pictures.picture_store import PictureStore


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def store(capacity_bytes: int = 10, clock: Clock | None = None) -> PictureStore:
    return PictureStore(capacity_bytes=capacity_bytes, keep_s=60, now=clock or Clock())


def kept(store: PictureStore, *keys: str) -> list[bool]:
    return [store.get(key) is not None for key in keys]


def test_a_picture_is_found_under_its_key_until_its_time_is_over() -> None:
    clock = Clock()
    pictures = store(clock=clock)
    key = pictures.put(b"abc", "image/png", tenant="ada")
    found = pictures.get(key)
    assert found is not None
    assert (found.data, found.media_type) == (b"abc", "image/png")
    clock.now = 61
    assert kept(pictures, key, "unknown") == [False, False]


def test_what_was_asked_for_longest_ago_goes_first() -> None:
    pictures = store()
    keys = [pictures.put(b"1234", "image/png", tenant="ada") for _ in range(2)]
    pictures.get(keys[0])
    keys.append(pictures.put(b"1234", "image/png", tenant="ada"))
    assert kept(pictures, *keys) == [True, False, True]


def test_who_keeps_the_most_makes_room_and_no_other_tenant() -> None:
    pictures = store()
    few = pictures.put(b"12", "image/png", tenant="ada")
    many = [pictures.put(b"1234", "image/png", tenant="bob") for _ in range(20)]
    assert kept(pictures, few, *many[-3:]) == [True, False, True, True]
    more = pictures.put(b"12", "image/png", tenant="eve")
    assert kept(pictures, few, *many[-2:], more) == [True, False, True, True]


def test_the_newest_picture_is_kept_whatever_its_size() -> None:
    pictures = store()
    old = [pictures.put(b"123", "image/png", tenant=tenant) for tenant in ("ada", "bob")]
    large = pictures.put(b"x" * 50, "image/png", tenant="eve")
    assert kept(pictures, *old, large) == [False, False, True]
    small = pictures.put(b"1", "image/png", tenant="ada")
    assert kept(pictures, large, small) == [False, True]


def test_keys_tell_nothing_of_each_other() -> None:
    pictures = store(capacity_bytes=1000)
    keys = {pictures.put(b"1", "image/png", tenant="ada") for _ in range(100)}
    assert len(keys) == 100
    assert {len(key) for key in keys} == {43}  # 256 bits
