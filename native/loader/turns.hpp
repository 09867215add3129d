// The turns of a loader that come most often, on the board, under the lock: plan a
// home batch, make batches, claim samples, forget what was delivered. Each is the
// twin of the Python function that is named, for the common case; where another
// case is at hand it says so, and the twin can begin.
#pragma once

#include <Python.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "board.hpp"
#include "spans.hpp"

namespace hatchway {

struct Rules {
    bool fixed, in_order, rows_are_batch;
    std::int64_t batch_size, depth;
    std::int64_t max_displacement;  // below 0: any
};

enum class Composed : int { all = 0, held_back = 1, uncommon = 2 };

// Schedule.publish. False if some key is no int of 64 bits.
inline bool plan_home(const Board &at, PyObject *keys) {
    const Py_ssize_t count = PyList_GET_SIZE(keys);
    for (Py_ssize_t i = 0; i < count; ++i) {
        PyObject *key = PyList_GET_ITEM(keys, i);
        int overflow = 0;
        if (!PyLong_CheckExact(key)) return false;
        PyLong_AsLongLongAndOverflow(key, &overflow);
        if (overflow != 0) return false;
    }
    const std::int64_t first = at.head[head::published], home = at.head[head::homes];
    const std::size_t batch = at.home_slot(home);
    at.home_first[batch] = first;
    at.home_count[batch] = static_cast<std::int32_t>(count);
    at.home_block[batch] = at.home_keys[batch] = -1;
    at.home_emitted[batch] = 0;
    at.home_epoch[batch] = at.head[head::plan_epoch];
    at.home_start[batch] = at.head[head::plan_start];
    for (Py_ssize_t i = 0; i < count; ++i) {
        const std::size_t slot = at.slot(first + i);
        at.key[slot] = PyLong_AsLongLong(PyList_GET_ITEM(keys, i));
        at.attempts[slot] = 0;
        at.kind[slot] = kind::none;
        at.cost[slot] = 0.0F;
        at.lead[slot] = 0;
        at.block[slot] = -1;
        at.home[slot] = home;
        at.row[slot] = static_cast<std::int32_t>(i);
        at.status[slot] = status::planned;
    }
    put(at.head[head::homes], home + 1);
    put(at.head[head::published], first + static_cast<std::int64_t>(count));
    if (at.head[head::plan_epoch] == at.head[head::epoch]) {
        put(at.head[head::home_end], home + 1);
        put(at.head[head::end], first + static_cast<std::int64_t>(count));
    }
    return true;
}

// Delivery._describe: an outgoing batch is ready as it lies, or to be collated.
inline void describe(const Board &at, const Rules &rules, std::size_t out, std::int64_t first,
                     std::int64_t last, std::int64_t count, bool are_rows) {
    const std::size_t home = at.home_slot(at.home[at.slot(first)]);
    at.out_attempts[out] = 0;
    if (rules.rows_are_batch && are_rows && at.home_block[home] >= 0 &&
        count == at.home_count[home] && first == at.home_first[home] && last == first + count - 1) {
        at.out_fixed[out] = 1;
        at.out_first[out] = first;
        at.out_kind[out] = kind::row;
        at.out_block[out] = at.home_block[home];
        put(at.out_status[out], outgoing::ready);
    } else {
        put(at.out_status[out], outgoing::composed);
    }
}

// Delivery._compose_home.
inline Composed compose_home(const Board &at, const Rules &rules, std::int64_t home) {
    const std::size_t batch = at.home_slot(home);
    if (at.home_emitted[batch] != 0) return Composed::all;
    const std::int64_t first = at.home_first[batch], count = at.home_count[batch];
    bool is_common = true, are_rows = true;
    for (std::int64_t i = 0; i < count; ++i) {
        const std::size_t slot = at.slot(first + i);
        const std::uint8_t status = look(at.status[slot]);
        if (status != status::done && status != status::failed) return Composed::all;
        is_common &= status == status::done && at.kind[slot] != kind::collated;
        are_rows &= at.kind[slot] == kind::row;
    }
    if (!is_common) return Composed::uncommon;
    const std::size_t out = at.out_slot(home);
    at.out_fixed[out] = 1;
    at.out_first[out] = first;
    at.out_count[out] = static_cast<std::int32_t>(count);
    describe(at, rules, out, first, first + count - 1, count, are_rows);
    for (std::int64_t i = 0; i < count; ++i) put(at.status[at.slot(first + i)], status::taken);
    put(at.home_emitted[batch], std::uint8_t{1});
    return Composed::all;
}

// Delivery._compose_free, with waits_for_fast.
inline Composed compose_free(const Board &at, const Rules &rules, double now_s,
                             std::vector<std::int64_t> &chosen) {
    if (at.head[head::script_turn] < at.head[head::script_end]) return Composed::uncommon;
    while (at.head[head::out_head] - at.head[head::out_tail] < rules.depth) {
        const std::int64_t begin = at.head[head::tail], end = at.head[head::end];
        chosen.clear();
        bool is_common = true, are_rows = true, waits = false;
        std::int64_t oldest = -1, num_left = begin;
        for (std::int64_t position = begin; position < end; ++position) {
            const std::size_t slot = at.slot(position);
            const std::uint8_t status = look(at.status[slot]);
            if (status == status::done || status == status::failed) {
                is_common &= status == status::done && at.kind[slot] != kind::collated;
                if (static_cast<std::int64_t>(chosen.size()) == rules.batch_size) continue;
                are_rows &= at.kind[slot] == kind::row;
                chosen.push_back(position);
            } else if (status == status::planned || status == status::claimed) {
                if (oldest < 0) oldest = position;
                if (status == status::claimed &&
                    static_cast<std::int64_t>(chosen.size()) < rules.batch_size) {
                    const double age_s = now_s - at.started[static_cast<std::size_t>(at.worker[slot])];
                    const double left_s = at.lead[slot] > 0 ? std::abs(at.cost[slot] - age_s) : age_s;
                    waits |= left_s <= at.cut_s[1];
                }
            } else {
                num_left += status >= status::taken;
            }
        }
        const auto count = static_cast<std::int64_t>(chosen.size());
        if (count < rules.batch_size)
            return oldest >= 0 ? Composed::all : Composed::uncommon;
        // The first batch has no times to tell what is fast by.
        if (!is_common || at.cut_s[1] == 0.0) return Composed::uncommon;
        if (rules.max_displacement >= 0 && oldest >= 0 &&
            num_left + count - oldest > rules.max_displacement) {
            put(at.head[head::held_out], at.head[head::out_head] + 1);
            return Composed::all;
        }
        if (waits) return Composed::held_back;
        const std::int64_t number = at.head[head::out_head];
        const std::size_t out = at.out_slot(number);
        std::copy(chosen.begin(), chosen.end(), at.members + out * at.num_members);
        at.out_fixed[out] = 0;
        at.out_count[out] = static_cast<std::int32_t>(count);
        describe(at, rules, out, chosen.front(), chosen.back(), count, are_rows);
        for (const std::int64_t position : chosen) put(at.status[at.slot(position)], status::taken);
        put(at.head[head::out_head], number + 1);
    }
    return Composed::all;
}

// Whether a worker but ``me`` is held up with samples that it has not begun.
inline bool is_stuck(const Board &at, std::size_t me, double now_s, double visit_s) {
    for (std::size_t i = 0; i < at.num_workers; ++i) {
        const std::uint64_t span =
            std::atomic_ref<std::uint64_t>(at.span[i]).load(std::memory_order_relaxed);
        if (i != me && next_of(span) < end_of(span) && now_s - at.started[i] > visit_s) return true;
    }
    return false;
}

// Schedule.next_early, with _num_predicted_slow.
inline std::int64_t next_early(const Board &at, std::size_t worker) {
    const std::int64_t cursor = at.head[head::cursor], end = at.head[head::published];
    std::int64_t chosen = -1, latest = 0;
    for (std::int64_t position = cursor; position < end; ++position) {
        const std::size_t slot = at.slot(position);
        if (at.lead[slot] <= 0 || look(at.status[slot]) != status::planned) continue;
        if (chosen < 0 || position - at.lead[slot] < latest) {
            chosen = position;
            latest = position - at.lead[slot];
        }
    }
    if (chosen < 0) put(at.head[head::num_early], std::int64_t{0});
    if (chosen < 0 || latest > cursor) return -1;
    const std::int64_t num_processes = at.head[head::num_processes];
    std::int64_t num_slow = 0, finished = 0;
    for (std::size_t i = 0; i < at.num_workers; ++i)
        num_slow += i != worker && at.running[i] == running::sample && at.alive[i] != alive::gone &&
                    at.lead[at.slot(at.current[i])] > 0;
    if (num_slow < num_processes - 1) return chosen;
    for (std::int64_t position = at.head[head::tail]; position < end; ++position) {
        const std::uint8_t status = look(at.status[at.slot(position)]);
        finished += status == status::done || status == status::taken;
    }
    const bool is_worth = finished * num_processes >= at.lead[at.slot(chosen)];
    return num_slow < num_processes && is_worth ? chosen : -1;
}

// What a worker brings to the board, and how much it wants to take.
struct Visitor {
    std::size_t worker;
    std::int64_t last, want, most_bytes;
    bool has_run_all;
    double now_s, visit_s;
};

// Admission.memory_left, but for the second look.
inline bool memory_left(const Board &at, std::int64_t want, std::size_t home,
                        std::int64_t most_bytes) {
    const std::int64_t num_samples = want + at.head[head::num_processes];
    const std::int64_t needed = at.head[head::row_bytes] * at.home_count[home] +
                                at.head[head::sample_bytes] * num_samples;
    return at.head[head::resident] + needed < most_bytes;
}

// Worker._claim, with _claim_early and Admission.free_stuck_chunks. The number of
// samples claimed, from current[worker] on; 0 where the case is another.
inline std::int64_t claim(const Board &at, const Visitor &visitor) {
    const std::size_t worker = visitor.worker;
    std::int64_t cursor = at.head[head::cursor];
    const std::int64_t end = at.head[head::published];
    if (cursor >= end || at.head[head::num_retry] != 0 ||
        is_stuck(at, worker, visitor.now_s, visitor.visit_s))
        return 0;
    const std::int64_t early = at.head[head::num_early] != 0 ? next_early(at, worker) : -1;
    while (cursor < end && look(at.status[at.slot(cursor)]) != status::planned) ++cursor;
    const std::int64_t first = early >= 0 ? early : cursor;
    if (first == end) return 0;
    const std::size_t home = at.home_slot(at.home[at.slot(first)]);
    const bool has_rows = at.head[head::rows] == rows::agreed;
    if (has_rows && at.home_block[home] < 0) return 0;
    const std::int64_t want = early >= 0 ? 1 : std::max<std::int64_t>(visitor.want, 1);
    if (!memory_left(at, want, home, visitor.most_bytes / (early >= 0 ? 2 : 1))) return 0;
    const std::int64_t most = std::min({want, end - first, at.home_first[home] +
                                                              at.home_count[home] - first});
    std::int64_t count = 1;
    while (count < most && look(at.status[at.slot(first + count)]) == status::planned) ++count;
    for (std::int64_t i = 0; i < count; ++i)
        at.worker[at.slot(first + i)] = static_cast<std::int16_t>(worker);
    for (std::int64_t i = 0; i < count; ++i)
        put(at.status[at.slot(first + i)], status::claimed);
    if (first == cursor) cursor += count;
    while (cursor < end && look(at.status[at.slot(cursor)]) != status::planned) ++cursor;
    put(at.head[head::cursor], cursor);
    put(at.running[worker], running::sample);
    put(at.current[worker], first);
    put(at.started[worker], visitor.now_s);
    put(at.chunk_first[worker], first);
    put(at.span[worker], pack(0, static_cast<std::uint32_t>(count)));
    return count;
}

inline bool any_outgoing(const Board &at, std::uint8_t status) {
    const std::uint8_t *const begin = at.out_status, *const end = begin + at.out_mask + 1;
    return std::find(begin, end, status) != end;
}

// Whether the training loop may have a batch to take.
inline bool may_be_ready(const Board &at, const Rules &rules) {
    if (rules.in_order)
        return at.out_status[at.out_slot(at.head[head::out_tail])] == outgoing::ready;
    return any_outgoing(at, outgoing::ready);
}

// Worker._next_work: hand in, make batches, claim samples. The number of samples
// claimed; 0 where the case is another (among them: that there are background
// workers): the twin, begun anew, finds what is done done.
inline std::int64_t next_work(const Board &at, const Rules &rules, const Visitor &visitor,
                              std::vector<std::int64_t> &chosen) {
    std::uint64_t &span = at.span[visitor.worker];
    if (at.head[head::stop] != 0 || (!visitor.has_run_all && end_of(span) != 0) ||
        at.head[head::num_processes] > at.head[head::num_seats])
        return 0;
    put(span, pack(0, 0));
    bool is_held_back = false;
    if (visitor.last >= 0) {
        put(at.started[visitor.worker], 0.0);
        const Composed composed =
            rules.fixed ? compose_home(at, rules, at.home[at.slot(visitor.last)])
                        : compose_free(at, rules, visitor.now_s, chosen);
        if (composed == Composed::uncommon) return 0;
        is_held_back = composed == Composed::held_back;
    }
    // News for the training loop, or a batch to collate.
    const std::int64_t waiting = at.head[head::waiting];
    if (waiting == waiting::epoch_end || (waiting == waiting::batch && is_held_back) ||
        (waiting != waiting::nothing && may_be_ready(at, rules)) ||
        any_outgoing(at, outgoing::composed))
        return 0;
    return claim(at, visitor);
}

enum class Consumed : int { all = 0, but_homes = 1, uncommon = 2 };

// Retirement.consume for [first, end) if it is one whole home batch that holds no
// block any more. `but_homes`: Retirement.advance has a home batch's blocks to free.
inline Consumed consume_home(const Board &at, std::int64_t first, std::int64_t end) {
    const std::size_t batch = at.home_slot(at.home[at.slot(first)]);
    if (at.home_first[batch] != first || first + at.home_count[batch] != end ||
        at.home_block[batch] >= 0 || at.home_keys[batch] >= 0)
        return Consumed::uncommon;
    for (std::int64_t position = first; position < end; ++position)
        if (at.block[at.slot(position)] >= 0) return Consumed::uncommon;
    for (std::int64_t position = first; position < end; ++position)
        put(at.status[at.slot(position)], status::consumed);
    std::int64_t tail = at.head[head::tail];
    while (tail < at.head[head::published] && at.status[at.slot(tail)] == status::consumed) ++tail;
    put(at.head[head::cursor], std::max(at.head[head::cursor], tail));
    put(at.head[head::tail], tail);
    for (std::int64_t home = at.head[head::home_tail]; home < at.head[head::homes]; ++home) {
        const std::size_t next = at.home_slot(home);
        if (at.home_first[next] + at.home_count[next] > tail) break;
        if (at.home_block[next] >= 0 || at.home_keys[next] >= 0) return Consumed::but_homes;
        put(at.head[head::home_tail], home + 1);
    }
    return Consumed::all;
}

}  // namespace hatchway
