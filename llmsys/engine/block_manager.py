"""Memory of keys and values in blocks: who holds what, and which prefixes can be had without computing them again.

Every sequence with keys and values has a table of blocks. A table *in use* belongs to a running or parked sequence; a
*retained* table is what a finished or preempted one left behind, kept for its prefix until the memory is wanted, least
recently used first. So each block is exactly one of: free, cached (only retained tables hold it), referenced. A full
block is known by blake2b-128(parent hash ‖ token ids), the chain starting at a root that names model, adapter content
and cache salt, so that a prefix is never shared where any of these differs.

`shared` says what a prefix hit costs in the store. False (a row per sequence, the CPU layout): keys and values are
copied, so the copy is charged to fresh blocks. True (paged): both tables hold the same blocks, counted once. The store
is told to copy and to release at the moment of the decision, so it never holds more than is accounted for here. Blocks
that are lent stand for memory that something else uses (adapters, under one budget).

Knows nothing about requests, text or policies.
"""

from array import array
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b

from llmsys.engine.parts import PrefixStore

__all__ = ["BlockCounts", "BlockManager", "prefix_root"]

_HASH_BYTES = 16


def prefix_root(model: bytes, adapter: bytes, salt: str) -> bytes:
    """Return the start of a hash chain: prefixes of different roots are never shared.

    model: digest of the base model's weights; adapter: content digest and generation, empty for the base model.
    """
    digest = blake2b(digest_size=_HASH_BYTES)
    for part in (model, adapter, salt.encode()):
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.digest()


@dataclass(frozen=True, slots=True)
class BlockCounts:
    """How many blocks are in which state; free + cached + referenced + lent == total."""

    free: int
    cached: int
    referenced: int
    total: int
    lent: int = 0


@dataclass(slots=True, eq=False)
class _Table:
    """The blocks of one sequence; `tokens` of it have keys and values, `hashes` name its full blocks."""

    root: bytes
    blocks: list[int] = field(default_factory=list)
    hashes: list[bytes] = field(default_factory=list)
    tokens: int = 0
    retained: bool = False


class BlockManager:
    """Allocates, shares, retains and frees the blocks of sequences, exactly.

    blocks: how many there are, of block_tokens tokens each; rows: how many tables the store can hold at once, retained
    ones included.
    """

    def __init__(
        self,
        store: PrefixStore,
        *,
        blocks: int,
        block_tokens: int,
        rows: int,
        prefix_cache: bool = True,
        shared: bool = False,
    ) -> None:
        if min(blocks, block_tokens, rows) < 1:
            raise ValueError(f"blocks, block_tokens, rows are {blocks}, {block_tokens}, {rows}; expected 1 or more")
        self.block_tokens = block_tokens
        self._store = store
        self._rows = rows
        self._prefix_cache = prefix_cache
        self._shared = shared
        self._references = [0] * blocks
        self._keepers = [0] * blocks
        self._free = list(range(blocks - 1, -1, -1))
        self._lent: list[int] = []
        self._cached = 0
        self._tables: dict[int, _Table] = {}
        self._retained: OrderedDict[int, _Table] = OrderedDict()
        self._holders: dict[bytes, dict[int, None]] = {}

    @property
    def counts(self) -> BlockCounts:
        """How many blocks are free, cached, referenced and lent."""
        total, free, lent = len(self._references), len(self._free), len(self._lent)
        return BlockCounts(free, self._cached, total - free - self._cached - lent, total, lent)

    @property
    def capacity_tokens(self) -> int:
        """Longest sequence that fits when it is alone."""
        return len(self._references) * self.block_tokens

    def ref_count(self, block: int) -> int:
        """Number of tables in use that hold this block."""
        return self._references[block]

    def tables(self) -> Iterator[tuple[int, tuple[int, ...], bool]]:
        """Yield (sequence id, its blocks, whether it is only retained) for every table."""
        for sequence_id, table in self._tables.items():
            yield sequence_id, tuple(table.blocks), table.retained

    def in_use(self, sequence_id: int) -> bool:
        """Whether this sequence has a table that is not merely retained."""
        table = self._tables.get(sequence_id)
        return table is not None and not table.retained

    def allocate(
        self,
        sequence_id: int,
        root: bytes,
        token_ids: Sequence[int],
        reserve_tokens: int,
        *,
        source: tuple[int, int] | None = None,
    ) -> int | None:
        """Give a sequence a table with room for reserve_tokens; return how many tokens need no computing, or None.

        None means that there is no room; no table in use has changed then. The last token is always left to compute,
        for its logits. source: (sequence id, tokens) of one that starts with the same tokens, as a fork's origin does.
        Raises ValueError if the sequence has a table in use.
        """
        own = self._tables.get(sequence_id)
        if own is not None and not own.retained:
            raise ValueError(f"sequence {sequence_id} already has a table")
        need = self._blocks_for(reserve_tokens)
        if own is not None and own.root == root:
            return self._revive(sequence_id, own, need, len(token_ids) - 1)
        if not self._shared and not self._has_room(need, rows=1, spare=-1):
            return None
        if own is not None:
            self._evict(sequence_id)
        found = self._find_prefix(root, token_ids, source)
        for source_id, tokens in dict.fromkeys((found, (-1, 0))):
            share = tokens // self.block_tokens if self._shared else 0
            if self._make_room(need - share, rows=1, spare=source_id):
                self._tables[sequence_id] = table = _Table(root)
                if tokens:
                    self._adopt(sequence_id, source_id, tokens, share)
                self._append(table, need)
                return tokens
        return None

    def grow(self, sequence_id: int, tokens: int) -> bool:
        """Make sure that a table in use has room for so many tokens; False, and no change, if there is none."""
        table = self._tables[sequence_id]
        need = self._blocks_for(tokens)
        if need > len(table.blocks) and not self._make_room(need - len(table.blocks), rows=0, spare=-1):
            return False
        self._append(table, need)
        return True

    def advance(self, sequence_id: int, token_ids: Sequence[int], computed_tokens: int) -> None:
        """Take note that the first computed_tokens of token_ids have keys and values; full blocks become findable."""
        table = self._tables[sequence_id]
        table.tokens = computed_tokens
        if not self._prefix_cache:
            return
        for block in range(len(table.hashes), computed_tokens // self.block_tokens):
            start = block * self.block_tokens
            name = _chain(
                table.hashes[-1] if table.hashes else table.root, token_ids[start : start + self.block_tokens]
            )
            table.hashes.append(name)
            self._holders.setdefault(name, {})[sequence_id] = None

    def free(self, sequence_id: int, *, keep: bool = True) -> None:
        """End the use of a table; with `keep` it is retained for its prefix as long as nobody wants the memory.

        A sequence without a table is none the worse for it.
        """
        table = self._tables.get(sequence_id)
        if table is None:
            return
        if not table.retained:
            self._trim(table)
            for block in table.blocks:
                self._references[block] -= 1
                self._keepers[block] += 1
                self._cached += self._references[block] == 0
            table.retained = True
            self._retained[sequence_id] = table
        if not (keep and table.hashes):
            self._evict(sequence_id)

    def lend(self, count: int) -> bool:
        """Take free blocks out of use, at the cost of retained tables; False, and no change, if there are too few."""
        if not self._make_room(count, rows=0, spare=-1):
            return False
        self._lent += [self._free.pop() for _ in range(count)]
        return True

    def take_back(self, count: int) -> None:
        """Put so many lent blocks back into use. Raises ValueError if fewer are lent."""
        if count > len(self._lent):
            raise ValueError(f"{count} blocks come back; expected at most {len(self._lent)}, those that are lent")
        self._free += [self._lent.pop() for _ in range(count)]

    def _revive(self, sequence_id: int, table: _Table, need: int, limit: int) -> int | None:
        """Put a retained table back into use: its sequence goes on where it was."""
        if not self._make_room(need - len(table.blocks), rows=0, spare=sequence_id):
            return None
        del self._retained[sequence_id]
        table.retained = False
        for block in table.blocks:
            self._keepers[block] -= 1
            self._hold(block)
        self._append(table, need)
        table.tokens = min(table.tokens, limit)
        return table.tokens

    def _find_prefix(self, root: bytes, token_ids: Sequence[int], source: tuple[int, int] | None) -> tuple[int, int]:
        """Return (sequence id, tokens) of the longest known prefix, (-1, 0) if there is none."""
        limit = len(token_ids) - 1
        best = (-1, 0)
        origin = self._tables.get(source[0]) if source else None
        if source and origin is not None and origin.root == root:
            best = (source[0], min(origin.tokens, source[1], limit))
        parent = root
        for block in range(limit // self.block_tokens if self._prefix_cache else 0):
            start = block * self.block_tokens
            parent = _chain(parent, token_ids[start : start + self.block_tokens])
            holders = self._holders.get(parent)
            if not holders:
                break
            if (block + 1) * self.block_tokens > best[1]:
                best = (next(reversed(holders)), (block + 1) * self.block_tokens)
        return best if best[1] else (-1, 0)

    def _adopt(self, sequence_id: int, source_id: int, tokens: int, share: int) -> None:
        """Start a table with the first tokens of another; `share` of its blocks are held by both."""
        table, source = self._tables[sequence_id], self._tables[source_id]
        for block in source.blocks[:share]:
            self._hold(block)
            table.blocks.append(block)
        table.tokens = tokens
        table.hashes = source.hashes[: tokens // self.block_tokens]
        for name in table.hashes:
            self._holders[name][sequence_id] = None
        if source.retained:
            self._retained.move_to_end(source_id)
        self._store.copy_prefix(source_id, sequence_id, tokens)

    def _blocks_for(self, tokens: int) -> int:
        return -(-tokens // self.block_tokens)

    def _hold(self, block: int) -> None:
        """Count one more table in use; the block may have been cached until now."""
        self._cached -= self._references[block] == 0
        self._references[block] += 1

    def _append(self, table: _Table, need: int) -> None:
        """Fill a table up to `need` blocks from the free list, which is known to be long enough."""
        for _ in range(need - len(table.blocks)):
            block = self._free.pop()
            self._references[block] = 1
            table.blocks.append(block)

    def _trim(self, table: _Table) -> None:
        """Give back the blocks reserved past the computed tokens; nobody else holds those."""
        for block in table.blocks[self._blocks_for(table.tokens) :]:
            self._references[block] = 0
            self._free.append(block)
        del table.blocks[self._blocks_for(table.tokens) :]

    def _has_room(self, blocks: int, *, rows: int, spare: int) -> bool:
        """Whether free blocks and rows would do if every retained table but `spare` were evicted."""
        kept = self._retained.get(spare)
        held = sum(self._references[block] == 0 for block in kept.blocks) if kept else 0
        evictable = len(self._retained) - (kept is not None)
        fits = len(self._tables) + rows - evictable <= self._rows
        return fits and blocks <= len(self._free) + self._cached - held

    def _make_room(self, blocks: int, *, rows: int, spare: int) -> bool:
        """Evict retained tables, least recently used first, never `spare`, until there is room; or change nothing."""
        if not self._has_room(blocks, rows=rows, spare=spare):
            return False
        while len(self._free) < blocks or len(self._tables) + rows > self._rows:
            self._evict(next(candidate for candidate in self._retained if candidate != spare))
        return True

    def _evict(self, sequence_id: int) -> None:
        """Forget a retained table: its blocks that nobody else holds become free, the store forgets its row."""
        table = self._retained.pop(sequence_id)
        del self._tables[sequence_id]
        for name in table.hashes:
            holders = self._holders[name]
            del holders[sequence_id]
            if not holders:
                del self._holders[name]
        for block in table.blocks:
            self._keepers[block] -= 1
            if not self._references[block] and not self._keepers[block]:
                self._cached -= 1
                self._free.append(block)
        self._store.release(sequence_id)


def _chain(parent: bytes, token_ids: Sequence[int]) -> bytes:
    """Name a full block by all that came before it and its own tokens."""
    return blake2b(parent + array("q", token_ids).tobytes(), digest_size=_HASH_BYTES).digest()
