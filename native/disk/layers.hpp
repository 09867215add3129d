// The files of a chain as the kernel sees them: descriptors, and where their tables lie.
#pragma once

#include <sys/types.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "words.hpp"

namespace hatchway {

// An L1 table that is longer is read piece by piece, as it is needed.
constexpr std::uint64_t kKeptL1Bytes = 512;

// Reads until all is there or the file ends. Returns what was read, or -1.
inline ssize_t read_fully(int fd, void *target, std::size_t size, std::uint64_t offset) {
    if (offset > static_cast<std::uint64_t>(INT64_MAX) - size) return 0;
    std::size_t done = 0;
    while (done < size) {
        const ssize_t got = pread(fd, static_cast<char *>(target) + done, size - done,
                                  static_cast<off_t>(offset + done));
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return -1;
        if (got == 0) break;
        done += static_cast<std::size_t>(got);
    }
    return static_cast<ssize_t>(done);
}

class Layer {
  public:
    // These change while others read: of its tables, of its clusters; -1 where none is open.
    std::atomic<int> fd, data_fd;
    std::atomic<std::uint64_t> size;   // of its disk, in bytes
    std::atomic<std::uint64_t> limit;  // up to where of the chain's disk it is seen
    bool is_raw;
    int cluster_bits;
    std::uint64_t l1_offset, l1_size;
    EntryRules rules;

    int entry_bytes() const { return rules.has_subclusters ? 16 : 8; }
    std::uint64_t entries_per_table() const { return rules.cluster_bytes / entry_bytes(); }

    // Where an L2 table begins, 0 without one; false if that cannot be told.
    bool table_at(std::uint64_t rank, std::uint64_t &offset) {
        offset = 0;
        if (rank >= l1_size) return true;
        std::uint64_t entry;
        if (l1_size * 8 <= kKeptL1Bytes) {
            const std::uint64_t *kept = l1();
            if (kept == nullptr) return false;
            entry = kept[rank];
        } else if (read_fully(fd, &entry, 8, l1_offset + rank * 8) != 8) {
            return false;
        }
        offset = from_big_endian(entry) & kOffsetMask;
        return offset % rules.cluster_bytes == 0;
    }

  private:
    // Threads that come at the same time may each read it; one of the tables is kept.
    const std::uint64_t *l1() {
        const std::uint64_t *kept = l1_.load(std::memory_order_acquire);
        if (kept != nullptr) return kept;
        auto table = std::make_unique<std::uint64_t[]>(l1_size);
        const auto bytes = static_cast<ssize_t>(l1_size * 8);
        if (read_fully(fd, table.get(), l1_size * 8, l1_offset) != bytes) return nullptr;
        if (l1_.compare_exchange_strong(kept, table.get(), std::memory_order_acq_rel))
            return table.release();
        return kept;
    }

    std::atomic<const std::uint64_t *> l1_{nullptr};

  public:
    Layer() = default;
    Layer(const Layer &) = delete;
    Layer &operator=(const Layer &) = delete;
    ~Layer() { delete[] l1_.load(); }
};

using Layers = std::vector<std::shared_ptr<Layer>>;

}  // namespace hatchway
