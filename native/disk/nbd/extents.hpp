// Answers to block status: what of the disk is data, holes and zeros.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "exports.hpp"
#include "protocol.hpp"

namespace hatchway::nbd {

struct StatusExtent {
    std::uint32_t length, state;
};

// A client asks again for what an answer does not reach.
constexpr std::size_t kMostExtents = 1024;
constexpr int kMostLoads = 64;

inline std::uint32_t state_of(const Run &run, Context context, std::size_t num_layers) {
    if (context == kDepth)
        return run.kind == kHole ? 0 : static_cast<std::uint32_t>(num_layers - run.layer);
    return run.kind == kData || run.kind == kCompressed ? 0 : kStateHole | kStateZero;
}

// The extents of [start, end) from its beginning on. ``would_block`` where a leaf is missing and
// may not be made; an empty answer where it cannot be made.
inline Outcome extents_of(Export &from, Context context, std::uint64_t start, std::uint64_t end,
                          bool only_one, bool may_block, std::vector<StatusExtent> &found) {
    Chain &chain = from.chain;
    const std::uint64_t leaf_bytes = kLeafGranules << chain.granule_bits();
    int num_loads = 0;
    while (start < end) {
        Run run;
        std::size_t num_layers;
        {
            const auto use = chain.in_use();
            num_layers = chain.num_layers();
            const bool is_there = chain.find(start, end, run);
            if (!is_there && !may_block) return Outcome::would_block;
            if (!is_there) run.length = 0;
        }
        if (run.length == 0) {
            if (++num_loads > kMostLoads || from.backend.load(start / leaf_bytes) != 0) break;
            continue;
        }
        const std::uint32_t state = state_of(run, context, num_layers);
        if (!found.empty() && found.back().state == state) {
            found.back().length += static_cast<std::uint32_t>(run.length);
        } else {
            if (found.size() == (only_one ? 1 : kMostExtents)) break;
            found.push_back({static_cast<std::uint32_t>(run.length), state});
        }
        start += run.length;
    }
    return Outcome::done;
}

}  // namespace hatchway::nbd
