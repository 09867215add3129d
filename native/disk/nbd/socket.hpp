// A connected stream socket, read through a buffer.
#pragma once

#include <sys/socket.h>
#include <sys/time.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string_view>
#include <thread>
#include <utility>

#include "buffer.hpp"
#include "descriptor.hpp"

namespace hatchway::nbd {

class Socket {
  public:
    explicit Socket(Descriptor fd)
        : fd_(std::move(fd)), buffer_(buffer_of(kBufferBytes, false)) {}
    Socket(const Socket &) = delete;
    Socket &operator=(const Socket &) = delete;

    // Bytes that can be had without waiting for the peer.
    std::size_t num_buffered() const { return end_ - begin_; }

    // The next ``size`` bytes, which may not be more than fit the buffer; null at the end.
    const char *next(std::size_t size) {
        while (num_buffered() < size) {
            if (begin_ + size > kBufferBytes || begin_ == end_) {
                std::memmove(buffer_.get(), buffer_.get() + begin_, num_buffered());
                end_ -= begin_;
                begin_ = 0;
            }
            const ssize_t got = receive(buffer_.get() + end_, kBufferBytes - end_);
            if (got <= 0) return nullptr;
            end_ += static_cast<std::size_t>(got);
        }
        const char *found = buffer_.get() + begin_;
        begin_ += size;
        return found;
    }

    bool read(char *target, std::size_t size) {
        const std::size_t held = std::min(size, num_buffered());
        std::memcpy(target, buffer_.get() + begin_, held);
        begin_ += held;
        is_reading_ = true;
        std::size_t done = held;
        while (done < size) {
            const ssize_t got = receive(target + done, size - done);
            if (got <= 0) break;
            done += static_cast<std::size_t>(got);
            num_moved_.fetch_add(1, std::memory_order_relaxed);
        }
        is_reading_ = false;
        return done == size;
    }

    // One thread at a time. False if the peer is gone.
    bool write(std::string_view bytes) { return send_all(bytes, 0); }

    // Writes what the peer has room for, and leaves the rest in ``bytes``.
    bool write_nowait(std::string_view &bytes) {
        return send_all(bytes, MSG_DONTWAIT) || errno == EAGAIN || errno == EWOULDBLOCK;
    }

    // A peer that says or takes nothing for so long is gone; 0 waits for ever.
    void set_patience(int seconds) {
        const timeval patience{seconds, 0};
        for (const int side : {SO_RCVTIMEO, SO_SNDTIMEO})
            setsockopt(fd_.get(), SOL_SOCKET, side, &patience, sizeof patience);
    }

    void shut(int how) { shutdown(fd_.get(), how); }

    // For other threads: grows with what is sent, and with what ``read`` has.
    std::uint64_t num_moved() const { return num_moved_.load(std::memory_order_relaxed); }

    // Whether the peer is to say the rest of something, or to take what was sent before.
    bool waits_for_peer() const {
        pollfd one{fd_.get(), POLLOUT, 0};
        return is_reading_ || poll(&one, 1, 0) == 0;
    }

  private:
    static constexpr std::size_t kBufferBytes = 256 << 10;

    bool send_all(std::string_view &bytes, int flags) {
        while (!bytes.empty()) {
            const ssize_t put = send(fd_.get(), bytes.data(), bytes.size(), flags | MSG_NOSIGNAL);
            if (put < 0 && errno == EINTR) continue;
            if (put <= 0) return false;
            num_moved_.fetch_add(1, std::memory_order_relaxed);
            bytes.remove_prefix(static_cast<std::size_t>(put));
        }
        return true;
    }

    using Clock = std::chrono::steady_clock;

    // A processor that sleeps takes longer to wake up than a read takes: who soon asks again is
    // awaited awake, as long as that was worth it lately.
    ssize_t receive(char *target, std::size_t size) {
        const auto begun = Clock::now();
        const ssize_t soon = worth_ > 0 ? receive_soon(target, size, begun + kSoon) : kNothing;
        if (soon != kNothing) {
            worth_ = std::min(worth_ + 1, kMostWorth);
            return soon;
        }
        worth_ = std::max(worth_ - 1, 0);
        while (true) {
            const ssize_t got = recv(fd_.get(), target, size, 0);
            if (got < 0 && errno == EINTR) continue;
            if (Clock::now() - begun < 2 * kSoon) worth_ = kMostWorth;
            return got;
        }
    }

    ssize_t receive_soon(char *target, std::size_t size, Clock::time_point until) {
        do {
            const ssize_t got = recv(fd_.get(), target, size, MSG_DONTWAIT);
            if (got >= 0 || (errno != EAGAIN && errno != EINTR)) return got;
            std::this_thread::yield();  // to whoever has something to do
        } while (Clock::now() < until);
        return kNothing;
    }

    static constexpr ssize_t kNothing = -2;
    static constexpr std::chrono::microseconds kSoon{50};
    static constexpr int kMostWorth = 16;

    Descriptor fd_;
    int worth_ = 0;
    std::atomic<std::uint64_t> num_moved_{0};
    std::atomic<bool> is_reading_{false};
    Buffer buffer_;
    std::size_t begin_ = 0, end_ = 0;
};

}  // namespace hatchway::nbd
