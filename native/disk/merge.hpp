// Leaves: for each granule of a region, the highest file that says something of it, and what it
// says. The twin is leaves.py.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "layers.hpp"
#include "words.hpp"

namespace hatchway {

constexpr int kLeafBits = 9;
constexpr std::uint64_t kLeafGranules = 1 << kLeafBits;

struct Leaf {
    std::uint64_t words[kLeafGranules]{};
    std::uint16_t layers[kLeafGranules]{};
};

// Merges the tables of files into one leaf, the highest file first.
class Merger {
  public:
    Merger(Leaf &leaf, std::uint64_t start, int granule_bits)
        : leaf_(leaf), start_(start), granule_bits_(granule_bits) {
        for (std::uint64_t rank = 0; rank < kLeafGranules; ++rank)
            num_open_ += leaf.words[rank] == 0;
    }

    bool is_done() const { return num_open_ == 0; }

    // Fills in what a file says of granules of which none above it did. False if its tables
    // cannot be read, or contradict the format.
    bool add(Layer &layer, std::uint16_t number) {
        number_ = number;
        if (layer.is_raw) {
            fill(0, kLeafGranules, word_of(kData, start_));
            return true;
        }
        const std::uint64_t bytes = kLeafGranules << granule_bits_;
        const std::uint64_t first = start_ >> layer.cluster_bits;
        const std::uint64_t end = ((start_ + bytes - 1) >> layer.cluster_bits) + 1;
        const std::uint64_t per_table = layer.entries_per_table();
        for (std::uint64_t at = first; at < end;) {
            const std::uint64_t table = at / per_table;
            const std::uint64_t stop = std::min(end, (table + 1) * per_table);
            std::uint64_t offset;
            if (!layer.table_at(table, offset)) return false;
            if (offset != 0 && !add_clusters(layer, at, stop - at,
                                             offset + at % per_table * layer.entry_bytes()))
                return false;
            at = stop;
        }
        return true;
    }

  private:
    bool add_clusters(Layer &layer, std::uint64_t first, std::uint64_t count,
                      std::uint64_t offset) {
        // At most one cluster a granule, and 16 bytes a cluster.
        alignas(16) std::uint64_t entries[2 * kLeafGranules];
        const std::size_t bytes = count * layer.entry_bytes();
        if (read_fully(layer.fd, entries, bytes, offset) != static_cast<ssize_t>(bytes))
            return false;
        const int step = layer.rules.has_subclusters ? 2 : 1;
        for (std::uint64_t at = 0; at < count; ++at) {
            const std::uint64_t raw = entries[at * step];
            const std::uint64_t raw_bitmap = step == 2 ? entries[at * step + 1] : 0;
            if ((raw | raw_bitmap) == 0) continue;
            const std::uint64_t entry = from_big_endian(raw);
            const std::uint64_t bitmap = from_big_endian(raw_bitmap);
            if (is_wrong(entry, bitmap, layer.rules)) return false;
            const std::uint64_t begin = (first + at) << layer.cluster_bits;
            for_each_piece(entry, bitmap, layer.rules,
                           [&](std::uint64_t within, std::uint64_t piece_bytes, std::uint64_t word) {
                               if (word != kHole) add_piece(begin + within, piece_bytes, word);
                           });
        }
        return true;
    }

    // A piece may begin before the region, or end after it.
    void add_piece(std::uint64_t begin, std::uint64_t bytes, std::uint64_t word) {
        const std::uint64_t region_end = start_ + (kLeafGranules << granule_bits_);
        const std::uint64_t end = std::min(begin + bytes, region_end);
        const std::uint64_t from = std::max(begin, start_);
        if (from >= end) return;
        if (kind_of(word) == kData) word += from - begin;
        fill((from - start_) >> granule_bits_, (end - start_) >> granule_bits_, word);
    }

    void fill(std::uint64_t first, std::uint64_t end, std::uint64_t word) {
        const std::uint64_t step = kind_of(word) == kData ? 1ULL << granule_bits_ : 0;
        for (std::uint64_t rank = first; rank < end; ++rank, word += step) {
            if (leaf_.words[rank] != 0) continue;
            leaf_.words[rank] = word;
            leaf_.layers[rank] = number_;
            --num_open_;
        }
    }

    Leaf &leaf_;
    std::uint64_t start_;
    int granule_bits_;
    std::uint64_t num_open_ = 0;
    std::uint16_t number_ = 0;
};

// Merges files [first, end) of a chain into a leaf that may hold something already.
inline bool merge(const Layers &layers, std::size_t first, std::size_t end, std::uint64_t rank,
                  int granule_bits, Leaf &leaf) {
    const std::uint64_t start = rank << (kLeafBits + granule_bits);
    Merger merger(leaf, start, granule_bits);
    for (std::size_t number = end; number-- > first && !merger.is_done();) {
        Layer &layer = *layers[number];
        if (start >= layer.size) continue;
        if (layer.fd < 0 || !merger.add(layer, static_cast<std::uint16_t>(number))) return false;
    }
    return true;
}

}  // namespace hatchway
