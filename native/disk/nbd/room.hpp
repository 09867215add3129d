// Memory for what is in flight, of which all clients of a server have a share.
#pragma once

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <list>
#include <mutex>
#include <utility>

#include "socket.hpp"

namespace hatchway::nbd {

// What clients have beyond their own bytes is bounded for all of them together.
struct RoomLimits {
    std::size_t shared_bytes = 256 << 20;
    // Of each client, so that small requests never wait for other clients.
    std::size_t own_bytes = 256 << 10;
    // So long a client that has a part of the room, and is waited for, may take and say nothing
    // while another one waits.
    std::chrono::milliseconds patience{30'000};
};

class InFlight;

class Room {
  public:
    explicit Room(RoomLimits limits) : limits_(limits) {}
    Room(const Room &) = delete;
    Room &operator=(const Room &) = delete;

  private:
    friend class InFlight;

    const RoomLimits limits_;
    std::mutex lock_;
    std::condition_variable changed_;
    std::size_t used_ = 0;  // by all, beyond their own bytes
    std::list<InFlight *> all_;
};

// What a connection was given to do and has not sent the answer of.
//
// A connection may have as much of the room as is left to others: however greedy some are, there
// is some for the next one. What is in it is given back by the pool, which waits for no room,
// and by clients that take their answers; those that do not are ended if others wait for long.
class InFlight {
  public:
    InFlight(Room &room, Socket &socket) : room_(room), socket_(socket) {
        const std::lock_guard guard(room_.lock_);
        own_place_ = room_.all_.insert(room_.all_.end(), this);
    }
    InFlight(const InFlight &) = delete;
    InFlight &operator=(const InFlight &) = delete;
    ~InFlight() {
        const std::lock_guard guard(room_.lock_);
        room_.all_.erase(own_place_);
    }

    // Waits until there is room, for which this connection must not hold up others.
    void begin(std::size_t bytes) {
        std::unique_lock guard(room_.lock_);
        while (!room_.changed_.wait_for(guard, room_.limits_.patience / 2,
                                        [&] { return has_room(bytes); }))
            if (may_have(bytes)) end_who_is_stuck();
        room_.used_ += shared(bytes_ + bytes) - shared(bytes_);
        ++num_jobs_;
        bytes_ += bytes;
    }

    void end(std::size_t bytes) {
        // Notified under the lock: whoever waits for the last job may free this at once.
        const std::lock_guard guard(room_.lock_);
        room_.used_ -= shared(bytes_) - shared(bytes_ - bytes);
        --num_jobs_;
        bytes_ -= bytes;
        room_.changed_.notify_all();
    }

    void wait_for_all() {
        std::unique_lock guard(room_.lock_);
        room_.changed_.wait(guard, [this] { return num_jobs_ == 0; });
    }

  private:
    using Clock = std::chrono::steady_clock;

    static constexpr std::size_t kMostJobs = 128, kMostBytes = 64 << 20;

    std::size_t shared(std::size_t bytes) const {
        return bytes - std::min(bytes, room_.limits_.own_bytes);
    }

    // As far as it is up to this connection alone.
    bool may_have(std::size_t bytes) const {
        return num_jobs_ < kMostJobs && bytes_ + bytes <= kMostBytes;
    }

    bool has_room(std::size_t bytes) const {
        const std::size_t wanted = shared(bytes_ + bytes);
        const bool is_free = room_.used_ + wanted <= room_.limits_.shared_bytes;
        // What takes no room waits for none; and one that is too large by itself goes alone.
        return may_have(bytes) && (bytes == 0 || wanted == 0 || is_free || room_.used_ == 0);
    }

    // Of the other connections that wait for clients which move nothing, the one that has most.
    void end_who_is_stuck() const {
        const auto now = Clock::now();
        const InFlight *found = nullptr;
        for (InFlight *one : room_.all_) {
            const std::uint64_t num_moved = one->socket_.num_moved();
            if (std::exchange(one->seen_, num_moved) != num_moved) one->seen_at_ = now;
            if (one != this && now - one->seen_at_ >= room_.limits_.patience &&
                one->socket_.waits_for_peer() &&
                shared(one->bytes_) > (found != nullptr ? shared(found->bytes_) : 0))
                found = one;
        }
        if (found != nullptr) found->socket_.shut(SHUT_RDWR);
    }

    Room &room_;
    Socket &socket_;
    std::list<InFlight *>::iterator own_place_;
    std::size_t num_jobs_ = 0, bytes_ = 0;
    // Of what its client took and said: how much that was, and since when.
    std::uint64_t seen_ = UINT64_MAX;
    Clock::time_point seen_at_{};
};

// A part of the room, until it is given up or handed on.
class Held {
  public:
    Held(InFlight &in_flight, std::size_t bytes) : in_flight_(&in_flight), bytes_(bytes) {
        in_flight.begin(bytes);
    }
    Held(const Held &) = delete;
    Held &operator=(const Held &) = delete;
    ~Held() {
        if (in_flight_ != nullptr) in_flight_->end(bytes_);
    }
    std::size_t bytes() const { return bytes_; }
    // Somebody else calls end.
    void hand_on() { in_flight_ = nullptr; }

  private:
    InFlight *in_flight_;
    std::size_t bytes_;
};

}  // namespace hatchway::nbd
