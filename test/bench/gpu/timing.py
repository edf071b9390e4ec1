"""How everything here is timed: CUDA graphs, medians, and enough buffers in turn that nothing is found in the L2 cache."""

import math
import statistics

import torch

L2_BYTES = 50 * 2**20
# Several times the L2 cache between two uses of the same bytes.
ROTATED_BYTES = 6 * L2_BYTES


def copies_beyond_l2(bytes_per_copy):
    """How many copies of a buffer a measurement must go round."""
    return max(2, math.ceil(ROTATED_BYTES / max(1, bytes_per_copy)))


def measure(launches, budget_ms=20.0, warm=1):
    """Median microseconds of one launch. `launches` do the same work on different buffers; one graph holds all of them."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(warm):
            for launch in launches:
                launch()
    torch.cuda.current_stream().wait_stream(stream)
    torch.cuda.synchronize()

    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for launch in launches:
            launch()
    first = _replay_us(graph)
    # Short graphs are replayed several times between two events: the gap between replays must not count.
    per_sample = max(1, math.ceil(300.0 / first))
    samples = min(50, max(5, int(budget_ms * 1000 / (first * per_sample))))
    _replay_us(graph, per_sample)
    times = [_replay_us(graph, per_sample) for _ in range(samples)]
    del graph
    return statistics.median(times) / len(launches)


def _replay_us(graph, count=1):
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    for _ in range(count):
        graph.replay()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) * 1000 / count


class Results:
    """Rows for the JSON file. The fastest method of the same part is the one that counts; all of them are kept."""

    def __init__(self):
        self.rows = []
        self.failures = []

    def add(self, us, **key):
        self.rows.append({**key, "us": round(us, 2)})

    def attempt(self, make_launches, **key):
        """Times `make_launches()`; what this PyTorch does not have is listed, not hidden. Returns microseconds or None."""
        try:
            us = measure(make_launches())
        except (RuntimeError, ValueError, TypeError, AttributeError, NotImplementedError) as error:
            if "out of memory" in str(error) or "illegal" in str(error) or "misaligned" in str(error):
                raise
            self.failures.append({**key, "reason": str(error).strip().splitlines()[0][:300] if str(error) else repr(error)})
            return None
        self.add(us, **key)
        return us

    def best(self, **key):
        """The fastest row with these fields, or None."""
        rows = [row for row in self.rows if all(row.get(name) == value for name, value in key.items())]
        return min(rows, key=lambda row: row["us"]) if rows else None
