// Memory for data on their way.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <memory>
#include <new>

namespace hatchway::nbd {

// Replies that begin where a page begins are copied in 1.2 times the time.
constexpr std::size_t kAside = 64;

// Gives back what ``buffer_of`` gave.
class Release {
  public:
    explicit Release(std::size_t mapped_bytes = 0) : mapped_bytes_(mapped_bytes) {}
    void operator()(char *bytes) const {
        if (mapped_bytes_ != 0)
            munmap(bytes - kAside, mapped_bytes_);
        else
            delete[] bytes;
    }

  private:
    std::size_t mapped_bytes_;
};

using Buffer = std::unique_ptr<char[], Release>;

// Large ones are the system's own pages, and go back to it at once: malloc would from then on keep
// as much as the largest of them for each thread. One that will be full has its pages from the
// beginning, which takes less time than to be given one after the other.
inline Buffer buffer_of(std::size_t size, bool will_be_full = true) {
    constexpr std::size_t kMapped = 128 << 10;
    if (size < kMapped) return Buffer(new char[size], Release());
    void *pages = mmap(nullptr, kAside + size, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | (will_be_full ? MAP_POPULATE : 0), -1, 0);
    if (pages == MAP_FAILED) throw std::bad_alloc();
    return Buffer(static_cast<char *>(pages) + kAside, Release(kAside + size));
}

}  // namespace hatchway::nbd
