// Clusters gathered from anywhere in memory hold what is there, and the checksums agree.
#include <chrono>
#include <cstdio>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "checkpoint/clusters.hpp"
#include "draws.hpp"

namespace {

using namespace hatchway;

// A byte at a time, from the definition.
std::uint32_t by_definition(const std::uint8_t *data, std::size_t bytes) {
    std::uint32_t crc = ~0U;
    for (std::size_t i = 0; i < bytes; ++i) {
        crc ^= data[i];
        for (int bit = 0; bit < 8; ++bit) crc = crc >> 1 ^ (crc & 1 ? kPolynomial : 0);
    }
    return ~crc;
}

void round(std::mt19937_64 &random) {
    const std::size_t num = 1 + random() % 5;
    std::vector<Source> sources;
    std::vector<std::unique_ptr<std::uint8_t[]>> held;
    for (std::size_t i = 0; i < num; ++i) {
        const auto before = random() % 3 == 0 ? random() % kClusterBytes : 0;
        const auto bytes = random() % (kClusterBytes - before + 1);
        // As long as what is read, so that one byte more is noticed.
        held.push_back(std::make_unique<std::uint8_t[]>(bytes));
        for (std::size_t at = 0; at < bytes; ++at)
            held.back()[at] = static_cast<std::uint8_t>(random());
        sources.push_back({reinterpret_cast<std::int64_t>(held.back().get()),
                           static_cast<std::int64_t>(bytes), static_cast<std::int64_t>(before)});
        MUST_HOLD(fits(sources.back()));
    }
    const auto target = std::make_unique<std::uint8_t[]>(num * kClusterBytes);
    std::vector<std::uint32_t> crcs(num), again(num);
    gather(sources.data(), num, target.get(), crcs.data());
    checksums(target.get(), num, again.data());
    MUST_HOLD(crcs == again);
    for (std::size_t i = 0; i < num; ++i) {
        const std::uint8_t *cluster = target.get() + i * kClusterBytes;
        const auto before = static_cast<std::size_t>(sources[i].before);
        const auto end = before + static_cast<std::size_t>(sources[i].bytes);
        for (std::size_t at = 0; at < kClusterBytes; ++at)
            MUST_HOLD(cluster[at] == (before <= at && at < end ? held[i][at - before] : 0));
        MUST_HOLD(crcs[i] == by_definition(cluster, kClusterBytes));
        MUST_HOLD(crcs[i] == ~crc_by_table(~0U, cluster, kClusterBytes));
    }
}

}  // namespace

int main(int num_arguments, char **arguments) {
    const std::chrono::seconds length(num_arguments > 1 ? std::stoi(arguments[1]) : 5);
    const std::uint64_t seed = std::random_device{}();
    std::printf("seed %lu\n", seed);
    std::mt19937_64 random(seed);
    const auto end = std::chrono::steady_clock::now() + length;
    std::uint64_t num_rounds = 0;
    for (; std::chrono::steady_clock::now() < end; ++num_rounds) round(random);
    std::printf("ran %lu rounds\n", num_rounds);
}
