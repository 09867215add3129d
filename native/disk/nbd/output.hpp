// Replies on their way to a client.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <string_view>
#include <utility>

#include "buffer.hpp"

namespace hatchway::nbd {

// Bytes that are appended and sent; unlike a string it grows without being zeroed.
class Output {
  public:
    // Room for ``size`` bytes at the end, which the caller fills.
    char *extend(std::size_t size) {
        if (size_ + size > capacity_) grow(size_ + size);
        size_ += size;
        return bytes_.get() + size_ - size;
    }
    void append(const char *from, std::size_t size) { std::memcpy(extend(size), from, size); }
    void cut(std::size_t size) { size_ = size; }
    std::size_t size() const { return size_; }
    std::string_view view() const { return {bytes_.get(), size_}; }

    // Empty again; what a large reply took is given back.
    void clear() {
        size_ = 0;
        if (capacity_ > kKeptBytes) {
            bytes_.reset();
            capacity_ = 0;
        }
    }

  private:
    static constexpr std::size_t kKeptBytes = 512 << 10;

    void grow(std::size_t wanted) {
        const std::size_t capacity = std::max(wanted, std::min(2 * capacity_, kKeptBytes));
        Buffer bytes = buffer_of(capacity);
        if (size_ != 0) std::memcpy(bytes.get(), bytes_.get(), std::min(size_, capacity));
        bytes_ = std::move(bytes);
        capacity_ = capacity;
    }

    Buffer bytes_;
    std::size_t size_ = 0, capacity_ = 0;
};

}  // namespace hatchway::nbd
