// What a server offers.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "../chain.hpp"
#include "protocol.hpp"

namespace hatchway::nbd {

// What the kernel of a chain leaves to Python. Each returns 0 or an error's number, and may be
// called by several threads at a time.
class Backend {
  public:
    virtual ~Backend() = default;
    virtual int read(std::uint64_t offset, std::uint32_t size, char *target) = 0;
    virtual int load(std::uint64_t rank) = 0;
    virtual int write(std::uint64_t offset, const char *data, std::uint32_t size, bool fua) = 0;
    virtual int write_zeroes(std::uint64_t offset, std::uint32_t size, bool may_unmap,
                             bool fua) = 0;
    virtual int discard(std::uint64_t offset, std::uint32_t size, bool fua) = 0;
    virtual int flush() = 0;
};

struct Export {
    std::string name;
    bool read_only;
    Chain &chain;
    Backend &backend;

    std::uint16_t flags() const {
        const int common = kHasFlags | kSendFlush | kSendFua | kSendDf | kCanMultiConn | kSendCache;
        const int writing = kSendTrim | kSendWriteZeroes;
        return static_cast<std::uint16_t>(common | (read_only ? kReadOnly : writing));
    }
};

using Exports = std::vector<std::unique_ptr<Export>>;

// What block status is asked about, by number.
enum Context : std::uint32_t { kAllocation = 0, kDepth = 1, kNumContexts = 2 };

constexpr const char *kContextNames[kNumContexts] = {"base:allocation", "qemu:allocation-depth"};

}  // namespace hatchway::nbd
