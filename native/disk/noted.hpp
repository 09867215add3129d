// Which granules of a disk were written to.
#pragma once

#include <algorithm>
#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>

namespace hatchway {

// A bit a granule, the lowest of a byte first. Any number of threads may note.
class Noted {
  public:
    // Of a disk of ``size`` bytes; a granule has a power of 2.
    Noted(std::uint64_t size, std::uint64_t granule_bytes)
        : granule_bits_(std::countr_zero(granule_bytes)),
          num_bytes_((size >> granule_bits_ >> 3) + 1),
          // Which takes memory where something is noted only.
          bits_(static_cast<std::uint8_t *>(std::calloc(num_bytes_, 1))) {
        if (!bits_) throw std::bad_alloc();
    }

    // Notes ``[start, end)``, which has some bytes; false if it is not all of the disk.
    bool note(std::uint64_t start, std::uint64_t end) {
        const std::uint64_t first = start >> granule_bits_, last = (end - 1) >> granule_bits_;
        if (last >> 3 >= num_bytes_) return false;
        for (std::uint64_t at = first >> 3; at <= last >> 3; ++at) {
            unsigned wanted = 0xFF;
            if (at == first >> 3) wanted &= 0xFFU << (first & 7);
            if (at == last >> 3) wanted &= 0xFFU >> (7 - (last & 7));
            const std::atomic_ref<std::uint8_t> bits(bits_.get()[at]);
            // Mostly it is there: no other processor has to fetch it then.
            if ((bits.load(std::memory_order_relaxed) & wanted) != wanted)
                bits.fetch_or(static_cast<std::uint8_t>(wanted), std::memory_order_relaxed);
        }
        return true;
    }

    // Calls with pieces of the bytes, all that is noted among them: first byte, bytes, how many.
    template <class Call>
    void each_piece(Call call) const {
        for (std::size_t at = 0; at < num_bytes_; at += kPieceBytes) {
            const std::uint8_t *bits = bits_.get() + at;
            const std::size_t num = std::min(kPieceBytes, num_bytes_ - at);
            if (std::any_of(bits, bits + num, [](std::uint8_t one) { return one != 0; }))
                call(at, bits, num);
        }
    }

  private:
    static constexpr std::size_t kPieceBytes = 4096;

    struct Free {
        void operator()(std::uint8_t *bits) const { std::free(bits); }
    };

    int granule_bits_;
    std::size_t num_bytes_;
    std::unique_ptr<std::uint8_t[], Free> bits_;
};

}  // namespace hatchway
