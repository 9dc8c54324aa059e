"""Run what other threads ask for in one thread, that of the model."""

from __future__ import annotations

import queue
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from ..errors import MoebenchError

T = TypeVar("T")


class MainThread:
    """Jobs of other threads, run one after the other where `serve` was called.

    MLX's streams belong to the thread that made them, and a process whose other threads have used MLX may abort at its
    end. So the web server has the other threads, and the main thread, which loads the model, runs it.
    """

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[tuple[Callable[[], Any], Future[Any]] | None] = queue.SimpleQueue()

    def call(self, job: Callable[[], T]) -> T:
        """What ``job`` returns, or raises, in the thread that serves; waits for it."""
        return self.ask(job).result()

    def ask(self, job: Callable[[], T]) -> Future[T]:
        """What ``job`` will have returned, or raised."""
        answer: Future[T] = Future()
        self._jobs.put((job, answer))
        return answer

    def serve(self) -> None:
        """Run jobs until `stop`, or until an exception that is not a job's own, such as Ctrl-C."""
        while (task := self._jobs.get()) is not None:
            job, answer = task
            try:
                answer.set_result(job())
            except BaseException as error:
                stopped = not isinstance(error, Exception)
                # It is raised where the job came from, which would wait for ever; Ctrl-C ends this thread alone.
                answer.set_exception(MoebenchError("The demo was stopped.") if stopped else error)
                if stopped:
                    raise

    def stop(self) -> None:
        """Let `serve` return once the jobs before are done."""
        self._jobs.put(None)
