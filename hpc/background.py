"""Work that the head begins and comes back for: what takes an LLM minutes must not keep it from its trials."""

import threading
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any


class Background:
    """Threads that work, each piece under a key of its own. One thread, the head's, begins and takes.

    They are daemons: a head that ends does not wait for an LLM that is in the middle of an answer.

    Args:
        workers: pieces worked at at a time; the others wait in the order in which they were begun.
    """

    def __init__(self, workers: int) -> None:
        self._waiting: SimpleQueue[tuple[Future[Any], Callable[[], Any]]] = SimpleQueue()
        self._work: dict[Hashable, Future[Any]] = {}
        for _ in range(workers):
            threading.Thread(target=self._serve, name="llm", daemon=True).start()

    def _serve(self) -> None:
        while True:
            future, work = self._waiting.get()
            try:
                future.set_result(work())
            except BaseException as error:
                future.set_exception(error)

    def begin(self, key: Hashable, work: Callable[[], Any]) -> None:
        """Begin `work` unless what has this key is under way, or was found."""
        if key not in self._work:
            self._work[key] = Future()
            self._waiting.put((self._work[key], work))

    def has(self, key: Hashable) -> bool:
        """Whether this is under way, or was found."""
        return key in self._work

    def take(self, key: Hashable) -> Any:
        """What was begun under `key` gave, kept until it is forgotten; None until it is there, and where nothing was.

        Raises what the work raised, which can then be begun again.
        """
        if key not in self._work or not self._work[key].done():
            return None
        if self._work[key].exception() is not None:
            return self._work.pop(key).result()
        return self._work[key].result()

    def forget(self, key: Hashable) -> None:
        """What was found under `key` is needed no more."""
        self._work.pop(key, None)
