// The L2 entries of one file, from the beginning of its disk to the end, each read once: taken as
// they lie in the file, and painted over those of the files below. The twin is index/tables.py.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "layers.hpp"
#include "merge.hpp"
#include "words.hpp"

namespace hatchway {

// Leaves that lie behind each other, all of which are in memory in full.
struct Canvas {
    std::uint64_t start;  // guest offset
    int granule_bits;
    std::uint64_t num_granules;
    std::uint64_t *words;
    std::uint16_t *layers;
    bool *is_painted;  // of each leaf

    // Of [begin, begin + bytes) a file says ``word`` now; the canvas ends where it ends.
    void put(std::uint64_t begin, std::uint64_t bytes, std::uint64_t word, std::uint16_t layer) {
        const std::uint64_t first = (begin - start) >> granule_bits;
        const std::uint64_t end = std::min(first + (bytes >> granule_bits), num_granules);
        const std::uint64_t step = kind_of(word) == kData ? 1ULL << granule_bits : 0;
        for (std::uint64_t rank = first; rank < end; ++rank, word += step) {
            words[rank] = word;
            layers[rank] = layer;
            is_painted[rank >> kLeafBits] = true;
        }
    }
};

class TableReader {
  public:
    static constexpr std::uint64_t kNone = UINT64_MAX;

    // A qcow2 file, open.
    explicit TableReader(std::unique_ptr<Layer> layer) : layer_(std::move(layer)) {
        const std::uint64_t size = layer_->size;
        num_clusters_ = (size >> layer_->cluster_bits) + (size % layer_->rules.cluster_bytes != 0);
        const std::uint64_t per_table = layer_->entries_per_table();
        num_tables_ = std::min(layer_->l1_size, (num_clusters_ + per_table - 1) / per_table);
    }

    // To be called first. False where the file is left to Python.
    bool open() { return seek(0); }

    // From which guest cluster on there is more; kNone at the end.
    std::uint64_t next() const { return next_; }
    const Layer &layer() const { return *layer_; }

    // Appends what there is up to guest cluster ``end``, entries that are 0 left out: the number
    // of the cluster, little-endian, and the entry as it lies in the file; and has what it says on
    // the canvas, if there is one. False where Python is to do it: something is damaged, or cannot be read.
    bool take(std::uint64_t end, std::vector<std::uint64_t> &taken, Canvas *canvas,
              std::uint16_t number) {
        const std::uint64_t per_table = layer_->entries_per_table();
        while (next_ < end) {
            const std::uint64_t table = next_ / per_table;
            const std::uint64_t stop = std::min((table + 1) * per_table, num_clusters_);
            const std::uint64_t until = std::min(stop, end);
            const std::uint64_t offset = l1_entry(table);
            if (offset % layer_->rules.cluster_bytes != 0) return false;
            while (next_ < until) {
                const std::uint64_t count = std::min(until - next_, kPieceBytes / entry_bytes());
                const std::uint64_t at = offset + next_ % per_table * entry_bytes();
                if (!take_piece(at, count, taken, canvas, number)) return false;
                next_ += count;
            }
            if (until == stop && !seek(table + 1)) return false;
        }
        return true;
    }

  private:
    // What is read at once stays in the processor's cache while it is looked at. Most of what a
    // layer's tables hold is nothing; cells of 8 bytes are looked at so many at once.
    static constexpr std::uint64_t kPieceBytes = 1 << 16, kAtOnce = 32;
    static constexpr std::uint64_t kL1Entries = kKeptL1Bytes / 8;

    std::uint64_t entry_bytes() const { return static_cast<std::uint64_t>(layer_->entry_bytes()); }

    std::uint64_t l1_entry(std::uint64_t table) const {
        return from_big_endian(l1_[table % kL1Entries]) & kOffsetMask;
    }

    // Goes to the first table from number ``table`` on that there is.
    bool seek(std::uint64_t table) {
        for (; table < num_tables_; ++table) {
            if (table % kL1Entries == 0) {
                l1_.resize(std::min(kL1Entries, num_tables_ - table));
                const std::size_t bytes = l1_.size() * 8;
                if (read_fully(layer_->fd, l1_.data(), bytes, layer_->l1_offset + table * 8) !=
                    static_cast<ssize_t>(bytes))
                    return false;
            }
            if (l1_entry(table) != 0) {
                next_ = table * layer_->entries_per_table();
                return true;
            }
        }
        next_ = kNone;
        return true;
    }

    bool take_piece(std::uint64_t offset, std::uint64_t count, std::vector<std::uint64_t> &taken,
                    Canvas *canvas, std::uint16_t number) {
        alignas(64) std::uint64_t cells[kPieceBytes / 8];
        const std::uint64_t bytes = count * entry_bytes(), width = entry_bytes() / 8;
        if (read_fully(layer_->fd, cells, bytes, offset) != static_cast<ssize_t>(bytes))
            return false;
        const std::uint64_t num_cells = count * width;
        std::fill(cells + num_cells, cells + (num_cells + kAtOnce - 1) / kAtOnce * kAtOnce, 0);
        for (std::uint64_t first = 0; first < num_cells; first += kAtOnce) {
            std::uint64_t any = 0;
            for (std::uint64_t at = 0; at < kAtOnce; ++at) any |= cells[first + at];
            if (any == 0) continue;
            for (std::uint64_t at = first; at < first + kAtOnce; at += width)
                if (!take_entry(next_ + at / width, cells + at, width, taken, canvas, number))
                    return false;
        }
        return true;
    }

    bool take_entry(std::uint64_t cluster, const std::uint64_t *raw, std::uint64_t width,
                    std::vector<std::uint64_t> &taken, Canvas *canvas, std::uint16_t number) const {
        const std::uint64_t raw_bitmap = width == 2 ? raw[1] : 0;
        if ((raw[0] | raw_bitmap) == 0) return true;
        taken.push_back(to_little_endian(cluster));
        taken.insert(taken.end(), raw, raw + width);
        if (canvas == nullptr) return true;
        const std::uint64_t entry = from_big_endian(raw[0]), bitmap = from_big_endian(raw_bitmap);
        if (is_wrong(entry, bitmap, layer_->rules)) return false;
        const std::uint64_t begin = cluster << layer_->cluster_bits;
        for_each_piece(entry, bitmap, layer_->rules,
                       [&](std::uint64_t within, std::uint64_t bytes, std::uint64_t word) {
                           if (word != kHole) canvas->put(begin + within, bytes, word, number);
                       });
        return true;
    }

    std::unique_ptr<Layer> layer_;
    std::uint64_t num_clusters_, num_tables_, next_ = kNone;
    std::vector<std::uint64_t> l1_;  // the piece that ``next_`` lies in
};

}  // namespace hatchway
