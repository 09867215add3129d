// The leaves that were used last, bounded in number.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <thread>
#include <unordered_map>
#include <utility>

#include "merge.hpp"

namespace hatchway {

// Held for less than a microsecond at a time.
class SpinLock {
  public:
    void lock() {
        for (int tries = 0; held_.exchange(true, std::memory_order_acquire); ++tries)
            if (tries % 64 == 63) std::this_thread::yield();
    }
    void unlock() { held_.store(false, std::memory_order_release); }
    bool is_held() const { return held_.load(std::memory_order_relaxed); }

  private:
    std::atomic<bool> held_{false};
};

// Granules that lie behind each other in one file, or are of one kind that lies nowhere.
struct Piece {
    std::uint64_t word;  // of the first
    std::uint16_t first, end, layer;
};

constexpr std::uint64_t following(std::uint64_t word, std::uint64_t granule_bytes) {
    return kind_of(word) == kData ? word + granule_bytes : word;
}

// A leaf as it is kept: as pieces, if there are few of them.
class KeptLeaf {
  public:
    KeptLeaf(std::unique_ptr<Leaf> leaf, std::uint64_t granule_bytes)
        : granule_bytes_(granule_bytes) {
        num_pieces_ = count_pieces(*leaf);
        if (num_pieces_ > kMostPieces) {
            full_ = std::move(leaf);
            return;
        }
        pieces_ = std::make_unique_for_overwrite<Piece[]>(num_pieces_);
        std::size_t at = 0;
        for_each_piece(*leaf, [&](const Piece &piece) { pieces_[at++] = piece; });
    }

    std::size_t num_bytes() const {
        return kOwnBytes + (full_ != nullptr ? sizeof *full_ : num_pieces_ * sizeof(Piece));
    }

    // What holds for granules [rank, end) of the leaf.
    Piece piece_at(std::uint16_t rank) const {
        if (full_ == nullptr) {
            const Piece *found = std::upper_bound(
                pieces_.get(), pieces_.get() + num_pieces_, rank,
                [](std::uint16_t wanted, const Piece &piece) { return wanted < piece.end; });
            Piece piece = *found;
            if (kind_of(piece.word) == kData)
                piece.word += (rank - piece.first) * granule_bytes_;
            piece.first = rank;
            return piece;
        }
        return piece_of(*full_, rank);
    }

    void copy(Leaf &leaf) const {
        if (full_ != nullptr) {
            leaf = *full_;
            return;
        }
        for (std::size_t at = 0; at < num_pieces_; ++at) {
            std::uint64_t word = pieces_[at].word;
            for (std::size_t rank = pieces_[at].first; rank < pieces_[at].end; ++rank) {
                leaf.words[rank] = word;
                leaf.layers[rank] = pieces_[at].layer;
                word = following(word, granule_bytes_);
            }
        }
    }

    // The leaf in full, to be changed.
    Leaf &opened() {
        if (full_ == nullptr) {
            auto leaf = std::make_unique<Leaf>();
            copy(*leaf);
            full_ = std::move(leaf);
            pieces_.reset();
        }
        return *full_;
    }

    bool is_recent = false;

  private:
    // With more, the search takes longer and saves little.
    static constexpr std::size_t kMostPieces = 160;
    // This, its place in the table and its turn, roughly.
    static constexpr std::size_t kOwnBytes = 128;

    Piece piece_of(const Leaf &leaf, std::size_t rank) const {
        Piece piece{leaf.words[rank], static_cast<std::uint16_t>(rank), 0, leaf.layers[rank]};
        std::uint64_t word = piece.word;
        do {
            word = following(word, granule_bytes_);
        } while (++rank < kLeafGranules && leaf.words[rank] == word &&
                 leaf.layers[rank] == piece.layer);
        piece.end = static_cast<std::uint16_t>(rank);
        return piece;
    }

    template <class Visit>
    void for_each_piece(const Leaf &leaf, Visit visit) const {
        for (std::size_t rank = 0; rank < kLeafGranules;) {
            const Piece piece = piece_of(leaf, rank);
            visit(piece);
            rank = piece.end;
        }
    }

    std::size_t count_pieces(const Leaf &leaf) const {
        std::size_t count = 0;
        for_each_piece(leaf, [&](const Piece &) { ++count; });
        return count;
    }

    std::uint64_t granule_bytes_;
    std::size_t num_pieces_;
    std::unique_ptr<Piece[]> pieces_;
    std::unique_ptr<Leaf> full_;
};

// A leaf that was looked at since it was last passed over stays (the CLOCK rule).
class LeafCache {
  public:
    // One leaf is kept in any case.
    LeafCache(std::size_t most_bytes, std::uint64_t granule_bytes)
        : most_bytes_(most_bytes), granule_bytes_(granule_bytes) {}

    const KeptLeaf *find(std::uint64_t rank) { return find_kept(rank); }

    void put(std::uint64_t rank, std::unique_ptr<Leaf> leaf) {
        drop(rank, rank + 1);
        auto kept = std::make_unique<KeptLeaf>(std::move(leaf), granule_bytes_);
        const std::size_t num_bytes = kept->num_bytes();
        while (num_bytes_ + num_bytes > most_bytes_ && !leaves_.empty()) evict();
        turns_.push_back(rank);  // without memory for the leaf it is a turn of none
        leaves_.emplace(rank, std::move(kept));
        num_bytes_ += num_bytes;
    }

    // Changes one granule of a leaf that is there.
    void update(std::uint64_t granule, std::uint64_t word, std::uint16_t layer) {
        KeptLeaf *kept = find_kept(granule >> kLeafBits);
        if (kept == nullptr) return;
        num_bytes_ -= kept->num_bytes();
        Leaf &leaf = kept->opened();
        num_bytes_ += kept->num_bytes();
        leaf.words[granule % kLeafGranules] = word;
        leaf.layers[granule % kLeafGranules] = layer;
        if (num_bytes_ <= most_bytes_) return;
        forget_last();
        while (num_bytes_ > most_bytes_ && leaves_.size() > 1) evict();
    }

    void drop(std::uint64_t first, std::uint64_t end) {
        forget_last();
        if (end - first == 1 && leaves_.find(first) == leaves_.end()) return;
        std::erase_if(leaves_, [=, this](const auto &one) {
            if (one.first < first || one.first >= end) return false;
            num_bytes_ -= one.second->num_bytes();
            return true;
        });
        std::erase_if(turns_, [=](std::uint64_t rank) { return first <= rank && rank < end; });
    }

    std::size_t num_bytes() const { return num_bytes_; }

  private:
    KeptLeaf *find_kept(std::uint64_t rank) {
        if (rank == last_rank_) return last_;
        const auto found = leaves_.find(rank);
        if (found == leaves_.end()) return nullptr;
        last_rank_ = rank;
        last_ = found->second.get();
        last_->is_recent = true;
        return last_;
    }

    void forget_last() {
        last_rank_ = UINT64_MAX;
        last_ = nullptr;
    }

    void evict() {
        while (true) {
            const std::uint64_t rank = turns_.front();
            turns_.pop_front();
            const auto found = leaves_.find(rank);
            if (found == leaves_.end()) continue;
            if (!std::exchange(found->second->is_recent, false)) {
                num_bytes_ -= found->second->num_bytes();
                leaves_.erase(found);
                return;
            }
            turns_.push_back(rank);
        }
    }

    std::size_t most_bytes_, num_bytes_ = 0;
    std::uint64_t granule_bytes_;
    std::unordered_map<std::uint64_t, std::unique_ptr<KeptLeaf>> leaves_;
    std::deque<std::uint64_t> turns_;
    std::uint64_t last_rank_ = UINT64_MAX;
    KeptLeaf *last_ = nullptr;
};

// A cache that several chains of the same files may have in common.
class SharedLeaves {
  public:
    SharedLeaves(std::size_t most_bytes, std::uint64_t granule_bytes)
        : most_bytes_(most_bytes), granule_bytes_(granule_bytes), cache_(new_cache()) {}

    // Calls ``use`` with the cache, and nobody else meanwhile.
    template <class Use>
    auto locked(Use use) {
        const std::lock_guard guard(lock_);
        return use(*cache_);
    }

    // In the child of a fork, where the thread that held the lock does not exist.
    void after_fork() {
        if (!lock_.is_held()) return;
        (void)cache_.release();  // it may be half changed
        cache_ = new_cache();
        lock_.unlock();
    }

  private:
    std::unique_ptr<LeafCache> new_cache() const {
        return std::make_unique<LeafCache>(most_bytes_, granule_bytes_);
    }

    std::size_t most_bytes_;
    std::uint64_t granule_bytes_;
    SpinLock lock_;
    std::unique_ptr<LeafCache> cache_;
};

}  // namespace hatchway
