// A span is the part of a worker's chunk that has not begun: [next, end) packed
// into one 64-bit word of shared memory, so that its owner can take a position
// and another process can take the rest away without a lock.
#pragma once

#include <atomic>
#include <cstdint>

namespace hatchway {

static_assert(std::atomic_ref<std::uint64_t>::is_always_lock_free);

constexpr std::uint64_t pack(std::uint32_t next, std::uint32_t end) {
    return (static_cast<std::uint64_t>(next) << 32) | end;
}
constexpr std::uint32_t next_of(std::uint64_t span) { return static_cast<std::uint32_t>(span >> 32); }
constexpr std::uint32_t end_of(std::uint64_t span) { return static_cast<std::uint32_t>(span); }

inline void span_set(std::uint64_t &word, std::uint32_t next, std::uint32_t end) {
    std::atomic_ref<std::uint64_t>(word).store(pack(next, end), std::memory_order_release);
}

// The next offset, or -1 when none is left.
inline std::int64_t span_take(std::uint64_t &word) {
    std::atomic_ref<std::uint64_t> span(word);
    std::uint64_t seen = span.load(std::memory_order_acquire);
    while (next_of(seen) < end_of(seen)) {
        if (span.compare_exchange_weak(seen, pack(next_of(seen) + 1, end_of(seen)),
                                       std::memory_order_acq_rel))
            return next_of(seen);
    }
    return -1;
}

// Empties the span; the returned word holds what was left of it.
inline std::uint64_t span_steal(std::uint64_t &word) {
    std::atomic_ref<std::uint64_t> span(word);
    std::uint64_t seen = span.load(std::memory_order_acquire);
    while (next_of(seen) < end_of(seen)) {
        if (span.compare_exchange_weak(seen, pack(end_of(seen), end_of(seen)),
                                       std::memory_order_acq_rel))
            return seen;
    }
    return 0;
}

}  // namespace hatchway
