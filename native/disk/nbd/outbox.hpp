// Replies on their way to a client that may not take them.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <exception>
#include <functional>
#include <list>
#include <mutex>
#include <string_view>
#include <thread>
#include <utility>

#include "output.hpp"
#include "socket.hpp"

namespace hatchway::nbd {

// What is handed in at a time stays together. The connection's own thread waits for the client;
// threads of the pool, which other clients need, do not: what the client does not take at once
// is sent by one more thread, which is started when it is first needed.
class Outbox {
  public:
    explicit Outbox(Socket &socket) : socket_(socket) {}
    Outbox(const Outbox &) = delete;
    Outbox &operator=(const Outbox &) = delete;

    // Whatever was left here is gone by then.
    ~Outbox() {
        {
            const std::lock_guard guard(lock_);
            is_ending_ = true;
        }
        changed_.notify_all();
        if (sending_.joinable()) sending_.join();
    }

    // Waits until the client has taken it. False if it is gone.
    bool write(std::string_view bytes) {
        std::unique_lock guard(lock_);
        changed_.wait(guard, [this] { return !is_busy_; });
        is_busy_ = true;
        guard.unlock();
        const bool is_there = socket_.write(bytes);
        guard.lock();
        is_busy_ = false;
        changed_.notify_all();
        return is_there;
    }

    // Does not wait. Calls ``sent`` when the bytes are taken or lost, after which this may be
    // gone. Throws only if it has done nothing.
    void leave(Output bytes, std::function<void()> sent) {
        std::list<Left> left;
        left.push_back({std::move(bytes), std::move(sent)});
        Left &one = left.front();
        one.rest = one.bytes.view();
        bool is_there = true, is_begun = false;
        {
            std::unique_lock guard(lock_);
            if (!is_busy_ && left_.empty()) {
                is_busy_ = true;
                guard.unlock();
                is_there = socket_.write_nowait(one.rest);
                guard.lock();
                is_begun = is_there && !one.rest.empty();
                is_busy_ = is_begun;
            }
            if (is_there && !one.rest.empty()) {
                is_there = start();
                if (is_there) {
                    // Others may have come meanwhile; what is begun goes on first.
                    left_.splice(is_begun ? left_.begin() : left_.end(), left);
                    is_begun_ = is_begun_ || is_begun;
                } else if (is_begun) {
                    is_busy_ = false;
                }
            }
            if (!is_there) socket_.shut(SHUT_RDWR);
            changed_.notify_all();
        }
        if (!left.empty()) one.sent();
    }

  private:
    struct Left {
        Output bytes;
        std::function<void()> sent;
        std::string_view rest{};
    };

    // False if there is no thread to be had.
    bool start() {
        if (sending_.joinable()) return true;
        try {
            sending_ = std::thread([this] { send_all(); });
        } catch (const std::exception &) {
            return false;
        }
        return true;
    }

    void send_all() {
        std::unique_lock guard(lock_);
        while (true) {
            changed_.wait(guard, [this] {
                return left_.empty() ? is_ending_ : is_begun_ || !is_busy_;
            });
            if (left_.empty()) return;
            std::list<Left> one;
            one.splice(one.end(), left_, left_.begin());
            is_busy_ = true;
            is_begun_ = false;
            guard.unlock();
            if (!socket_.write(one.front().rest)) socket_.shut(SHUT_RDWR);
            guard.lock();
            is_busy_ = false;
            changed_.notify_all();
            guard.unlock();
            const auto sent = std::move(one.front().sent);
            one.clear();
            sent();
            guard.lock();
        }
    }

    Socket &socket_;
    std::mutex lock_;
    std::condition_variable changed_;
    std::list<Left> left_;
    // Somebody sends; or the first of what is left was sent in part.
    bool is_busy_ = false, is_begun_ = false;
    bool is_ending_ = false;
    std::thread sending_;
};

}  // namespace hatchway::nbd
