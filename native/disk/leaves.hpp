// The leaves that were used last, bounded in number.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <iterator>
#include <list>
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

// Granules that lie behind each other in one file, or are of one kind that lies nowhere. There
// are many of them: 14 bytes each, not 16.
struct [[gnu::packed]] Piece {
    std::uint64_t word;  // of the first
    std::uint16_t first, end, layer;
};

constexpr std::uint64_t following(std::uint64_t word, std::uint64_t granule_bytes) {
    return kind_of(word) == kData ? word + granule_bytes : word;
}

// A leaf as it is kept: as pieces, if there are few of them. Granules that no file says anything
// of lie in none.
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
            const bool is_last = found == pieces_.get() + num_pieces_;
            if (is_last || rank < found->first)
                return {0, rank, is_last ? std::uint16_t{kLeafGranules} : found->first, 0};
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
        leaf = {};
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
            if (piece.word != 0) visit(piece);
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

    void put(std::uint64_t rank, std::unique_ptr<KeptLeaf> leaf) {
        drop(rank, rank + 1);
        const std::size_t num_bytes = leaf->num_bytes();
        while (num_bytes_ + num_bytes > most_bytes_ && !leaves_.empty()) evict();
        Turns turn{rank};
        leaves_.emplace(rank, Place{std::move(leaf), turn.begin()});
        turns_.splice(turns_.end(), turn);
        num_bytes_ += num_bytes;
    }

    // Whether a file is known to say something of granules that lie in one leaf.
    bool has(std::uint64_t granule, std::uint64_t count, std::uint16_t layer) {
        const KeptLeaf *kept = find_kept(granule >> kLeafBits);
        if (kept == nullptr) return false;
        const std::uint64_t first = granule % kLeafGranules;
        for (std::uint64_t rank = first; rank < first + count;) {
            const Piece piece = kept->piece_at(static_cast<std::uint16_t>(rank));
            if (piece.layer == layer && kind_of(piece.word) != kHole) return true;
            rank = piece.end;
        }
        return false;
    }

    // Changes granules that lie in one leaf, if that is there.
    void update(std::uint64_t granule, std::uint64_t count, std::uint64_t word,
                std::uint16_t layer) {
        KeptLeaf *kept = find_kept(granule >> kLeafBits);
        if (kept == nullptr) return;
        num_bytes_ -= kept->num_bytes();
        Leaf &leaf = kept->opened();
        num_bytes_ += kept->num_bytes();
        for (std::uint64_t rank = granule % kLeafGranules; count-- > 0; ++rank) {
            leaf.words[rank] = word;
            leaf.layers[rank] = layer;
            word = following(word, granule_bytes_);
        }
        if (num_bytes_ <= most_bytes_) return;
        forget_last();
        while (num_bytes_ > most_bytes_ && leaves_.size() > 1) evict();
    }

    // In time in proportion to the leaves that it names, or to those that there are.
    void drop(std::uint64_t first, std::uint64_t end) {
        forget_last();
        if (end - first > leaves_.size()) {
            for (auto at = leaves_.begin(); at != leaves_.end();)
                at = first <= at->first && at->first < end ? erase(at) : std::next(at);
            return;
        }
        for (std::uint64_t rank = first; rank < end; ++rank) {
            const auto found = leaves_.find(rank);
            if (found != leaves_.end()) erase(found);
        }
    }

    std::size_t num_bytes() const { return num_bytes_; }

  private:
    using Turns = std::list<std::uint64_t>;
    struct Place {
        std::unique_ptr<KeptLeaf> leaf;
        Turns::iterator turn;
    };
    using Places = std::unordered_map<std::uint64_t, Place>;

    KeptLeaf *find_kept(std::uint64_t rank) {
        if (rank == last_rank_) return last_;
        const auto found = leaves_.find(rank);
        if (found == leaves_.end()) return nullptr;
        last_rank_ = rank;
        last_ = found->second.leaf.get();
        last_->is_recent = true;
        return last_;
    }

    void forget_last() {
        last_rank_ = UINT64_MAX;
        last_ = nullptr;
    }

    Places::iterator erase(Places::iterator place) {
        num_bytes_ -= place->second.leaf->num_bytes();
        turns_.erase(place->second.turn);
        return leaves_.erase(place);
    }

    void evict() {
        auto found = leaves_.find(turns_.front());
        while (std::exchange(found->second.leaf->is_recent, false)) {
            turns_.splice(turns_.end(), turns_, turns_.begin());
            found = leaves_.find(turns_.front());
        }
        erase(found);
    }

    std::size_t most_bytes_, num_bytes_ = 0;
    std::uint64_t granule_bytes_;
    Places leaves_;
    Turns turns_;  // of each leaf that there is
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
