// Binding of the kernels that work on the board as a whole.
#include <Python.h>
#include <nanobind/nanobind.h>

#include <cstdint>
#include <map>
#include <vector>

#include "board.hpp"
#include "base/buffers.hpp"
#include "turns.hpp"

namespace hatchway {

namespace {

using Constants = nb::typed<nb::dict, nb::str, int>;
using Keys = nb::typed<nb::list, nb::any>;

bool is_ring(Table table) {
    return table == Table::positions || table == Table::homes || table == Table::outgoing;
}

class BoardKernel {
  public:
    BoardKernel(ColumnBuffers columns, bool fixed, bool in_order, bool rows_are_batch,
                std::int64_t batch_size, std::int64_t depth, std::int64_t max_displacement)
        : held_(columns),
          rules_{fixed, in_order, rows_are_batch, batch_size, depth, max_displacement} {
        std::map<Table, std::size_t> sizes{{Table::head, 64}, {Table::cut, 2}};
        each_column(at_, [&](Table table, const char *name, auto *&cells) {
            const std::size_t count = held_.open(name, cells);
            const auto [size, is_first] = sizes.try_emplace(table, count);
            if (is_first && is_ring(table)) ring_mask(count);
            if (size->second != count) throw nb::value_error("columns do not fit together");
        });
        at_.mask = ring_mask(sizes[Table::positions]);
        at_.home_mask = ring_mask(sizes[Table::homes]);
        at_.out_mask = ring_mask(sizes[Table::outgoing]);
        at_.num_workers = sizes[Table::workers];
        at_.num_members = sizes[Table::members] / sizes[Table::outgoing];
        if (batch_size < 1 || (!fixed && static_cast<std::size_t>(batch_size) > at_.num_members))
            throw nb::value_error("members do not fit the batch size");
    }

    BoardKernel(const BoardKernel &) = delete;
    BoardKernel &operator=(const BoardKernel &) = delete;

    bool plan(Keys keys) { return plan_home(at_, keys.ptr()); }

    std::int64_t next_work(std::size_t worker, std::int64_t last, bool has_run_all,
                           std::int64_t want, double now_s, double visit_s,
                           std::int64_t most_bytes) {
        if (worker >= at_.num_workers) throw nb::index_error("no such worker");
        return hatchway::next_work(
            at_, rules_, {worker, last, want, most_bytes, has_run_all, now_s, visit_s}, chosen_);
    }

    int compose(std::int64_t position, double now_s) {
        if (!rules_.fixed) return static_cast<int>(compose_free(at_, rules_, now_s, chosen_));
        if (position < 0) return static_cast<int>(Composed::uncommon);
        return static_cast<int>(compose_home(at_, rules_, at_.home[at_.slot(position)]));
    }

    int consume(std::int64_t first, std::int64_t end) {
        return static_cast<int>(consume_home(at_, first, end));
    }

    static Constants constants() {
        nb::dict all;
        const auto note = [&all](const char *name, std::size_t value) { all[name] = value; };
        note("Composed.ALL", static_cast<std::size_t>(Composed::all));
        note("Composed.HELD_BACK", static_cast<std::size_t>(Composed::held_back));
        note("Composed.UNCOMMON", static_cast<std::size_t>(Composed::uncommon));
        note("Consumed.ALL", static_cast<std::size_t>(Consumed::all));
        note("Consumed.BUT_HOMES", static_cast<std::size_t>(Consumed::but_homes));
        note("Consumed.UNCOMMON", static_cast<std::size_t>(Consumed::uncommon));
        note("Status.PLANNED", status::planned);
        note("Status.CLAIMED", status::claimed);
        note("Status.DONE", status::done);
        note("Status.FAILED", status::failed);
        note("Status.TAKEN", status::taken);
        note("Status.CONSUMED", status::consumed);
        note("Kind.NONE", kind::none);
        note("Kind.ROW", kind::row);
        note("Kind.COLLATED", kind::collated);
        note("Outgoing.COMPOSED", outgoing::composed);
        note("Outgoing.READY", outgoing::ready);
        note("Running.SAMPLE", running::sample);
        note("Waiting.NOTHING", waiting::nothing);
        note("Waiting.BATCH", waiting::batch);
        note("Waiting.EPOCH_END", waiting::epoch_end);
        note("Head.STOP", head::stop);
        note("Head.WAITING", head::waiting);
        note("Head.PUBLISHED", head::published);
        note("Head.CURSOR", head::cursor);
        note("Head.TAIL", head::tail);
        note("Head.NUM_RETRY", head::num_retry);
        note("Head.HOMES", head::homes);
        note("Head.HOME_TAIL", head::home_tail);
        note("Head.OUT_TAIL", head::out_tail);
        note("Head.OUT_HEAD", head::out_head);
        note("Head.ROWS", head::rows);
        note("Head.ROW_BYTES", head::row_bytes);
        note("Head.RESIDENT", head::resident);
        note("Head.SAMPLE_BYTES", head::sample_bytes);
        note("Head.NUM_SEATS", head::num_seats);
        note("Head.NUM_PROCESSES", head::num_processes);
        note("Head.NUM_EARLY", head::num_early);
        note("Head.HELD_OUT", head::held_out);
        note("Head.EPOCH", head::epoch);
        note("Head.END", head::end);
        note("Head.HOME_END", head::home_end);
        note("Head.PLAN_EPOCH", head::plan_epoch);
        note("Head.PLAN_START", head::plan_start);
        note("Head.SCRIPT_TURN", head::script_turn);
        note("Head.SCRIPT_END", head::script_end);
        return Constants(all);
    }

  private:
    HeldColumns held_;
    Board at_{};
    Rules rules_;
    std::vector<std::int64_t> chosen_;
};

}  // namespace

void bind_board(nb::module_ &m) {
    nb::class_<BoardKernel>(m, "BoardKernel", "Turns on the board, in the common case.")
        .def(nb::init<ColumnBuffers, bool, bool, bool, std::int64_t, std::int64_t, std::int64_t>(),
             nb::arg("columns"), nb::kw_only(), nb::arg("fixed"), nb::arg("in_order"),
             nb::arg("rows_are_batch"), nb::arg("batch_size"), nb::arg("depth"),
             nb::arg("max_displacement"))
        .def("plan", &BoardKernel::plan, nb::arg("keys"),
             "Plan a home batch of int keys; False, with nothing planned, for other keys.")
        .def("next_work", &BoardKernel::next_work, nb::arg("worker"), nb::arg("last"),
             nb::arg("has_run_all"), nb::arg("want"), nb::arg("now_s"), nb::arg("visit_s"),
             nb::arg("most_bytes"),
             "Hand in and claim up to ``want`` samples, from ``current`` of the worker on; how "
             "many, or 0 where the case is not the common one.")
        .def("compose", &BoardKernel::compose, nb::arg("position"), nb::arg("now_s"),
             "Make every batch that can be made: 0, or 1 where one is held back for a running "
             "sample, or 2 where the case is not the common one.")
        .def("consume", &BoardKernel::consume, nb::arg("first"), nb::arg("end"),
             "Forget a delivered home batch: 0, or 1 where the tail of home batches must be "
             "moved on, or 2 where the case is not the common one.")
        .def_static("constants", &BoardKernel::constants,
                    "The names and values that it shares with board.py and kernel.py.");
}

}  // namespace hatchway
