// A chain as one disk: where each piece lies, and reads and writes of what lies in files.
// What is not the common case (compressed clusters, files that are not kept open, damage) is
// left to the Python twin, chain.py.
#pragma once

#include <fcntl.h>
#include <sys/uio.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>
#include <mutex>
#include <utility>

#include "layers.hpp"
#include "leaves.hpp"
#include "merge.hpp"
#include "noted.hpp"
#include "users.hpp"

namespace hatchway {

// A stretch of the disk of one kind, in one piece, in one file.
struct Run {
    std::uint64_t start, length;
    std::uint64_t kind;
    std::uint64_t host_offset;  // of data
    std::uint16_t layer;
};

enum class Outcome : int {
    done = 0,
    uncommon = 1,     // the Python twin does it
    would_block = 2,  // some of it is not in the page cache
};

class Chain {
  public:
    // What is known of where things lie is kept in ``leaves``, which chains of the same files
    // may have in common.
    Chain(Layers layers, std::uint64_t size, int granule_bits,
          std::shared_ptr<SharedLeaves> leaves, bool may_merge)
        : layers_(new Layers(std::move(layers))),
          size_(size),
          granule_bits_(granule_bits),
          may_merge_(may_merge),
          leaves_(std::move(leaves)) {}
    Chain(const Chain &) = delete;
    Chain &operator=(const Chain &) = delete;
    ~Chain() { delete layers_.load(); }

    std::uint64_t size() const { return size_.load(std::memory_order_relaxed); }
    int granule_bits() const { return granule_bits_; }
    const std::shared_ptr<SharedLeaves> &leaves() const { return leaves_; }
    std::size_t num_layers() const { return layers().size(); }
    int least_cluster_bits() const {
        int least = 21;
        for (const auto &layer : layers())
            if (!layer->is_raw) least = std::min(least, layer->cluster_bits);
        return least;
    }

    // Of an L2 entry of the highest file; 0 of a raw one.
    std::size_t top_entry_bytes() const {
        const Layer &top = *layers().back();
        return top.is_raw ? 0 : static_cast<std::size_t>(top.entry_bytes());
    }

    // While a use lasts, what ``find`` says holds: descriptors stay open, clusters are not used
    // for something else, and the list of files stays where it is.
    Users::Use in_use() { return users_.enter(); }

    // The run that begins at ``start``, up to ``end``. False without its leaf.
    bool find(std::uint64_t start, std::uint64_t end, Run &run) {
        return leaves_->locked([&](LeafCache &leaves) {
            const KeptLeaf *leaf = leaves.find(start >> (granule_bits_ + kLeafBits));
            if (leaf != nullptr) run_of(*leaf, start, end, run);
            return leaf != nullptr;
        });
    }

    // Merges a leaf that is not there. False where Python is to do it.
    bool load(std::uint64_t rank) {
        if (leaves_->locked([=](LeafCache &leaves) { return leaves.find(rank) != nullptr; }))
            return true;
        if (!may_merge_) return false;
        auto leaf = std::make_unique<Leaf>();
        if (!merge(layers(), 0, layers().size(), rank, granule_bits_, *leaf)) return false;
        put(rank, std::move(leaf));
        return true;
    }

    bool merged(std::uint64_t rank, std::size_t first, std::size_t end, Leaf &leaf) {
        return merge(layers(), first, std::min(end, layers().size()), rank, granule_bits_, leaf);
    }

    void put(std::uint64_t rank, std::unique_ptr<Leaf> leaf) {
        auto kept = std::make_unique<KeptLeaf>(std::move(leaf), 1ULL << granule_bits_);
        leaves_->locked([&](LeafCache &leaves) { leaves.put(rank, std::move(kept)); });
    }

    // The highest file says of guest clusters from ``start`` on what these L2 entries say now.
    // False where what lies below is seen again: then the leaves there are to be dropped.
    bool update(std::uint64_t start, const std::uint64_t *raw, std::uint64_t count) {
        const Layer &top = *layers().back();
        const int width = top.entry_bytes() / 8;
        for (; count-- > 0; start += top.rules.cluster_bytes, raw += width) {
            const std::uint64_t entry = from_big_endian(raw[0]);
            const std::uint64_t bitmap = width == 2 ? from_big_endian(raw[1]) : 0;
            if (is_wrong(entry, bitmap, top.rules)) return false;
            bool is_known = true;
            for_each_piece(entry, bitmap, top.rules,
                           [&](std::uint64_t at, std::uint64_t bytes, std::uint64_t word) {
                               is_known = update_piece(start + at, bytes, word) && is_known;
                           });
            if (!is_known) return false;
        }
        return true;
    }

    void drop(std::uint64_t first, std::uint64_t end) {
        leaves_->locked([=](LeafCache &leaves) { leaves.drop(first, end); });
    }

    // A copy of a leaf; false if it is not there.
    bool copy(std::uint64_t rank, Leaf &leaf) {
        return leaves_->locked([&](LeafCache &leaves) {
            const KeptLeaf *found = leaves.find(rank);
            if (found != nullptr) found->copy(leaf);
            return found != nullptr;
        });
    }

    std::size_t num_bytes() {
        return leaves_->locked([](LeafCache &leaves) { return leaves.num_bytes(); });
    }

    // Reads [start, start + size), which lies within the disk.
    Outcome read(std::uint64_t start, std::uint64_t size, char *target, bool may_block) {
        const auto use = in_use();
        const std::uint64_t end = start + size;
        while (start < end) {
            Run run;
            if (!find(start, end, run)) {
                if (!may_block) return Outcome::would_block;
                if (!load(start >> (granule_bits_ + kLeafBits)) || !find(start, end, run))
                    return Outcome::uncommon;
            }
            const Outcome outcome = read_run(run, target, may_block);
            if (outcome != Outcome::done) return outcome;
            start += run.length;
            target += run.length;
        }
        return Outcome::done;
    }

    // Has the system read data ahead, where it is known already where that lies.
    void prefetch(std::uint64_t start, std::uint64_t size) {
        const auto use = in_use();
        Run run;
        for (const std::uint64_t end = start + size; start < end; start += run.length) {
            if (!find(start, end, run)) return;
            const int fd = layers()[run.layer]->data_fd;
            if (run.kind == kData && fd >= 0)
                posix_fadvise(fd, static_cast<off_t>(run.host_offset),
                              static_cast<off_t>(run.length), POSIX_FADV_WILLNEED);
        }
    }

    // Overwrites what lies in the highest file already, if all of it does.
    Outcome overwrite(std::uint64_t start, std::uint64_t size, const char *source) {
        const auto use = in_use();
        // Only now: whoever forbids it waits for those that were allowed to.
        if (!may_overwrite_) return Outcome::uncommon;
        const std::uint64_t end = start + size;
        const auto top = static_cast<std::uint16_t>(layers().size() - 1);
        Run run;
        for (std::uint64_t at = start; at < end; at += run.length) {
            if (!find(at, end, run) || run.kind != kData || run.layer != top)
                return Outcome::uncommon;
        }
        if (noted_ && !noted_->note(start, end)) return Outcome::uncommon;
        for (std::uint64_t at = start; at < end; at += run.length, source += run.length) {
            if (!find(at, end, run) || run.kind != kData || run.layer != top ||
                !write_fully(layers()[top]->data_fd, source, run.length, run.host_offset))
                return Outcome::uncommon;
        }
        return Outcome::done;
    }

    // Whether data of the highest file belongs to the disk alone, and to no snapshot; and of
    // what granules it is noted that they were overwritten, if of any. That does not change
    // until ``stop_overwriting``.
    void allow_overwriting(bool may, std::uint64_t noted_bytes = 0) {
        if (may && noted_bytes && !noted_) noted_ = std::make_unique<Noted>(size_, noted_bytes);
        may_overwrite_ = may;
    }

    // Returns when nobody overwrites any more; what was noted, which is forgotten.
    std::unique_ptr<Noted> stop_overwriting() {
        may_overwrite_ = false;
        settle();
        return std::move(noted_);
    }

    // Returns when nobody uses what was found before.
    void settle() { users_.settle(); }

    void resize(std::uint64_t size) {
        std::uint64_t limit = layers().back()->size = size;
        for (auto layer = layers().rbegin(); layer != layers().rend(); ++layer)
            (*layer)->limit = limit = std::min<std::uint64_t>(limit, (*layer)->size);
        size_ = size;
        drop(0, UINT64_MAX);
        settle();
    }

    // Has other files take the highest one's place: the same one as it is read from now on, and
    // those above it. Leaves say what they said; nobody uses what the old list had on return.
    void replace_top(Layers top) {
        auto longer = std::make_unique<Layers>(layers());
        longer->pop_back();
        longer->insert(longer->end(), top.begin(), top.end());
        size_ = longer->back()->size.load();
        const std::unique_ptr<Layers> old(layers_.exchange(longer.release()));
        settle();
    }

    // The files may be closed after this. What is known of them is left to others.
    void close() {
        size_ = 0;
        for (const auto &layer : layers()) layer->fd = layer->data_fd = -1;
        settle();
    }

    // In the child of a fork, where the threads that held the locks do not exist.
    void after_fork() {
        leaves_->after_fork();
        users_.after_fork();
    }

  private:
    const Layers &layers() const { return *layers_.load(); }

    // A leaf at a time, so that nobody waits long for the lock. False where a hole is where the
    // highest file had something, so that nothing is known any more.
    bool update_piece(std::uint64_t begin, std::uint64_t bytes, std::uint64_t word) {
        const auto top = static_cast<std::uint16_t>(layers().size() - 1);
        std::uint64_t granule = begin >> granule_bits_, left = bytes >> granule_bits_;
        while (left > 0) {
            const std::uint64_t count = std::min(left, kLeafGranules - granule % kLeafGranules);
            const bool is_known = leaves_->locked([=](LeafCache &leaves) {
                if (word == kHole) return !leaves.has(granule, count, top);
                leaves.update(granule, count, word, top);
                return true;
            });
            if (!is_known) return false;
            if (kind_of(word) == kData) word += count << granule_bits_;
            granule += count;
            left -= count;
        }
        return true;
    }

    void run_of(const KeptLeaf &leaf, std::uint64_t start, std::uint64_t end, Run &run) const {
        const std::uint64_t granule = start >> granule_bits_;
        const Piece piece = leaf.piece_at(static_cast<std::uint16_t>(granule % kLeafGranules));
        const std::uint64_t piece_end = granule + (piece.end - piece.first);
        std::uint64_t stop = std::min(end, piece_end << granule_bits_);
        run.kind = kind_of(piece.word);
        const std::uint64_t limit = layers()[piece.layer]->limit;
        if (run.kind != kHole && start >= limit) run.kind = kZero;
        // The disk of a file between ends here.
        else if (run.kind != kHole && stop > limit) stop = limit;
        run.start = start;
        run.length = stop - start;
        run.layer = piece.layer;
        run.host_offset = value_of(piece.word) + (start & ((1ULL << granule_bits_) - 1));
    }

    Outcome read_run(const Run &run, char *target, bool may_block) {
        if (run.kind == kCompressed) return Outcome::uncommon;
        if (run.kind != kData) {
            std::memset(target, 0, run.length);
            return Outcome::done;
        }
        const int fd = layers()[run.layer]->data_fd;
        if (fd < 0) return Outcome::uncommon;
        if (!may_block) return read_cached(fd, run, target);
        const ssize_t got = read_fully(fd, target, run.length, run.host_offset);
        if (got < 0) return Outcome::uncommon;
        // What lies past the end of the file was never written.
        std::memset(target + got, 0, run.length - static_cast<std::size_t>(got));
        return Outcome::done;
    }

    static Outcome read_cached(int fd, const Run &run, char *target) {
        iovec piece{target, run.length};
        const ssize_t got =
            preadv2(fd, &piece, 1, static_cast<off_t>(run.host_offset), RWF_NOWAIT);
        if (got == static_cast<ssize_t>(run.length)) return Outcome::done;
        // A file system that cannot tell what is cached is read as it is.
        if (got < 0 && errno == EOPNOTSUPP &&
            read_fully(fd, target, run.length, run.host_offset) ==
                static_cast<ssize_t>(run.length))
            return Outcome::done;
        return Outcome::would_block;
    }

    static bool write_fully(int fd, const char *source, std::size_t size, std::uint64_t offset) {
        if (fd < 0) return false;
        while (size > 0) {
            const ssize_t put = pwrite(fd, source, size, static_cast<off_t>(offset));
            if (put < 0 && errno == EINTR) continue;
            if (put <= 0) return false;
            source += put;
            size -= static_cast<std::size_t>(put);
            offset += static_cast<std::uint64_t>(put);
        }
        return true;
    }

    std::atomic<Layers *> layers_;  // replaced as a whole; users look at it in a use
    std::atomic<std::uint64_t> size_;
    int granule_bits_;
    bool may_merge_;  // by itself; else Python makes all leaves
    std::atomic<bool> may_overwrite_ = false;
    std::unique_ptr<Noted> noted_;  // set before overwriting is allowed, taken after
    std::shared_ptr<SharedLeaves> leaves_;
    Users users_;
};

}  // namespace hatchway
