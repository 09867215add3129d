// Run the samples of a chunk: the twin of SampleRunner._run_sample in samples.py.
// It returns to Python for whatever is not the common case.
#pragma once

#include <Python.h>
#include <cxxabi.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <ctime>

#include "generators.hpp"
#include "rows.hpp"
#include "spans.hpp"

namespace hatchway {

// Call what may run Python code in a thread. When the interpreter ends, CPython before 3.14
// unwinds a daemon thread that wants to go on; nanobind takes that for an exception, and
// crashes. Such a thread waits here for the end of the process, as it does from 3.14 on.
template <typename Call> void stay_at_interpreter_end(Call &&call) {
#ifdef __GLIBCXX__
    try {
        call();
    } catch (abi::__forced_unwind &) {
        for (;;) pause();
    }
#else
    call();
#endif
}

// Why the loop came back.
enum class Return : int { exhausted = 0, unwritten = 1, visit = 2 };

// The board's columns that the loop touches; see board.py.
struct Columns {
    std::uint64_t *span;
    double *started;
    std::int64_t *current;
    std::int64_t *key;
    std::int32_t *row;
    std::uint8_t *status;
    std::uint8_t *kind;
    float *seconds;
    std::uint64_t mask;
    std::size_t worker;
    std::uint8_t done_status, row_kind;
};

struct ChunkState {
    std::int64_t first;
    std::uint64_t base_seed, epoch;
    std::int64_t epoch_start;
    double visited, visit_s;
    std::int64_t done = 0;
    std::int64_t position = -1;
    double ended = 0.0;
};

inline double monotonic_s() {
    timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

// On `unwritten`, *sample holds a new reference. A null *sample with an exception
// set means that the dataset raised; columns.current says at which position.
inline Return run_chunk(const Columns &at, ChunkState &state, PyObject *dataset, PyObject *keys,
                        const Node *node, const GeneratorAddresses *generators,
                        PyObject *python_random, PyObject **sample) {
    static PyObject *const gauss_next = PyUnicode_InternFromString("gauss_next");
    for (;;) {
        const std::int64_t offset = span_take(at.span[at.worker]);
        if (offset < 0) return Return::exhausted;
        const std::int64_t position = state.first + offset;
        const auto slot = static_cast<std::uint64_t>(position) & at.mask;
        const double begun = monotonic_s();
        at.current[at.worker] = position;
        at.started[at.worker] = begun;
        state.position = position;
        PyObject *key;
        if (keys == nullptr) {
            key = PyLong_FromLongLong(at.key[slot]);
        } else {
            key = PyList_GetItem(keys, at.row[slot]);
            Py_XINCREF(key);
        }
        if (key == nullptr) return Return::unwritten;
        if (generators != nullptr) {
            seed_generators(*generators, state.base_seed, state.epoch,
                            static_cast<std::uint64_t>(position - state.epoch_start));
            if (PyObject_SetAttr(python_random, gauss_next, Py_None) != 0) PyErr_Clear();
        }
        PyObject *value = PyObject_GetItem(dataset, key);
        Py_DECREF(key);
        const bool is_written =
            value != nullptr && node != nullptr &&
            write_value(*node, static_cast<std::size_t>(at.row[slot]), value);
        // Writing its row belongs to a sample: a large one takes longer to write than to get.
        const double ended = monotonic_s();
        at.seconds[slot] = static_cast<float>(ended - begun);
        state.ended = ended;
        ++state.done;
        if (!is_written) {
            *sample = value;
            return Return::unwritten;
        }
        Py_DECREF(value);
        at.kind[slot] = at.row_kind;
        std::atomic_ref<std::uint8_t>(at.status[slot])
            .store(at.done_status, std::memory_order_release);
        if (ended - state.visited > state.visit_s) return Return::visit;
    }
}

}  // namespace hatchway
