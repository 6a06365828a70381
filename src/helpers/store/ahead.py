"""Threads that read pictures while the encoder works."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

THREADS = 4

Result = TypeVar("Result")


def ahead(
    work: Callable[[int], Result], positions: Iterable[int], most: int
) -> Iterator[tuple[int, Result]]:
    """Yield (n, work(n)) in the order of positions; `most` results may lie waiting."""
    with ThreadPoolExecutor(THREADS) as threads:
        pending: deque = deque()
        for n in positions:
            pending.append((n, threads.submit(work, n)))
            if len(pending) > most:
                first, result = pending.popleft()
                yield first, result.result()
        for n, result in pending:
            yield n, result.result()
