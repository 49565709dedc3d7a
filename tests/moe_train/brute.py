"""Oracles of the planner's tests: brute force over placements, and the cases in which MRO loses."""

from itertools import combinations, pairwise

from hypothesis import strategies as st


def brute_recovery(layers, nodes, k):
    """P(every layer keeps every expert) by trying every set of k failed nodes; layers are lists of columns."""
    survived = total = 0
    for failed in combinations(range(nodes), k):
        alive = [node for node in range(nodes) if node not in failed]
        total += 1
        survived += all(
            set().union(*(set(columns[node]) for node in alive)) == set(range(experts)) for columns, experts in layers
        )
    return survived / total


def all_placements(replicas, nodes, slots):
    """Every way to fill the nodes with the replicas, nodes in non-decreasing order of their experts."""

    def fill(node, left, least):
        if node == nodes:
            yield ()
            return
        for column in columns(left, slots, 0):
            if column >= least:
                rest = list(left)
                for expert in column:
                    rest[expert] -= 1
                for others in fill(node + 1, rest, column):
                    yield (column, *others)

    def columns(left, free, first):
        if free == 0:
            yield ()
            return
        for expert in range(first, len(left)):
            if left[expert]:
                rest = [count - (other == expert) for other, count in enumerate(left)]
                for more in columns(rest, free - 1, expert):
                    yield (expert, *more)

    yield from fill(0, list(replicas), ())


@st.composite
def small_replicas(draw, most_nodes=6, most_slots=4, most_experts=6):
    """(replicas, nodes, slots) that fill the slots, rarest not always first."""
    nodes = draw(st.integers(2, most_nodes))
    slots = draw(st.integers(1, most_slots))
    experts = draw(st.integers(1, min(most_experts, nodes * slots)))
    cuts = sorted(
        draw(
            st.lists(
                st.integers(1, nodes * slots - 1) if nodes * slots > 1 else st.nothing(),
                min_size=experts - 1,
                max_size=experts - 1,
                unique=True,
            )
        )
    )
    edges = [0, *cuts, nodes * slots]
    return [high - low for low, high in pairwise(edges)], nodes, slots


# (nodes, slots, replicas, survivors, chance of MRO, best chance): MRO's last segment is truncated, and it loses
COUNTEREXAMPLES = [
    (3, 2, (2, 2, 2), 2, 2 / 3, 1.0),
    (4, 2, (2, 3, 3), 2, 4 / 6, 5 / 6),
    (5, 2, (3, 3, 4), 2, 6 / 10, 8 / 10),
    (5, 2, (2, 2, 2, 2, 2), 3, 4 / 10, 6 / 10),
    (4, 2, (1, 1, 2, 2, 2), 3, 2 / 4, 3 / 4),
]
