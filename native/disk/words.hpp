// Entries of L2 tables and the words that they become; the twin is entries.py.
#pragma once

#include <cstdint>

namespace hatchway {

constexpr int kKindShift = 62;
constexpr std::uint64_t kHole = 0, kData = 1, kZero = 2, kCompressed = 3;
constexpr std::uint64_t kValueMask = (1ULL << kKindShift) - 1;
constexpr std::uint64_t kOffsetMask = 0x00FFFFFFFFFFFE00ULL;
constexpr std::uint64_t kCopiedBit = 1ULL << 63, kCompressedBit = 1ULL << 62, kZeroBit = 1;
constexpr int kSubclusters = 32;

constexpr std::uint64_t kind_of(std::uint64_t word) { return word >> kKindShift; }
constexpr std::uint64_t value_of(std::uint64_t word) { return word & kValueMask; }
constexpr std::uint64_t word_of(std::uint64_t kind, std::uint64_t value) {
    return kind << kKindShift | value;
}

inline std::uint64_t from_big_endian(std::uint64_t value) {
    if constexpr (__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__) return __builtin_bswap64(value);
    return value;
}

inline std::uint64_t to_little_endian(std::uint64_t value) {
    if constexpr (__BYTE_ORDER__ == __ORDER_BIG_ENDIAN__) return __builtin_bswap64(value);
    return value;
}

// How the file of an entry is to be read.
struct EntryRules {
    std::uint64_t cluster_bytes;
    bool has_subclusters;
    bool has_data_file;
    bool has_zeros;  // version 3
};

// Whether an entry contradicts the format; which part of it does is said by the twin.
inline bool is_wrong(std::uint64_t entry, std::uint64_t bitmap, const EntryRules &rules) {
    const bool compressed = entry & kCompressedBit;
    const std::uint64_t offset = entry & kOffsetMask;
    if (compressed) return rules.has_data_file || bitmap != 0;
    if (offset & (rules.cluster_bytes - 1)) return true;
    if (!rules.has_subclusters) return (entry & kZeroBit) && !rules.has_zeros;
    const std::uint64_t data = bitmap & 0xFFFFFFFF, zero = bitmap >> 32;
    return (data & zero) != 0 || (data != 0 && offset == 0 && !rules.has_data_file);
}

// The word of a cluster without subclusters, or of a compressed one.
inline std::uint64_t word_of_entry(std::uint64_t entry, const EntryRules &rules) {
    if (entry & kCompressedBit) return word_of(kCompressed, entry & kValueMask);
    if (!rules.has_subclusters && (entry & kZeroBit)) return word_of(kZero, 0);
    const std::uint64_t offset = entry & kOffsetMask;
    if (offset != 0 || (rules.has_data_file && (entry & kCopiedBit)))
        return word_of(kData, offset);
    return kHole;
}

// The word of a subcluster of a cluster that is not compressed.
inline std::uint64_t word_of_subcluster(std::uint64_t entry, std::uint64_t bitmap, int rank,
                                        const EntryRules &rules) {
    if (bitmap >> (32 + rank) & 1) return word_of(kZero, 0);
    if (bitmap >> rank & 1)
        return word_of(kData, (entry & kOffsetMask) + rank * (rules.cluster_bytes / kSubclusters));
    return kHole;
}

// Calls ``take(offset within the cluster, bytes, word)`` for what an entry says of each piece of a
// cluster, holes included.
template <class Take>
void for_each_piece(std::uint64_t entry, std::uint64_t bitmap, const EntryRules &rules, Take take) {
    const bool whole = !rules.has_subclusters || (entry & kCompressedBit);
    const int pieces = whole ? 1 : kSubclusters;
    const std::uint64_t piece_bytes = rules.cluster_bytes / pieces;
    for (int piece = 0; piece < pieces; ++piece) {
        const std::uint64_t word = whole ? word_of_entry(entry, rules)
                                         : word_of_subcluster(entry, bitmap, piece, rules);
        take(piece * piece_bytes, piece_bytes, word);
    }
}

}  // namespace hatchway
