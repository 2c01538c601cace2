"""Keys and values of one turn, kept for the next one: for transformers' continuous batching.

The library frees what it computed for a response as soon as that is whole. Here it stays until the request
that follows takes it over, token for token, or until others need the room. First turns are computed as if
none followed: the library's own sharing of whole blocks, which changes their sums, stays off.
"""

from __future__ import annotations

from typing import Any

from transformers.generation.continuous_batching.requests import RequestStatus


class TurnCache:
    """Over the cache of one manager, by whose thread all but ``follow`` is called."""

    def __init__(self, processor: Any) -> None:
        self._cache, self._scheduler = processor.cache, processor.scheduler
        self._tables = self._cache.cache_allocators.values()
        self._kept: dict[str, list[int]] = {}
        """The tokens whose keys and values are kept, by the request that they were computed for."""
        self._earlier: dict[str, str] = {}
        if not all(each.supports_block_sharing for each in self._tables):
            return  # a layer that looks back only so far has forgotten its beginning
        self._free_now, self._store = self._cache.free_blocks, self._cache.can_store_request_tokens
        self._cache.use_prefix_sharing = True  # so that it asks for a beginning; it has none of its own
        self._cache.search_prefix_match = self._taken_over
        self._cache.free_blocks = self._free
        self._cache.can_store_request_tokens = self._room

    def follow(self, name: str, earlier: str) -> None:
        """The request ``name`` goes on from another; to be said before the manager hears of it."""
        self._earlier[name] = earlier

    def _free(self, name: str, no_cache: bool = False) -> None:
        state = self._scheduler.active_requests.get(name)
        if state is None or state.status != RequestStatus.FINISHED:
            self._free_now(name, no_cache)
        else:
            tokens = [*state.initial_tokens, *state.generated_tokens]
            self._kept[name] = tokens[: state.position_offset]

    def _taken_over(self, name: str, prompt: list[int]) -> int:
        """How many tokens of its prompt need not be computed."""
        earlier = self._earlier.pop(name, "")
        tokens = self._kept.pop(earlier, None)
        if tokens is None:
            return 0
        if len(tokens) >= len(prompt) or prompt[: len(tokens)] != tokens:
            self._free_now(earlier)
            return 0
        for table in self._tables:
            table.block_table[name] = table.block_table.pop(earlier)
        return len(tokens)

    def _room(self, state: Any, count: int, dry_run: bool = False) -> bool:
        while not self._store(state, count, dry_run):
            if dry_run or not self._kept:
                return False
            oldest = next(iter(self._kept))
            del self._kept[oldest]
            self._free_now(oldest)
        return True
