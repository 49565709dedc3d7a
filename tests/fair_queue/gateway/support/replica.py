"""A gateway's side of shared counters, without the gateway."""

from hypothesis import strategies as st

from llmsys.fair_queue.gateway.ledger import Batch
from llmsys.fair_queue.gateway.shared import Away, SharedStore

STEPS = st.lists(
    st.tuples(
        st.sampled_from(["charge", "refund", "lift", "lose", "sync"]),
        st.integers(0, 1),
        st.sampled_from("ab"),
        st.integers(1, 100),
    ),
    max_size=20,
)
"""What to do, at which of two replicas, for which tenant, at what cost; `lose`: a sync whose answer is lost."""


class Losing:
    """Counters that now and then do what they are told, and do not say so."""

    def __init__(self, counters):
        self._counters = counters
        self.loses = False

    async def sync(self, told):
        answer = await self._counters.sync(told)
        if self.loses:
            raise Away("the answer was lost")
        return answer

    async def read(self):
        return await self._counters.read()

    async def close(self):
        await self._counters.close()


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
        before = self.counters.get(tenant, 0.0)
        self.batch.counters[tenant] = self.counters[tenant] = max(before, counter)
        self.batch.raised[tenant] = self.batch.raised.get(tenant, 0.0) + self.counters[tenant] - before

    async def sync(self):
        batch, self.batch = self.batch, Batch()
        batch.active = list(self.counters)
        remote = await self.store.push(batch)
        for tenant, cost in (remote.served if remote is not None else {}).items():
            self.counters[tenant] = self.counters.get(tenant, 0.0) + cost


async def counts_after(steps, holders):
    """Carry out steps and sync twice: what was served in all, and each replica's counters less the shared lifts."""
    replicas = [Replica(SharedStore(Losing(holder))) for holder in holders]
    served, raised = {}, {}
    for what, which, tenant, cost in steps:
        replica = replicas[which]
        if what in ("charge", "refund"):
            paid = cost if what == "charge" else -min(cost, served.get(tenant, 0))
            replica.charge(tenant, paid)
            served[tenant] = served.get(tenant, 0) + paid
        elif what == "lift":
            before = replica.counters.get(tenant, 0.0)
            replica.lift(tenant, before + cost)
            served.setdefault(tenant, 0)
            raised.setdefault(tenant, [0, 0])[which] += cost
        else:
            replica.store._counters.loses = what == "lose"
            await replica.sync()
            replica.store._counters.loses = False
    for replica in replicas:
        for tenant in served:
            replica.counters.setdefault(tenant, 0.0)
    for replica in (*replicas, *replicas):
        await replica.sync()
    held, _ = await replicas[0].store._counters.read()
    for replica in replicas:
        await replica.store.close()
    for tenant, by in raised.items():
        assert max(by) <= held[tenant][1] <= sum(by)
    return served, [{name: at - held[name][1] for name, at in replica.counters.items()} for replica in replicas]
