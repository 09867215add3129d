// Small images in memory whose tables are drawn, and a slow reader of them that shares nothing
// with native/disk but what is under test takes: descriptors and places of tables.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <vector>

#include "disk/layers.hpp"
#include "draws.hpp"

namespace hatchway::fuzz {

constexpr std::uint64_t kSector = 512;
constexpr std::uint64_t kMostPlace = 1ULL << 62;
constexpr int kRawGranuleBits = 16;

inline void write_all(int fd, const void *source, std::size_t size, std::uint64_t offset) {
    MUST_HOLD(pwrite(fd, source, size, static_cast<off_t>(offset)) == static_cast<ssize_t>(size));
}

// What a file has at a place; zeros past its end.
inline void read_or_zero(int fd, char *target, std::size_t size, std::uint64_t offset) {
    std::memset(target, 0, size);
    if (offset <= static_cast<std::uint64_t>(INT64_MAX) - size)
        MUST_HOLD(pread(fd, target, size, static_cast<off_t>(offset)) >= 0);
}

// What is said of a sector.
struct Said {
    enum { nothing, data, zeros, unknown } what;
    int fd = -1;
    std::uint64_t at = 0;
};

class ModelImage {
  public:
    int fd, data_fd;
    bool is_raw, has_subclusters = false, has_data_file = false, has_zeros = true;
    int cluster_bits = 16;
    std::uint64_t size, l1_offset = 0, l1_size = 0;

    // An image that is drawn. The highest one may have another size later.
    ModelImage(Draws &draws, bool may_be_raw) {
        fd = data_fd = memfd_create("image", MFD_CLOEXEC);
        MUST_HOLD(fd >= 0);
        size = draws.rarely(8) ? draws.between(1, kMostPlace) : draws.between(1, 4096) * kSector;
        is_raw = may_be_raw && draws.rarely(4);
        if (is_raw) {
            size -= draws.rarely(4) && size > 100 ? 99 : 0;
            for (int count = 0; count < 4; ++count)
                put_pattern(draws.between(0, 255) * kSector, 2048);
            return;
        }
        has_subclusters = draws.rarely(3);
        cluster_bits =
            static_cast<int>(draws.rarely(3) ? draws.between(9, 21) : draws.between(9, 12));
        if (has_subclusters) cluster_bits = std::max(cluster_bits, 14);
        has_data_file = draws.rarely(6);
        has_zeros = !draws.rarely(6);
        if (has_data_file) data_fd = memfd_create("data", MFD_CLOEXEC);
        l1_offset = cluster_bytes();
        l1_size = draws.rarely(6) ? draws.between(0, 4u << 20) : draws.between(1, 64);
        if (draws.rarely(12)) l1_offset = draws.between(0, kMostPlace);
        MUST_HOLD(ftruncate(fd, static_cast<off_t>(24 * cluster_bytes())) == 0);
        for (auto count = draws.between(0, 6); count > 0; --count) put_table(draws);
    }
    ModelImage(const ModelImage &) = delete;
    ModelImage &operator=(const ModelImage &) = delete;
    ~ModelImage() {
        if (data_fd != fd) close(data_fd);
        close(fd);
    }

    std::uint64_t cluster_bytes() const { return 1ULL << cluster_bits; }
    int granule_bits() const {
        return has_subclusters ? cluster_bits - 5 : cluster_bits;
    }

    std::unique_ptr<Layer> as_layer(std::uint64_t limit) const {
        auto layer = std::make_unique<Layer>();
        layer->fd = fd;
        layer->data_fd = data_fd;
        layer->size = size;
        layer->limit = limit;
        layer->is_raw = is_raw;
        layer->cluster_bits = cluster_bits;
        layer->l1_offset = l1_offset;
        layer->l1_size = l1_size;
        layer->rules = {cluster_bytes(), has_subclusters, has_data_file, has_zeros};
        return layer;
    }

    // Where the L2 entry of a guest offset lies; 0 without one, or where that is not known.
    std::uint64_t entry_at(std::uint64_t guest, bool &is_known) const {
        is_known = true;
        const std::uint64_t entry_bytes = has_subclusters ? 16 : 8;
        const std::uint64_t cluster = guest / cluster_bytes();
        const std::uint64_t per_table = cluster_bytes() / entry_bytes;
        if (cluster / per_table >= l1_size) return 0;
        const std::uint64_t place = l1_offset + cluster / per_table * 8;
        std::uint64_t table;
        is_known = place + 8 <= file_bytes();
        if (!is_known) return 0;
        table = number_at(place) & 0x00FFFFFFFFFFFE00;
        is_known = table % cluster_bytes() == 0;
        if (table == 0 || !is_known) return 0;
        const std::uint64_t found = table + cluster % per_table * entry_bytes;
        is_known = found + entry_bytes <= file_bytes();
        return found;
    }

    Said said_of(std::uint64_t guest) const {
        if (is_raw) return {Said::data, data_fd, guest};
        bool is_known;
        const std::uint64_t place = entry_at(guest, is_known);
        if (!is_known) return {Said::unknown};
        if (place == 0) return {Said::nothing};
        const std::uint64_t entry = number_at(place);
        const std::uint64_t bits = has_subclusters ? number_at(place + 8) : 0;
        const std::uint64_t host = entry & 0x00FFFFFFFFFFFE00;
        if (entry >> 62 & 1) return {Said::unknown};
        if (host % cluster_bytes() != 0) return {Said::unknown};
        const std::uint64_t within = guest % cluster_bytes();
        if (!has_subclusters) {
            if (entry & 1) return {has_zeros ? Said::zeros : Said::unknown};
            const bool is_there = host != 0 || (has_data_file && entry >> 63);
            if (is_there) return {Said::data, data_fd, host + within};
            return {Said::nothing};
        }
        const std::uint64_t rank = within / (cluster_bytes() / 32);
        for (int one = 0; one < 32; ++one) {
            if ((bits >> one & 1) && (bits >> (32 + one) & 1)) return {Said::unknown};
            if ((bits >> one & 1) && host == 0 && !has_data_file) return {Said::unknown};
        }
        if (bits >> (32 + rank) & 1) return {Said::zeros};
        if (bits >> rank & 1) return {Said::data, data_fd, host + within};
        return {Said::nothing};
    }

  private:
    void put_table(Draws &draws) {
        const std::uint64_t entry_bytes = has_subclusters ? 16 : 8;
        const std::uint64_t per_table = cluster_bytes() / entry_bytes;
        const std::uint64_t rank = draws.rarely(4) ? draws.between(0, 300) : draws.between(0, 3);
        std::uint64_t table = draws.between(3, 7) * cluster_bytes();
        if (draws.rarely(12)) table = draws.take<std::uint64_t>();
        if (l1_offset < 1 << 22) put_number(l1_offset + rank * 8, table);
        if (table >= 8 * cluster_bytes()) return;
        // Mostly near the disk's beginning, where most is read.
        std::uint64_t index =
            draws.rarely(4) ? draws.between(0, per_table - 1) : draws.between(0, 15);
        for (auto count = draws.between(0, 40); count > 0; --count) {
            index = draws.rarely(3) ? draws.between(0, per_table - 1) : (index + 1) % per_table;
            put_entry(draws, table + index * entry_bytes);
        }
    }

    void put_entry(Draws &draws, std::uint64_t place) {
        std::uint64_t host = draws.between(8, 23) * cluster_bytes();
        std::uint64_t entry = host | (draws.flip() ? 1ULL << 63 : 0);
        std::uint64_t bits = 0;
        switch (draws.between(0, 9)) {
        case 0:
            entry = draws.take<std::uint64_t>();
            break;
        case 1:
            entry |= 1;
            break;
        case 2:
            entry = draws.flip() ? 0 : 1ULL << 63;
            break;
        default:
            put_pattern(host, kSector);
            put_pattern(host + cluster_bytes() - kSector, kSector);
        }
        if (has_subclusters) {
            entry &= ~1ULL;
            bits = draws.take<std::uint64_t>();
            if (!draws.rarely(12)) bits &= ~(bits >> 32);
        }
        put_number(place, entry);
        if (has_subclusters) put_number(place + 8, bits);
    }

    // Each sector says which one it is.
    void put_pattern(std::uint64_t offset, std::size_t size) {
        std::vector<std::uint64_t> words(size / 8);
        for (std::size_t at = 0; at < words.size(); ++at)
            words[at] = (offset + at * 8) * 0x9E3779B97F4A7C15 + static_cast<std::uint64_t>(fd);
        write_all(data_fd, words.data(), size, offset);
    }

    void put_number(std::uint64_t place, std::uint64_t number) {
        const std::uint64_t swapped = __builtin_bswap64(number);
        write_all(fd, &swapped, 8, place);
    }

    std::uint64_t number_at(std::uint64_t place) const {
        std::uint64_t number;
        read_or_zero(fd, reinterpret_cast<char *>(&number), 8, place);
        return __builtin_bswap64(number);
    }

    std::uint64_t file_bytes() const {
        return static_cast<std::uint64_t>(lseek(fd, 0, SEEK_END));
    }

    friend class ModelDisk;
};

// Images one over the other, the base first.
class ModelDisk {
  public:
    std::vector<std::unique_ptr<ModelImage>> images;

    explicit ModelDisk(Draws &draws) {
        const auto count = draws.between(1, 4);
        for (std::uint64_t rank = 0; rank < count; ++rank)
            images.push_back(std::make_unique<ModelImage>(draws, true));
    }

    ModelImage &top() { return *images.back(); }
    std::uint64_t size() const { return images.back()->size; }
    int granule_bits() const {
        int least = 0;
        for (const auto &one : images) {
            if (!one->is_raw && (least == 0 || one->granule_bits() < least))
                least = one->granule_bits();
        }
        return least == 0 ? kRawGranuleBits : least;
    }

    Layers as_layers() const {
        Layers layers;
        std::uint64_t limit = UINT64_MAX;
        for (auto one = images.rbegin(); one != images.rend(); ++one) {
            limit = std::min(limit, (*one)->size);
            layers.insert(layers.begin(), (*one)->as_layer(limit));
        }
        return layers;
    }

    // What a sector is, and up to where; a file may end within it.
    Said said_of(std::uint64_t sector, std::uint64_t &end, std::size_t &layer) const {
        end = sector + kSector;
        for (layer = images.size(); layer-- > 0;) {
            const ModelImage &image = *images[layer];
            if (sector >= image.size) return {Said::zeros};
            end = std::min(end, image.size);
            const Said said = image.said_of(sector);
            if (said.what != Said::nothing) return said;
        }
        layer = 0;
        return {Said::zeros};
    }

    // False where some of it is damaged or compressed.
    bool read(std::uint64_t start, std::uint64_t size, char *target) const {
        for (std::uint64_t at = start; at < start + size;) {
            const std::uint64_t sector = at / kSector * kSector;
            const std::uint64_t stop = std::min(start + size, sector + kSector);
            std::uint64_t end;
            std::size_t layer;
            const Said said = said_of(sector, end, layer);
            if (said.what == Said::unknown) return false;
            std::memset(target, 0, stop - at);
            if (said.what == Said::data && at < end)
                read_or_zero(said.fd, target, std::min(end, stop) - at, said.at + at - sector);
            target += stop - at;
            at = stop;
        }
        return true;
    }
};

}  // namespace hatchway::fuzz
