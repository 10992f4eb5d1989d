"""The cache keeps the latest answers, and never more bytes than it may."""

from __future__ import annotations

import threading

import numpy as np

from service.answers.cache import AnswerCache


def test_what_was_not_asked_for_longest_goes_first() -> None:
    cache = AnswerCache(10)
    cache.put("a", b"aaaa")
    cache.put("b", b"bbbb")
    assert cache.get("a") == b"aaaa"
    cache.put("c", b"cccc")
    assert (cache.get("a"), cache.get("b"), cache.get("c")) == (b"aaaa", None, b"cccc")
    assert cache.size_bytes == 8


def test_bytes_never_exceed_the_bound() -> None:
    cache = AnswerCache(1000)
    generator = np.random.default_rng(0)
    for _ in range(500):
        cache.put(str(generator.integers(40)), bytes(int(generator.integers(400))))
        kept = [cache.get(str(tag)) for tag in range(40)]
        assert sum(len(content) for content in kept if content is not None) == cache.size_bytes <= 1000


def test_content_larger_than_the_bound_is_not_kept_and_drops_nothing() -> None:
    cache = AnswerCache(4)
    cache.put("a", b"aaaa")
    cache.put("b", b"bbbbb")
    assert (cache.get("a"), cache.get("b")) == (b"aaaa", None)


def test_no_room_keeps_nothing() -> None:
    cache = AnswerCache(0)
    cache.put("a", b"a")
    assert cache.get("a") is None


def test_same_tag_is_counted_once() -> None:
    cache = AnswerCache(10)
    cache.put("a", b"aaa")
    cache.put("a", b"aaaa")
    assert (cache.get("a"), cache.size_bytes) == (b"aaaa", 4)


def test_threads_may_share_it() -> None:
    cache = AnswerCache(64)

    def work(name: str) -> None:
        for number in range(2000):
            tag = f"{name}{number % 9}"
            cache.put(tag, bytes(number % 32))
            content = cache.get(tag)
            assert content is None or len(content) == number % 32

    threads = [threading.Thread(target=work, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    tags = [f"{name}{number}" for name in "abcd" for number in range(9)]
    assert sum(len(cache.get(tag) or b"") for tag in tags) == cache.size_bytes <= 64
