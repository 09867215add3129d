// Clusters of memory, copied and summed while they are in the processor's caches.
//
// The twin of gather() and checksums() in src/hatchway/checkpoint/clusters.py.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "crc32.hpp"

namespace hatchway {

constexpr std::size_t kClusterBytes = 4096;

// Where the bytes of a cluster are in memory; around them are zeros.
struct Source {
    std::int64_t address;
    std::int64_t bytes;
    std::int64_t before;
};

inline bool fits(const Source &source) {
    return source.address > 0 && source.before >= 0 && source.bytes >= 0 &&
           source.before + source.bytes <= static_cast<std::int64_t>(kClusterBytes);
}

inline void gather(const Source *sources, std::size_t num, std::uint8_t *target,
                   std::uint32_t *crcs) {
    for (std::size_t i = 0; i < num; ++i, target += kClusterBytes) {
        const auto before = static_cast<std::size_t>(sources[i].before);
        const auto bytes = static_cast<std::size_t>(sources[i].bytes);
        std::memset(target, 0, before);
        std::memcpy(target + before, reinterpret_cast<const void *>(sources[i].address), bytes);
        std::memset(target + before + bytes, 0, kClusterBytes - before - bytes);
        crcs[i] = crc32_of(target, kClusterBytes);
    }
}

inline void checksums(const std::uint8_t *data, std::size_t num, std::uint32_t *crcs) {
    for (std::size_t i = 0; i < num; ++i) crcs[i] = crc32_of(data + i * kClusterBytes, kClusterBytes);
}

}  // namespace hatchway
