// Which pages of this process were written: PAGEMAP_SCAN over sorted ranges, what it says joined.
//
// The twin of Pagemap in src/hatchway/memory/pagemap.py, which says what the interface is.
#pragma once

#include <sys/ioctl.h>
#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace hatchway {

struct AddressRange {
    std::int64_t start;
    std::int64_t end;
};

struct Scanned {
    std::vector<AddressRange> found;
    std::size_t num_done = 0;
    int error = 0;
};

class PagemapScanner {
  public:
    explicit PagemapScanner(int fd) : fd_(fd), regions_(kNumRegions) {}

    // Stops at the first range that fails; of that, what was found is not told.
    Scanned take_written(const AddressRange *ranges, std::size_t num_ranges) {
        Scanned scanned;
        for (std::size_t i = 0; i < num_ranges; ++i) {
            auto *start = reinterpret_cast<void *>(ranges[i].start);
            // It writes nothing, and looks at mappings rather than at pages.
            if (::msync(start, static_cast<std::size_t>(ranges[i].end - ranges[i].start),
                        MS_ASYNC) != 0) {
                scanned.error = errno;
                scanned.num_done = i;
                return scanned;
            }
        }
        for (; scanned.num_done < num_ranges; ++scanned.num_done) {
            scanned.error = scan(ranges[scanned.num_done], scanned.found);
            if (scanned.error != 0) break;
        }
        return scanned;
    }

  private:
    struct Region {
        std::uint64_t start, end, categories;
    };
    struct Argument {
        std::uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages, inverted, mask,
            any_of, returned;
    };
    static constexpr unsigned long kScan = 0xc0606610;
    static constexpr std::uint64_t kProtectMatching = 1, kFailUnlessAsync = 2, kIsWritten = 2;
    static constexpr std::size_t kNumRegions = 16384;

    int scan(const AddressRange &range, std::vector<AddressRange> &found) {
        auto start = static_cast<std::uint64_t>(range.start);
        const auto end = static_cast<std::uint64_t>(range.end);
        while (start < end) {
            Argument argument{};
            argument.size = sizeof argument;
            argument.flags = kProtectMatching | kFailUnlessAsync;
            argument.start = start;
            argument.end = end;
            argument.vec = reinterpret_cast<std::uint64_t>(regions_.data());
            argument.vec_len = regions_.size();
            argument.mask = argument.returned = kIsWritten;
            const int count = ::ioctl(fd_, kScan, &argument);
            if (count < 0) return errno;
            std::uint64_t reached = argument.walk_end;
            for (int i = 0; i < count; ++i) {
                const AddressRange one{static_cast<std::int64_t>(regions_[i].start),
                                       static_cast<std::int64_t>(regions_[i].end)};
                if (!found.empty() && one.start <= found.back().end)
                    found.back().end = std::max(found.back().end, one.end);
                else
                    found.push_back(one);
            }
            // Past 512 regions it may say that it ended earlier than it did.
            if (count > 0) reached = std::max(reached, regions_[count - 1].end);
            if (reached <= start) return EAGAIN;
            start = reached;
        }
        return 0;
    }

    int fd_;
    std::vector<Region> regions_;
};

}  // namespace hatchway
