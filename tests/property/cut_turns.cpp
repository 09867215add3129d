// A worker's native turn, cut off before one of its stores, as by a death.
// Built and called by test_death_in_a_turn.py.
#include <algorithm>
#include <cstdint>
#include <string>
#include <type_traits>
#include <vector>

namespace {

struct Death {};
std::int64_t puts_left = 0;

void before_put() {
    if (puts_left-- == 0) throw Death{};
}

}  // namespace

#define HATCHWAY_BEFORE_PUT before_put();
#include "turns.hpp"

// Returns what the turn returns, or -1 if it was cut off; `left` says how many
// stores more it might have made.
extern "C" std::int64_t next_work(std::size_t num_columns, const char *const *names,
                                  void *const *columns, const std::uint64_t *sizes,
                                  const std::int64_t *rules, std::int64_t worker,
                                  std::int64_t last, bool has_run_all, std::int64_t want,
                                  double now_s, double visit_s, std::int64_t most_bytes,
                                  std::int64_t *left) {
    hatchway::Board at{};
    hatchway::each_column(at, [&](hatchway::Table, const std::string &name, auto *&cells) {
        const auto found = std::find(names, names + num_columns, name) - names;
        cells = static_cast<std::remove_reference_t<decltype(cells)>>(columns[found]);
    });
    at.mask = sizes[0] - 1;
    at.home_mask = sizes[1] - 1;
    at.out_mask = sizes[2] - 1;
    at.num_workers = sizes[3];
    at.num_members = sizes[4];
    std::vector<std::int64_t> chosen;
    puts_left = *left;
    std::int64_t claimed = -1;
    try {
        claimed = hatchway::next_work(
            at, {rules[0] != 0, rules[1] != 0, rules[2] != 0, rules[3], rules[4], rules[5]},
            {static_cast<std::size_t>(worker), last, want, most_bytes, has_run_all, now_s, visit_s},
            chosen);
    } catch (const Death &) {
    }
    *left = puts_left;
    return claimed;
}
