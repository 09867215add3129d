// The board's columns as board.py lays them out, and the names of their values.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

namespace hatchway {

// The same numbers as in board.py; see BoardKernel::constants.
namespace status {
inline constexpr std::uint8_t planned = 1, claimed = 2, done = 3, failed = 4, taken = 5, consumed = 6;
}
namespace kind {
inline constexpr std::uint8_t none = 0, row = 1, collated = 3;
}
namespace outgoing {
inline constexpr std::uint8_t composed = 1, ready = 3;
}
namespace alive {
inline constexpr std::uint8_t gone = 0;
}
namespace running {
inline constexpr std::uint8_t sample = 1;
}
namespace waiting {
inline constexpr std::int64_t nothing = 0, batch = 1, epoch_end = 2;
}
namespace rows {
inline constexpr std::int64_t agreed = 1;  // _AGREED in store.py
}
namespace head {
inline constexpr std::size_t stop = 1, waiting = 2, epoch = 3, published = 6, cursor = 7, tail = 8,
                             num_retry = 9, homes = 10, home_tail = 11, out_tail = 13,
                             out_head = 14, rows = 15, row_bytes = 17, resident = 20,
                             sample_bytes = 22, num_seats = 25, num_processes = 26, num_early = 27,
                             held_out = 28, end = 29, home_end = 30, plan_epoch = 31, plan_start = 32,
                             script_turn = 33, script_end = 35;
}

struct Board {
    std::int64_t *head;
    double *cut_s;
    // positions
    std::uint8_t *status, *attempts, *kind;
    std::int16_t *worker;
    std::int32_t *row, *block;
    std::int64_t *key, *home;
    float *cost;
    std::int32_t *lead;
    // home batches
    std::int32_t *home_count, *home_block, *home_keys;
    std::uint8_t *home_emitted;
    std::int64_t *home_first, *home_epoch, *home_start;
    // outgoing batches
    std::uint8_t *out_status, *out_kind, *out_attempts, *out_fixed;
    std::int32_t *out_count, *out_block;
    std::int64_t *out_first, *members;
    // workers
    std::uint64_t *span;
    std::int64_t *chunk_first, *current;
    double *started;
    std::uint8_t *running, *alive;

    std::uint64_t mask, home_mask, out_mask;
    std::size_t num_workers, num_members;

    std::size_t slot(std::int64_t position) const {
        return static_cast<std::uint64_t>(position) & mask;
    }
    std::size_t home_slot(std::int64_t home) const {
        return static_cast<std::uint64_t>(home) & home_mask;
    }
    std::size_t out_slot(std::int64_t number) const {
        return static_cast<std::uint64_t>(number) & out_mask;
    }
};

// What has as many cells as another column of the same table.
enum class Table { head, cut, positions, homes, outgoing, members, workers };

// Calls open(table, name, cells) for each column.
template <class Open>
void each_column(Board &at, Open &&open) {
    open(Table::head, "head", at.head);
    open(Table::cut, "cut_s", at.cut_s);
    open(Table::positions, "status", at.status);
    open(Table::positions, "attempts", at.attempts);
    open(Table::positions, "kind", at.kind);
    open(Table::positions, "worker", at.worker);
    open(Table::positions, "row", at.row);
    open(Table::positions, "block", at.block);
    open(Table::positions, "key", at.key);
    open(Table::positions, "home", at.home);
    open(Table::positions, "cost", at.cost);
    open(Table::positions, "lead", at.lead);
    open(Table::homes, "home_count", at.home_count);
    open(Table::homes, "home_block", at.home_block);
    open(Table::homes, "home_keys", at.home_keys);
    open(Table::homes, "home_emitted", at.home_emitted);
    open(Table::homes, "home_first", at.home_first);
    open(Table::homes, "home_epoch", at.home_epoch);
    open(Table::homes, "home_start", at.home_start);
    open(Table::outgoing, "out_status", at.out_status);
    open(Table::outgoing, "out_kind", at.out_kind);
    open(Table::outgoing, "out_attempts", at.out_attempts);
    open(Table::outgoing, "out_fixed", at.out_fixed);
    open(Table::outgoing, "out_count", at.out_count);
    open(Table::outgoing, "out_block", at.out_block);
    open(Table::outgoing, "out_first", at.out_first);
    open(Table::members, "members", at.members);
    open(Table::workers, "span", at.span);
    open(Table::workers, "chunk_first", at.chunk_first);
    open(Table::workers, "current", at.current);
    open(Table::workers, "started", at.started);
    open(Table::workers, "running", at.running);
    open(Table::workers, "alive", at.alive);
}

// A test of what a death leaves behind defines it; see tests/property/cut_turns.cpp.
#ifndef HATCHWAY_BEFORE_PUT
#define HATCHWAY_BEFORE_PUT
#endif

// A worker can be killed between any two stores, and the next one that holds the
// lock reads what it left: whatever is stored before a put is there when it is.
template <class T>
void put(T &cell, T value) {
    HATCHWAY_BEFORE_PUT
    std::atomic_ref<T>(cell).store(value, std::memory_order_release);
}

// What a worker publishes without the lock.
inline std::uint8_t look(const std::uint8_t &cell) {
    return std::atomic_ref<std::uint8_t>(const_cast<std::uint8_t &>(cell))
        .load(std::memory_order_acquire);
}

}  // namespace hatchway
