// Set the three global generators of a worker from (base seed, epoch, position).
//
// All three are Mersenne twisters with 624 words of state. Their public seeding
// functions expand a small seed serially (3.5 to 8 microseconds each); filling
// the state with an independent stream of words takes a fraction of that. The
// words are handed out as they are (the generator stands at the beginning of a
// block, not at the end of one): most samples draw few numbers, and need not wait
// a microsecond for 624 new ones.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace hatchway {

inline constexpr std::size_t kTwisterWords = 624;

// SplitMix64's output function (Steele, Lea, Flood 2014): a bijection of 64 bits.
constexpr std::uint64_t mix(std::uint64_t value) {
    value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9ULL;
    value = (value ^ (value >> 27)) * 0x94D049BB133111EBULL;
    return value ^ (value >> 31);
}

inline constexpr std::uint64_t kGolden = 0x9E3779B97F4A7C15ULL;

constexpr std::uint64_t sample_key(std::uint64_t base_seed, std::uint64_t epoch,
                                   std::uint64_t position) {
    std::uint64_t key = mix(base_seed + kGolden);
    key = mix(key ^ mix(epoch + 2 * kGolden));
    return mix(key ^ mix(position + 3 * kGolden)) >> 1;
}

// One hash a word, keyed by both halves of ``key`` (the multipliers are those of
// C. Wellons' lowbias32): 32-bit lanes, so that the compiler can vectorise it.
//
// No 512-bit vectors: their multiplications slow the core down for microseconds
// after, by more than they save (measured: 1.7 us a sample).
#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__)
__attribute__((target_clones("avx2", "default")))
#endif
static void fill_words(unsigned char *target, std::uint64_t key) {
    const auto low = static_cast<std::uint32_t>(key);
    const auto high = static_cast<std::uint32_t>(key >> 32);
    std::uint32_t counter = low;
    for (std::uint32_t i = 0; i < kTwisterWords; ++i) {
        counter += 0x9E3779B9U;  // cheaper than a product with i
        std::uint32_t x = counter;
        x = (x ^ (x >> 16)) * 0x21F0AAADU + high;
        x = (x ^ (x >> 15)) * 0xD35A2D97U;
        x ^= x >> 15;
        std::memcpy(target + sizeof x * i, &x, sizeof x);
    }
}

// Where the interpreter's generators keep their state; 0 where there is none.
struct GeneratorAddresses {
    std::uintptr_t random_words, random_index;
    std::uintptr_t numpy_words, numpy_index, numpy_has_gauss;
    std::uintptr_t torch_words, torch_seed, torch_left, torch_next;
    std::uintptr_t torch_float_flag, torch_double_flag;
};

template <class T>
void poke(std::uintptr_t address, T value) {
    std::memcpy(reinterpret_cast<void *>(address), &value, sizeof value);
}

inline void seed_generators(const GeneratorAddresses &at, std::uint64_t base_seed,
                            std::uint64_t epoch, std::uint64_t position) {
    const std::uint64_t key = sample_key(base_seed, epoch, position);
    fill_words(reinterpret_cast<unsigned char *>(at.random_words), mix(key ^ 1));
    poke<std::int32_t>(at.random_index, 0);
    fill_words(reinterpret_cast<unsigned char *>(at.numpy_words), mix(key ^ 2));
    poke<std::int32_t>(at.numpy_index, 0);
    poke<std::int32_t>(at.numpy_has_gauss, 0);
    fill_words(reinterpret_cast<unsigned char *>(at.torch_words), mix(key ^ 3));
    poke<std::uint64_t>(at.torch_seed, key);
    // torch makes new words when ``left`` falls to 0, and knows no block of which nothing
    // was handed out: its first word is left out.
    poke<std::int32_t>(at.torch_left, kTwisterWords);
    poke<std::uint32_t>(at.torch_next, 1);
    poke<unsigned char>(at.torch_float_flag, 0);
    poke<unsigned char>(at.torch_double_flag, 0);
}

}  // namespace hatchway
