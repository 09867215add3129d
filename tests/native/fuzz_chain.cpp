// Whatever the tables of a chain say, what is read is what a slow reader reads, or it is left to
// Python; what is written goes where the tables say, and nowhere else.
#include <cstdint>
#include <memory>
#include <vector>

#include "disk/chain.hpp"
#include "disk/tables.hpp"
#include "draws.hpp"
#include "model.hpp"

using namespace hatchway;
using namespace hatchway::fuzz;

namespace {

constexpr std::uint64_t kMostAtOnce = 96 << 10;
constexpr std::size_t kFullLeafBytes = sizeof(Leaf) + 128;

class Session {
  public:
    explicit Session(Draws &draws)
        : draws_(draws),
          disk_(draws),
          chain_(disk_.as_layers(), disk_.size(), disk_.granule_bits(),
                 std::make_shared<SharedLeaves>(draws.between(0, 5) * kFullLeafBytes,
                                                1ULL << disk_.granule_bits()),
                 true) {}

    void run() {
        for (int steps = 0; steps < 60 && !draws_.is_empty(); ++steps) step();
        chain_.close();
        char byte;
        MUST_HOLD(chain_.overwrite(0, 1, &byte) == Outcome::uncommon);
    }

  private:
    void step() {
        const std::uint64_t size = disk_.size();
        const std::uint64_t start = draws_.rarely(6)
                                        ? draws_.between(0, size - 1)
                                        : draws_.between(0, std::min<std::uint64_t>(size, 1 << 21) - 1);
        const std::uint64_t count =
            draws_.between(1, std::min({size - start, kMostAtOnce, 1 + draws_.between(0, 1 << 17)}));
        switch (draws_.between(0, 9)) {
        case 0:
        case 1:
        case 2:
            return read(start, count);
        case 3:
            return walk(start, count);
        case 4:
            return overwrite(start, count);
        case 5:
            return look(start >> (chain_.granule_bits() + kLeafBits));
        case 6:
            return chain_.drop(draws_.between(0, 4), draws_.between(0, 8));
        case 7:
            return chain_.prefetch(start, count);
        case 8:
            chain_.allow_overwriting(true);
            return chain_.settle();
        default:
            return resize();
        }
    }

    void read(std::uint64_t start, std::uint64_t count) {
        std::vector<char> found(count, 'x'), expected(count);
        const Outcome outcome = chain_.read(start, count, found.data(), draws_.flip());
        if (outcome != Outcome::done) return;
        MUST_HOLD(disk_.read(start, count, expected.data()));
        MUST_HOLD(found == expected);
    }

    // Runs follow each other, and say what the sectors that they begin with are.
    void walk(std::uint64_t start, std::uint64_t count) {
        const auto use = chain_.in_use();
        Run run;
        for (std::uint64_t at = start; at < start + count; at += run.length) {
            if (!chain_.load(at >> (chain_.granule_bits() + kLeafBits))) return;
            MUST_HOLD(chain_.find(at, start + count, run));
            MUST_HOLD(run.start == at && run.length > 0 && run.length <= start + count - at);
            std::uint64_t end;
            std::size_t layer;
            const Said said = disk_.said_of(at / kSector * kSector, end, layer);
            if (run.kind == kCompressed) {
                MUST_HOLD(said.what == Said::unknown);
            } else if (run.kind == kData) {
                MUST_HOLD(said.what == Said::data && run.layer == layer);
                MUST_HOLD(run.host_offset == said.at + at % kSector);
            } else if (at < end) {
                MUST_HOLD(said.what == Said::zeros);
            }
        }
    }

    void overwrite(std::uint64_t start, std::uint64_t count) {
        // Tables of the file itself are not to be what is written over.
        if (disk_.top().data_fd == disk_.top().fd && !disk_.top().is_raw) count = std::min(count, kSector);
        std::vector<char> before(count), source(count, static_cast<char>(draws_.between(1, 255)));
        if (!disk_.read(start, count, before.data())) return;
        if (may_hit_tables(start, count)) return;
        if (chain_.overwrite(start, count, source.data()) != Outcome::done) return;
        std::vector<char> found(count);
        MUST_HOLD(disk_.read(start, count, found.data()));
        MUST_HOLD(found == source);
    }

    bool may_hit_tables(std::uint64_t start, std::uint64_t count) const {
        const ModelImage &top = *disk_.images.back();
        if (top.data_fd != top.fd || top.is_raw) return false;
        for (std::uint64_t at = start / kSector * kSector; at < start + count; at += kSector) {
            const Said said = top.said_of(at);
            if (said.what == Said::data && said.at < 8 * top.cluster_bytes()) return true;
            if (said.what == Said::data && said.at > 1ULL << 40) return true;
        }
        return false;
    }

    // A leaf that is merged apart is the one that is kept, and may be put back.
    void look(std::uint64_t rank) {
        for (const auto &image : disk_.images)
            if (!image->is_raw) paint(*image, rank * kLeafGranules << chain_.granule_bits());
        const auto use = chain_.in_use();
        auto apart = std::make_unique<Leaf>();
        const bool is_whole = chain_.merged(rank, 0, UINT64_MAX, *apart);
        if (!chain_.load(rank)) return;
        Leaf kept;
        MUST_HOLD(chain_.copy(rank, kept));
        if (!is_whole) return;
        MUST_HOLD(std::equal(std::begin(kept.words), std::end(kept.words), apart->words));
        MUST_HOLD(std::equal(std::begin(kept.layers), std::end(kept.layers), apart->layers));
        update((rank * kLeafGranules + draws_.between(0, kLeafGranules - 1))
               << chain_.granule_bits());
        // An entry that says what is known already changes nothing.
        Leaf again;
        if (chain_.copy(rank, again)) {
            MUST_HOLD(std::equal(std::begin(kept.words), std::end(kept.words), again.words));
            MUST_HOLD(std::equal(std::begin(kept.layers), std::end(kept.layers), again.layers));
        }
        chain_.put(rank, std::move(apart));
    }

    // As a writer tells of an entry of the highest file.
    void update(std::uint64_t place) {
        const ModelImage &top = *disk_.images.back();
        if (top.is_raw || place >= top.size) return;
        const std::uint64_t begin = place & ~(top.cluster_bytes() - 1);
        bool is_known;
        const std::uint64_t entry_at = top.entry_at(begin, is_known);
        if (!is_known || entry_at == 0) return;
        std::uint64_t raw[2];
        const std::size_t entry_bytes = chain_.top_entry_bytes();
        MUST_HOLD(pread(top.fd, raw, entry_bytes, static_cast<off_t>(entry_at)) ==
                  static_cast<ssize_t>(entry_bytes));
        chain_.update(begin, raw, 1);
    }

    // What one file says, painted over nothing, from the beginning of a cluster of any size on.
    void paint(const ModelImage &image, std::uint64_t place) {
        constexpr std::uint64_t kNumLeaves = 8, kGranules = kNumLeaves * kLeafGranules;
        TableReader reader(image.as_layer(UINT64_MAX));
        const std::uint64_t start = place >> 21 << 21;
        const int granule_bits = chain_.granule_bits(), cluster_bits = image.cluster_bits;
        std::vector<std::uint64_t> taken, words(kGranules);
        std::vector<std::uint16_t> layers(kGranules);
        bool is_painted[kNumLeaves] = {};
        Canvas canvas{start, granule_bits, kGranules, words.data(), layers.data(), is_painted};
        const std::uint64_t end = start + (kGranules << granule_bits);
        if (!reader.open() || !reader.take(start >> cluster_bits, taken, nullptr, 7)) return;
        MUST_HOLD(reader.next() == TableReader::kNone || reader.next() >= start >> cluster_bits);
        taken.clear();
        if (!reader.take(end >> cluster_bits, taken, &canvas, 7)) return;
        MUST_HOLD(reader.next() == TableReader::kNone || reader.next() >= end >> cluster_bits);
        for (std::uint64_t rank = 0; rank < kGranules; ++rank) {
            const std::uint64_t guest = start + (rank << granule_bits);
            if (guest >= image.size) break;
            const Said said = image.said_of(guest);
            const std::uint64_t kind = kind_of(words[rank]);
            MUST_HOLD((kind == kHole) == (said.what == Said::nothing));
            MUST_HOLD((kind == kZero) == (said.what == Said::zeros));
            MUST_HOLD((kind == kData) == (said.what == Said::data));
            MUST_HOLD(kind != kData || value_of(words[rank]) == said.at);
            MUST_HOLD(layers[rank] == (kind == kHole ? 0 : 7));
            MUST_HOLD(kind == kHole || is_painted[rank / kLeafGranules]);
        }
    }

    void resize() {
        disk_.top().size = draws_.rarely(6) ? draws_.between(1, kMostPlace / kSector) * kSector
                                            : draws_.between(1, 4096) * kSector;
        chain_.resize(disk_.size());
    }

    Draws &draws_;
    ModelDisk disk_;
    Chain chain_;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t *data, std::size_t size) {
    Draws draws(data, size);
    Session(draws).run();
    return 0;
}
