"""A loader for data sets that make a whole batch at once, one or two batches ahead of the step."""

import threading
from collections.abc import Iterable, Iterator
from queue import Empty, Queue

from training.images.cached import CachedImages

AHEAD = 2  # batches
_END = object()


class BatchLoader:
    """Iterates over the batches of `dataset`, as a DataLoader would.

    A thread makes them while the step before computes: copying lets go of Python's lock, and a
    process would have to copy each batch once more to hand it over.

    batch_sampler: yields the indices of each batch; pin_memory: into memory from which the copy
    to a GPU runs by itself; ahead: how many batches wait at most, 0 for no thread.
    """

    def __init__(
        self,
        dataset: CachedImages,
        batch_sampler: Iterable[list[int]],
        *,
        pin_memory: bool = False,
        ahead: int = AHEAD,
    ):
        self.dataset, self.batch_sampler = dataset, batch_sampler
        self.pin_memory, self.ahead = pin_memory, ahead

    def __len__(self) -> int:
        return len(self.batch_sampler)

    def __iter__(self) -> Iterator[tuple]:
        return self._iterate_ahead() if self.ahead else self._load(iter(self.batch_sampler))

    def _load(self, batches: Iterator[list[int]]) -> Iterator[tuple]:
        for indices in batches:
            batch = self.dataset.load_batch(indices)
            yield tuple(part.pin_memory() for part in batch) if self.pin_memory else batch

    def _iterate_ahead(self) -> Iterator[tuple]:
        ready, left = Queue(self.ahead), threading.Event()
        args = (ready, left, iter(self.batch_sampler))
        thread = threading.Thread(target=self._fill, args=args, daemon=True)
        thread.start()
        try:
            while (item := ready.get()) is not _END:
                if isinstance(item, Exception):
                    raise item
                yield item
        finally:  # also when the loop over the batches ends early
            left.set()
            drain(ready)
            thread.join()

    def _fill(self, ready: Queue, left: threading.Event, batches: Iterator) -> None:
        last = _END
        try:
            for batch in self._load(batches):
                ready.put(batch)
                if left.is_set():
                    return
        except Exception as error:  # the training's to raise
            last = error
        ready.put(last)


def drain(queue: Queue) -> None:
    """Empty `queue`, so that who waits to put something in can go on."""
    while True:
        try:
            queue.get_nowait()
        except Empty:
            return
