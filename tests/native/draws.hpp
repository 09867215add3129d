// Numbers and choices out of the bytes that a fuzzer made; zeros when there are no more.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace hatchway::fuzz {

// Ends the program, and so the run, where something that must hold does not.
#define MUST_HOLD(what)                                                              \
    do {                                                                             \
        if (!(what)) {                                                               \
            std::fprintf(stderr, "%s:%d: does not hold: %s\n", __FILE__, __LINE__, #what); \
            std::abort();                                                            \
        }                                                                            \
    } while (false)

class Draws {
  public:
    Draws(const std::uint8_t *data, std::size_t size) : next_(data), end_(data + size) {}

    bool is_empty() const { return next_ == end_; }
    std::size_t num_left() const { return static_cast<std::size_t>(end_ - next_); }
    const std::uint8_t *rest() const { return next_; }

    template <class Number>
    Number take() {
        Number number = 0;
        const std::size_t size = num_left() < sizeof number ? num_left() : sizeof number;
        std::memcpy(&number, next_, size);
        next_ += size;
        return number;
    }

    // A number in [first, last].
    std::uint64_t between(std::uint64_t first, std::uint64_t last) {
        const std::uint64_t span = last - first + 1;
        if (span == 0) return take<std::uint64_t>();
        if (span <= 1 << 8) return first + take<std::uint8_t>() % span;
        if (span <= 1 << 16) return first + take<std::uint16_t>() % span;
        return first + take<std::uint64_t>() % span;
    }

    bool flip() { return take<std::uint8_t>() & 1; }
    // True once in so many times.
    bool rarely(int times) { return take<std::uint8_t>() % times == static_cast<unsigned>(times - 1); }

  private:
    const std::uint8_t *next_, *end_;
};

}  // namespace hatchway::fuzz
