// A small disk of two layers in memory, and what Python would do for its server: each kind of
// answer that a kernel may leave to it is needed somewhere on the disk.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <memory>
#include <mutex>
#include <string_view>
#include <vector>

#include "disk/nbd/exports.hpp"
#include "model.hpp"

namespace hatchway::fuzz {

// A disk of 1 MiB in granules of 512 bytes: four leaves. Leaf 0 is in the highest file and may be
// overwritten in place, leaf 1 is in the lower one, leaf 2 is compressed, as far as the kernel
// knows, and leaf 3 cannot be loaded at first.
class ServedDisk : public nbd::Backend {
  public:
    static constexpr std::uint64_t kSize = 1 << 20, kLeaf = kLeafGranules * 512;
    // The second half of leaf 1 lies past the end of its file.
    static constexpr std::uint64_t kBaseBytes = kLeaf * 3 / 2;

    ServedDisk()
        : chain_(layers(), kSize, 9, std::make_shared<SharedLeaves>(3 * (sizeof(Leaf) + 128), 512),
                 false),
          fake_(all_unwritten()) {
        chain_.allow_overwriting(true);
        MUST_HOLD(pwrite(top_, fake_.data(), kLeaf, 0) == static_cast<ssize_t>(kLeaf));
        MUST_HOLD(pwrite(base_, fake_.data(), kBaseBytes, 0) == static_cast<ssize_t>(kBaseBytes));
    }
    ~ServedDisk() override {
        close(top_);
        close(base_);
    }

    Chain &chain() { return chain_; }
    // What is there where nobody wrote to.
    static std::string_view unwritten(std::uint64_t offset, std::uint64_t size) {
        return {all_unwritten().data() + offset, size};
    }

    // Calls to come answer with an error, one in so many; 0 for none.
    void fail_one_in(unsigned count) { fail_one_in_ = count; }
    std::uint64_t num_calls() const { return num_calls_; }

    int read(std::uint64_t offset, std::uint32_t size, char *target) override {
        if (fails()) return EIO;
        check(offset, size);
        const std::lock_guard guard(lock_);
        in_pieces(offset, size, [&](int fd, std::uint64_t at, std::size_t count) {
            if (fd < 0)
                std::memcpy(target, fake_.data() + at, count);
            else
                read_or_zero(fd, target, count, at);
            target += count;
        });
        return 0;
    }
    int load(std::uint64_t rank) override {
        if (fails()) return EIO;
        MUST_HOLD(rank < kSize / kLeaf);
        const std::lock_guard guard(lock_);
        chain_.put(rank, leaf_of(rank));
        return 0;
    }
    int write(std::uint64_t offset, const char *data, std::uint32_t size, bool) override {
        if (fails()) return ENOSPC;
        check(offset, size);
        const std::lock_guard guard(lock_);
        in_pieces(offset, size, [&](int fd, std::uint64_t at, std::size_t count) {
            if (fd < 0)
                std::memcpy(fake_.data() + at, data, count);
            else
                MUST_HOLD(pwrite(fd, data, count, static_cast<off_t>(at)) ==
                          static_cast<ssize_t>(count));
            data += count;
        });
        return 0;
    }
    int write_zeroes(std::uint64_t offset, std::uint32_t size, bool, bool) override {
        return write(offset, std::vector<char>(size).data(), size, false);
    }
    int discard(std::uint64_t offset, std::uint32_t size, bool) override {
        if (fails()) return EIO;
        check(offset, size);
        const std::lock_guard guard(lock_);
        if (size != 0) chain_.drop(offset / kLeaf, (offset + size - 1) / kLeaf + 1);
        chain_.settle();
        return 0;
    }
    int flush() override { return fails() ? EIO : 0; }

  private:
    static const std::vector<char> &all_unwritten() {
        static const std::vector<char> disk = [] {
            std::vector<char> made(kSize);
            for (std::uint64_t at = 0; at < kSize; ++at)
                if (at < kBaseBytes || at >= 2 * kLeaf)
                    made[at] = static_cast<char>(at / 512 * 7 + at % 3);
            return made;
        }();
        return disk;
    }

    Layers layers() {
        Layers made;
        for (int *fd : {&base_, &top_}) {
            *fd = memfd_create("served", MFD_CLOEXEC);
            MUST_HOLD(*fd >= 0);
            made.push_back(std::make_unique<Layer>());
            made.back()->fd = made.back()->data_fd = *fd;
            made.back()->size = made.back()->limit = kSize;
            made.back()->is_raw = true;
        }
        return made;
    }

    std::unique_ptr<Leaf> leaf_of(std::uint64_t rank) const {
        auto leaf = std::make_unique<Leaf>();
        for (std::uint64_t at = 0; at < kLeafGranules; ++at) {
            const std::uint64_t place = rank * kLeaf + at * 512;
            leaf->words[at] = rank < 2 ? word_of(kData, place) : word_of(kCompressed, place);
            leaf->layers[at] = rank == 0;
        }
        return leaf;
    }

    bool fails() {
        const std::uint64_t call = ++num_calls_;
        return fail_one_in_ != 0 && call % fail_one_in_ == 0;
    }
    static void check(std::uint64_t offset, std::uint64_t size) {
        MUST_HOLD(offset <= kSize && size <= kSize - offset);
    }
    // What of a range lies in which file, or in memory (-1).
    template <class Call>
    void in_pieces(std::uint64_t offset, std::uint64_t size, Call call) {
        for (std::uint64_t at = offset, stop; at < offset + size; at = stop) {
            stop = std::min(offset + size, (at / kLeaf + 1) * kLeaf);
            call(at < kLeaf ? top_ : at < 2 * kLeaf ? base_ : -1, at, stop - at);
        }
    }

    int base_ = -1, top_ = -1;
    Chain chain_;
    std::mutex lock_;
    std::vector<char> fake_;
    std::atomic<unsigned> fail_one_in_{0};
    std::atomic<std::uint64_t> num_calls_{0};
};

}  // namespace hatchway::fuzz
