"""What people write in place of `order`: json, heapq, a dictionary of queues. The peer of `bench order`.

Run as a script with FILE and WINDOW, it imports nothing of llmsys and writes the same bytes as `fair-queue order`.
"""

import heapq
import json
import sys
from collections import deque
from typing import BinaryIO

__all__ = ["naive_order"]


def naive_order(path: str, window: int, out: BinaryIO) -> None:
    """Order trace lines by VTC with prices 1 and 2; ties go to the tenant seen first."""
    counters: dict[str, float] = {}
    first_seen: dict[str, int] = {}
    queues: dict[str, deque[tuple[bytes, float]]] = {}
    heap: list[tuple[float, int, str]] = []
    pending, last = 0, 0.0

    def emit() -> float:
        _, index, tenant = heapq.heappop(heap)
        line, cost = queues[tenant].popleft()
        counters[tenant] += cost
        if queues[tenant]:
            heapq.heappush(heap, (counters[tenant], index, tenant))
        out.write(line)
        return counters[tenant] if not queues[tenant] else last

    with open(path, "rb") as lines:
        for line in lines:
            record = json.loads(line)
            tenant = record["tenant"]
            queue = queues.setdefault(tenant, deque())
            index = first_seen.setdefault(tenant, len(first_seen))
            if not queue:
                counters[tenant] = max(counters.get(tenant, 0.0), heap[0][0] if heap else last)
                heapq.heappush(heap, (counters[tenant], index, tenant))
            queue.append((line, record["prompt_tokens"] + 2.0 * record["output_tokens"]))
            pending += 1
            if pending >= window:
                last = emit()
                pending -= 1
    while pending:
        last = emit()
        pending -= 1


if __name__ == "__main__":
    naive_order(sys.argv[1], int(sys.argv[2]), sys.stdout.buffer)
