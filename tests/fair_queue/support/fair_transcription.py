"""The paper's Algorithm 1, written down as it stands: lists, linear scans, no heap, no forgetting.

What the policies are tested against; shares no code with them.
"""


class Transcription:
    def __init__(self, *, wp=1.0, wq=2.0, weights=None, lift=True):
        self.wp, self.wq, self.lift = wp, wq, lift
        self.weights = weights or {}
        self.counter = {}
        self.queue = []
        self.running = {}
        self.last_left = None

    def waiting_of(self, tenant):
        return [request for request in self.queue if request.tenant == tenant]

    def waiting_tenants(self):
        return [tenant for tenant in self.counter if self.waiting_of(tenant)]

    def charge(self, tenant, cost):
        self.counter[tenant] += cost / self.weights.get(tenant, 1.0)

    def arrive(self, request, now_s=0.0):
        u = request.tenant
        self.counter.setdefault(u, 0.0)
        if self.lift and not self.waiting_of(u):
            if not self.queue:
                if self.last_left is not None:
                    self.counter[u] = max(self.counter[u], self.counter[self.last_left])
            else:
                least = min(self.counter[i] for i in self.waiting_tenants() if i != u)
                self.counter[u] = max(self.counter[u], least)
        self.queue.append(request)

    def admit(self, now_s, fits):
        new = []
        while self.queue:
            k = min(self.waiting_tenants(), key=lambda tenant: self.counter[tenant])
            request = self.waiting_of(k)[0]
            if not fits(request):
                break
            self.charge(k, self.wp * request.prompt_tokens)
            self.queue.remove(request)
            self.running[request.id] = request
            new.append(request)
            if not self.waiting_of(k):
                self.last_left = k
        return new

    def tokens(self, request_id, n, now_s=0.0):
        self.charge(self.running[request_id].tenant, self.wq * n)

    def finish(self, request_id, now_s=0.0):
        del self.running[request_id]
