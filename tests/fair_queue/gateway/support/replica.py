"""A gateway's side of shared counters, without the gateway."""

from hypothesis import strategies as st

from llmsys.fair_queue.gateway.ledger import Batch

STEPS = st.lists(
    st.tuples(st.sampled_from(["charge", "sync"]), st.integers(0, 1), st.sampled_from("ab"), st.integers(1, 100)),
    max_size=20,
)
"""What to do, at which of two replicas, for which tenant, at what cost."""


class Replica:
    """What a gateway does with its store, without the gateway: counters by tenant, charged and lifted."""

    def __init__(self, store):
        self.store = store
        self.counters = {}
        self.batch = Batch()

    def charge(self, tenant, cost):
        self.counters[tenant] = self.counters.get(tenant, 0.0) + cost
        self.batch.counters[tenant] = self.counters[tenant]

    def lift(self, tenant, counter):
        self.counters[tenant] = max(self.counters.get(tenant, 0.0), counter)
        self.batch.counters[tenant] = self.batch.lifted[tenant] = self.counters[tenant]

    async def sync(self):
        batch, self.batch = self.batch, Batch()
        batch.active = list(self.counters)
        remote = await self.store.push(batch)
        for tenant, cost in (remote.served if remote is not None else {}).items():
            self.counters[tenant] = self.counters.get(tenant, 0.0) + cost


async def counts_after(steps, stores):
    """Carry out steps and sync twice: what was served in all, and each replica's counters."""
    replicas = [Replica(store) for store in stores]
    total = {}
    for what, which, tenant, cost in steps:
        if what == "sync":
            await replicas[which].sync()
        else:
            replicas[which].charge(tenant, cost)
            total[tenant] = total.get(tenant, 0) + cost
    for replica in replicas:
        for tenant in total:
            replica.counters.setdefault(tenant, 0.0)
    for replica in (*replicas, *replicas):
        await replica.sync()
    for replica in replicas:
        await replica.store.close()
    return total, [replica.counters for replica in replicas]
