// Copy large rows past the caches.
//
// A row is read next by another process or by a device, not by the worker that
// wrote it. Ordinary stores would first fetch the row's lines from memory and
// evict what the worker needs for its next sample.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#if defined(__x86_64__) && defined(__GNUC__)
#define HATCHWAY_STREAMS 1
#include <immintrin.h>
#endif

namespace hatchway {

// Shorter runs are not worth the fence and the unaligned ends.
inline constexpr std::size_t kLeastStreamed = 2048;

#ifdef HATCHWAY_STREAMS

// Both need `to` aligned to their width and `nbytes` a multiple of four times it.
__attribute__((target("avx512f"))) inline void stream_512(unsigned char *to,
                                                          const unsigned char *from,
                                                          std::size_t nbytes) {
    for (std::size_t i = 0; i < nbytes; i += 256) {
        const __m512i a = _mm512_loadu_si512(from + i), b = _mm512_loadu_si512(from + i + 64);
        const __m512i c = _mm512_loadu_si512(from + i + 128), d = _mm512_loadu_si512(from + i + 192);
        _mm512_stream_si512(reinterpret_cast<__m512i *>(to + i), a);
        _mm512_stream_si512(reinterpret_cast<__m512i *>(to + i + 64), b);
        _mm512_stream_si512(reinterpret_cast<__m512i *>(to + i + 128), c);
        _mm512_stream_si512(reinterpret_cast<__m512i *>(to + i + 192), d);
    }
}

__attribute__((target("avx2"))) inline void stream_256(unsigned char *to,
                                                       const unsigned char *from,
                                                       std::size_t nbytes) {
    for (std::size_t i = 0; i < nbytes; i += 128) {
        const auto *in = reinterpret_cast<const __m256i *>(from + i);
        auto *out = reinterpret_cast<__m256i *>(to + i);
        const __m256i a = _mm256_loadu_si256(in), b = _mm256_loadu_si256(in + 1);
        const __m256i c = _mm256_loadu_si256(in + 2), d = _mm256_loadu_si256(in + 3);
        _mm256_stream_si256(out, a);
        _mm256_stream_si256(out + 1, b);
        _mm256_stream_si256(out + 2, c);
        _mm256_stream_si256(out + 3, d);
    }
}

inline std::size_t stream_width() {
    static const std::size_t width = __builtin_cpu_supports("avx512f") ? 64
                                     : __builtin_cpu_supports("avx2")  ? 32
                                                                       : 0;
    return width;
}

#endif

// Like memcpy; when it returns, other processes that see a later release store
// of this thread see the bytes.
inline void copy_past_caches(void *to, const void *from, std::size_t nbytes) {
#ifdef HATCHWAY_STREAMS
    const std::size_t width = stream_width();
    if (nbytes >= kLeastStreamed && width != 0) {
        auto *target = static_cast<unsigned char *>(to);
        const auto *source = static_cast<const unsigned char *>(from);
        const std::size_t head = -reinterpret_cast<std::uintptr_t>(target) & (width - 1);
        const std::size_t body = (nbytes - head) / (4 * width) * (4 * width);
        std::memcpy(target, source, head);
        (width == 64 ? stream_512 : stream_256)(target + head, source + head, body);
        std::memcpy(target + head + body, source + head + body, nbytes - head - body);
        _mm_sfence();
        return;
    }
#endif
    std::memcpy(to, from, nbytes);
}

}  // namespace hatchway
