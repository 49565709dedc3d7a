"""The structure of the Curator paper (arXiv 2401.07119, rules as in its second version), as an oracle for runs.

Every node of the cluster tree has a filter of the tenants below it and a shortlist per tenant; a tenant's vectors are
each in one shortlist on their path. The filters are exact sets: a Bloom filter's false positives only push lists down.
"""

from collections import defaultdict


class Curator:
    """Shortlists over the cluster tree of a state, changed one grant and one revoke at a time."""

    def __init__(self, clusters, max_shortlist):
        self.clusters, self.max_shortlist = clusters, max_shortlist
        self.filters = defaultdict(set)
        self.lists = defaultdict(dict)
        self.leaf_of = {}

    def children(self, node):
        first = int(self.clusters.first_child[node])
        return range(first, first + int(self.clusters.children[node]))

    def path(self, slot):
        node, leaf = 0, self.leaf_of[slot]
        while True:
            yield node
            below = [
                child
                for child in self.children(node)
                if self.clusters.leaf_start[child] <= leaf < self.clusters.leaf_end[child]
            ]
            if not below:
                return
            (node,) = below

    def grant(self, slot, leaf, tenant):
        self.leaf_of[slot] = leaf
        for node in self.path(slot):
            known = tenant in self.filters[node]
            self.filters[node].add(tenant)
            held = self.lists[node].get(tenant)
            if held is not None:
                held.add(slot)
                self.split(node, tenant)
                return
            if not known or not self.children(node):
                self.lists[node][tenant] = {slot}
                return

    def split(self, node, tenant):
        if len(self.lists[node][tenant]) <= self.max_shortlist or not self.children(node):
            return
        for slot in self.lists[node].pop(tenant):
            path = list(self.path(slot))
            child = path[path.index(node) + 1]
            self.filters[child].add(tenant)
            self.lists[child].setdefault(tenant, set()).add(slot)
        for child in self.children(node):
            if tenant in self.lists[child]:
                self.split(child, tenant)

    def revoke(self, slot, tenant):
        path = list(self.path(slot))
        (at,) = (place for place, node in enumerate(path) if slot in self.lists[node].get(tenant, ()))
        held = self.lists[path[at]][tenant]
        held.remove(slot)
        if not held:
            del self.lists[path[at]][tenant]
        self.refresh(path[: at + 1], tenant)
        for parent in reversed(path[:at]):
            if not self.merge(parent, tenant):
                break
        self.refresh(path, tenant)

    def refresh(self, path, tenant):
        for node in reversed(path):
            below = any(tenant in self.filters[child] for child in self.children(node))
            if tenant not in self.lists[node] and not below:
                self.filters[node].discard(tenant)

    def merge(self, parent, tenant):
        """Pull the children's shortlists up if all that is below fits one; True where the parent may go on."""
        with_tenant = [child for child in self.children(parent) if tenant in self.filters[child]]
        if not with_tenant:
            return True
        if any(tenant not in self.lists[child] for child in with_tenant):
            return False
        merged = set().union(*(self.lists[child][tenant] for child in with_tenant))
        if len(merged) > self.max_shortlist:
            return False
        for child in with_tenant:
            del self.lists[child][tenant]
            self.filters[child].discard(tenant)
        self.lists[parent][tenant] = merged
        return True

    def shortlists(self, tenant):
        """node -> slots of every shortlist of the tenant."""
        return {node: lists[tenant] for node, lists in self.lists.items() if tenant in lists}
