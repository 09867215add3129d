// Readers, writers in place, a writer that moves clusters, and whoever drops leaves, resizes and
// settles, on one chain at a time: each granule that is read is one that belongs there, and what
// was given up is written to by nobody. Run under ThreadSanitizer, and under the other two.
#include <sys/mman.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "disk/chain.hpp"
#include "draws.hpp"

using namespace hatchway;
using namespace hatchway::fuzz;

namespace {

constexpr int kGranuleBits = 9;
constexpr std::uint64_t kGranule = 1 << kGranuleBits;
constexpr std::uint64_t kNumGranules = 4 * kLeafGranules;
// Two granules share a bit of what is noted.
constexpr std::uint64_t kNotedBytes = 2 * kGranule;
// Three leaves in full.
constexpr std::size_t kCacheBytes = 3 * (sizeof(Leaf) + 128);
constexpr std::uint64_t kPoison = 0xDEADDEADDEADDEAD;

using Content = std::array<std::uint64_t, kGranule / 8>;

// Which granule it is, and in the upper half of each word which one of its writes.
Content content_of(std::uint64_t granule, std::uint64_t nonce = 0) {
    Content content;
    content.fill(nonce << 32 | (granule + 1));
    return content;
}

// A raw file below one with tables, and tables as Python would have them; the lower file holds each granule.
class Disk {
  public:
    Disk() {
        for (int *fd : {&base_, &top_}) {
            *fd = memfd_create("stress", MFD_CLOEXEC);
            MUST_HOLD(*fd >= 0);
        }
        seen_ = dup(top_);
        for (std::uint64_t granule = 0; granule < kNumGranules; ++granule)
            put(base_, granule * kGranule, content_of(granule));
        Layers layers;
        for (const int fd : {base_, seen_})
            layers.push_back(layer_of(fd, kNumGranules * kGranule, fd == base_));
        chain = std::make_unique<Chain>(std::move(layers), kNumGranules * kGranule, kGranuleBits,
                                        std::make_shared<SharedLeaves>(kCacheBytes, kGranule),
                                        false);
    }
    ~Disk() {
        for (const int fd : {base_, top_, seen_}) close(fd);
    }

    // As Python loads a leaf: under its lock, from what the tables say.
    void load(std::uint64_t rank) {
        const std::lock_guard guard(lock);
        auto leaf = std::make_unique<Leaf>();
        for (std::uint64_t at = 0; at < kLeafGranules; ++at) {
            const std::uint64_t granule = rank * kLeafGranules + at;
            const bool is_top = places_[granule] != 0;
            leaf->layers[at] = is_top;
            leaf->words[at] =
                word_of(kData, is_top ? places_[granule] : granule * kGranule);
        }
        chain->put(rank, std::move(leaf));
    }

    // A granule gets a place of its own in the highest file.
    void allocate(std::uint64_t granule) {
        const std::lock_guard guard(lock);
        if (places_[granule] != 0) return;
        std::uint64_t place = next_;
        if (free_.empty()) {
            next_ += kGranule;
        } else {
            place = free_.back();
            free_.pop_back();
        }
        put(top_, place, content_of(granule));
        places_[granule] = place;
        const std::uint64_t entry = from_big_endian(kCopiedBit | place);
        MUST_HOLD(chain->update(granule * kGranule, &entry, 1));
    }

    // What lies below is seen again, and the place holds something else at once.
    void discard(std::uint64_t granule) {
        const std::lock_guard guard(lock);
        const std::uint64_t place = std::exchange(places_[granule], 0);
        if (place == 0) return;
        chain->drop(granule / kLeafGranules, granule / kLeafGranules + 1);
        chain->settle();
        Content poison;
        poison.fill(kPoison);
        put(top_, place, poison);
        Content found;
        read_fully(top_, found.data(), kGranule, place);
        MUST_HOLD(found == poison);
        free_.push_back(place);
    }

    void resize(std::uint64_t num_granules) {
        const std::lock_guard guard(lock);
        chain->resize(num_granules * kGranule);
    }

    // The highest file is another one, and the descriptor of the old one leads elsewhere.
    void replace_top() {
        const std::lock_guard guard(lock);
        const int before = std::exchange(seen_, dup(top_));
        Layers top;
        top.push_back(layer_of(seen_, chain->size(), false));
        chain->allow_overwriting(false);
        chain->settle();
        chain->replace_top(std::move(top));
        chain->allow_overwriting(true, kNotedBytes);
        MUST_HOLD(dup2(base_, before) == before && close(before) == 0);
    }

    // While nobody may write in place, nobody does.
    void be_quiet() {
        const std::lock_guard guard(lock);
        take_notes();
        std::vector<char> before(next_), after(next_);
        read_fully(top_, before.data(), next_, 0);
        std::this_thread::yield();
        read_fully(top_, after.data(), next_, 0);
        MUST_HOLD(before == after);
        chain->allow_overwriting(true, kNotedBytes);
    }

    // All that was overwritten was noted.
    void check_notes() {
        take_notes();
        for (std::size_t granule = 0; granule < kNumGranules; ++granule)
            MUST_HOLD(!overwritten[granule] || noted_[granule * kGranule / kNotedBytes]);
    }

    std::unique_ptr<Chain> chain;
    std::mutex lock;
    std::array<std::atomic<bool>, kNumGranules> overwritten{};

  private:
    static std::shared_ptr<Layer> layer_of(int fd, std::uint64_t size, bool is_raw) {
        auto layer = std::make_shared<Layer>();
        layer->fd = layer->data_fd = fd;
        layer->size = layer->limit = size;
        layer->is_raw = is_raw;
        layer->cluster_bits = kGranuleBits;
        layer->rules = {kGranule, false, false, true};
        return layer;
    }

    void take_notes() {
        const auto notes = chain->stop_overwriting();
        if (!notes) return;
        notes->each_piece([&](std::size_t at, const std::uint8_t *bits, std::size_t num) {
            for (std::size_t bit = 0; bit < num * 8; ++bit)
                if (bits[bit / 8] >> bit % 8 & 1) noted_.at(at * 8 + bit) = true;
        });
    }

    static void put(int fd, std::uint64_t place, const Content &content) {
        MUST_HOLD(pwrite(fd, content.data(), kGranule, static_cast<off_t>(place)) ==
                  static_cast<ssize_t>(kGranule));
    }

    int base_ = -1, top_ = -1, seen_ = -1;
    std::vector<std::uint64_t> places_ = std::vector<std::uint64_t>(kNumGranules);
    std::vector<bool> noted_ = std::vector<bool>(kNumGranules);
    std::vector<std::uint64_t> free_;
    std::uint64_t next_ = kGranule;
};

void read_some(Disk &disk, std::mt19937_64 &random) {
    const std::uint64_t granule = random() % (kNumGranules - 8), count = 1 + random() % 8;
    std::array<Content, 8> found;
    const Outcome outcome =
        disk.chain->read(granule * kGranule, count * kGranule,
                         reinterpret_cast<char *>(found.data()), random() % 2);
    if (outcome != Outcome::done) return disk.load(granule / kLeafGranules);
    for (std::uint64_t at = 0; at < count; ++at)
        for (const std::uint64_t word : found[at])
            // Zeros past a disk's end.
            MUST_HOLD((word & UINT32_MAX) == granule + at + 1 || word == 0);
}

void overwrite_some(Disk &disk, std::mt19937_64 &random) {
    const std::uint64_t granule = random() % kNumGranules;
    const Content content = content_of(granule, random() >> 32);
    if (disk.chain->overwrite(granule * kGranule, kGranule,
                              reinterpret_cast<const char *>(content.data())) == Outcome::done)
        disk.overwritten[granule] = true;
    else
        disk.allocate(granule);
}

void walk_some(Disk &disk, std::mt19937_64 &random) {
    const auto use = disk.chain->in_use();
    Run run;
    std::uint64_t at = random() % kNumGranules * kGranule;
    for (const std::uint64_t end = std::min(at + 64 * kGranule, kNumGranules * kGranule); at < end;
         at += run.length) {
        if (!disk.chain->find(at, end, run)) return;
        MUST_HOLD(run.length > 0 && run.length <= end - at);
    }
}

void disturb(Disk &disk, std::mt19937_64 &random) {
    switch (random() % 16) {
    case 0:
        disk.resize(kNumGranules - random() % 64);
        return;
    case 1:
        return disk.chain->settle();
    case 2:
        disk.chain->prefetch(random() % kNumGranules / 2 * kGranule, kNumGranules / 2 * kGranule);
        return;
    case 3: {
        Leaf leaf;
        disk.chain->copy(random() % 4, leaf);
        MUST_HOLD(disk.chain->num_bytes() <= kCacheBytes);
        return;
    }
    case 4: {
        const std::lock_guard guard(disk.lock);
        return disk.chain->drop(random() % 4, 4);
    }
    case 5:
    case 6:
        return disk.be_quiet();
    case 7:
        return disk.replace_top();
    default:
        return disk.discard(random() % kNumGranules);
    }
}

void round(std::uint64_t seed, std::chrono::milliseconds length) {
    Disk disk;
    disk.chain->allow_overwriting(true, kNotedBytes);
    std::atomic<bool> is_over{false};
    std::vector<std::thread> threads;
    const auto start = [&](auto call) {
        threads.emplace_back([&, call, seed = seed + threads.size()] {
            std::mt19937_64 random(seed);
            while (!is_over.load()) call(disk, random);
        });
    };
    for (const auto call : {read_some, read_some, overwrite_some, overwrite_some, walk_some, disturb})
        start(call);
    std::this_thread::sleep_for(length);
    // Those who read and write go on until the chain is closed, and after it.
    if (seed % 2) disk.chain->close();
    is_over = true;
    for (std::thread &thread : threads) thread.join();
    disk.check_notes();
}

}  // namespace

int main(int num_arguments, char **arguments) {
    const std::chrono::seconds length(num_arguments > 1 ? std::stoi(arguments[1]) : 5);
    const std::uint64_t seed = std::random_device{}();
    std::printf("seed %lu\n", seed);
    const auto end = std::chrono::steady_clock::now() + length;
    std::uint64_t num_rounds = 0;
    for (; std::chrono::steady_clock::now() < end; ++num_rounds)
        round(seed + 100 * num_rounds + num_rounds % 2, std::chrono::milliseconds(200));
    std::printf("ran %lu rounds\n", num_rounds);
}
