// CRC-32 (of zlib and Ethernet), by carry-less multiplication where the processor has it.
//
// Four accumulators of 128 bits are each folded over the next 64 bytes: a term a*x^n of the
// message polynomial may be replaced by a*(x^n mod P). See Gopal et al., "Fast CRC Computation
// for Generic Polynomials Using PCLMULQDQ Instruction", Intel, 2009. What is left, 16 bytes with
// the same remainder, goes through the table. The twin is zlib.crc32.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace hatchway {

constexpr std::uint32_t kPolynomial = 0xEDB88320;  // bit 31 is x^0

constexpr auto crc_tables() {
    std::array<std::array<std::uint32_t, 256>, 8> tables{};
    for (std::uint32_t i = 0; i < 256; ++i) {
        std::uint32_t crc = i;
        for (int bit = 0; bit < 8; ++bit) crc = crc >> 1 ^ (crc & 1 ? kPolynomial : 0);
        tables[0][i] = crc;
    }
    for (std::size_t table = 1; table < tables.size(); ++table)
        for (std::uint32_t i = 0; i < 256; ++i)
            tables[table][i] = tables[table - 1][i] >> 8 ^ tables[0][tables[table - 1][i] & 255];
    return tables;
}

inline constexpr auto kCrcTables = crc_tables();

// Continues a remainder, not inverted, over bytes whose number is a multiple of 8.
inline std::uint32_t crc_by_table(std::uint32_t crc, const std::uint8_t *data, std::size_t bytes) {
    for (; bytes >= 8; data += 8, bytes -= 8) {
        std::uint64_t next = 0;
        for (int i = 0; i < 8; ++i) next |= std::uint64_t{data[i]} << (8 * i);
        next ^= crc;
        crc = 0;
        for (int i = 0; i < 8; ++i) crc ^= kCrcTables[7 - i][next >> (8 * i) & 255];
    }
    return crc;
}

#if defined(__x86_64__)
// x^power mod P as a factor of a product whose bits are reflected, which is one place too low.
constexpr std::int64_t fold_factor(int power) {
    std::uint32_t term = 0x80000000;
    for (int i = 0; i < power; ++i) term = term >> 1 ^ (term & 1 ? kPolynomial : 0);
    return static_cast<std::int64_t>(std::uint64_t{term} << 1);
}

constexpr std::int64_t kByFour[] = {fold_factor(512 + 32), fold_factor(512 - 32)};
constexpr std::int64_t kByOne[] = {fold_factor(128 + 32), fold_factor(128 - 32)};

// One accumulator, moved on by as many bits as its factors say.
__attribute__((target("pclmul,sse4.1"))) inline __m128i folded(__m128i bits, __m128i factors,
                                                               __m128i next) {
    const __m128i low = _mm_clmulepi64_si128(bits, factors, 0x00);
    const __m128i high = _mm_clmulepi64_si128(bits, factors, 0x11);
    return _mm_xor_si128(_mm_xor_si128(low, high), next);
}

// The bytes are a multiple of 64, and not none.
__attribute__((target("pclmul,sse4.1"))) inline std::uint32_t crc_by_folding(
    std::uint32_t crc, const std::uint8_t *data, std::size_t bytes) {
    const auto *from = reinterpret_cast<const __m128i *>(data);
    const __m128i by_four = _mm_set_epi64x(kByFour[1], kByFour[0]);
    const __m128i by_one = _mm_set_epi64x(kByOne[1], kByOne[0]);
    __m128i sums[4];
    for (int i = 0; i < 4; ++i) sums[i] = _mm_loadu_si128(from + i);
    sums[0] = _mm_xor_si128(sums[0], _mm_cvtsi32_si128(static_cast<int>(crc)));
    for (const auto *end = from + bytes / 16; (from += 4) != end;)
        for (int i = 0; i < 4; ++i)
            sums[i] = folded(sums[i], by_four, _mm_loadu_si128(from + i));
    for (int i = 1; i < 4; ++i) sums[i] = folded(sums[i - 1], by_one, sums[i]);
    std::uint8_t rest[16];
    std::memcpy(rest, &sums[3], sizeof rest);
    return crc_by_table(0, rest, sizeof rest);
}
#endif

// The bytes are a multiple of 64, and not none.
inline std::uint32_t crc32_of(const std::uint8_t *data, std::size_t bytes) {
#if defined(__x86_64__)
    static const bool folds = __builtin_cpu_supports("pclmul") && __builtin_cpu_supports("sse4.1");
    if (folds) return ~crc_by_folding(~0U, data, bytes);
#endif
    return ~crc_by_table(~0U, data, bytes);
}

}  // namespace hatchway
