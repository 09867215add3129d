// Who uses what was looked up, and a way to wait for those that looked it up before a change.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <mutex>
#include <new>
#include <thread>

namespace hatchway {

// Users come and go without waiting. ``settle`` waits for those that came before it, and not
// for later ones: there are two counts, and newcomers are led to the other one. (Sleepable RCU;
// both counts are waited for, since a newcomer may read which count is its own before a
// settlement and count itself after it.)
class Users {
  public:
    class Use {
      public:
        explicit Use(std::atomic<std::int64_t> &count) : count_(count) { count_.fetch_add(1); }
        Use(const Use &) = delete;
        Use &operator=(const Use &) = delete;
        ~Use() { count_.fetch_sub(1); }

      private:
        std::atomic<std::int64_t> &count_;
    };

    Use enter() { return Use(counts_[turn_.load() & 1]); }

    void settle() {
        const std::lock_guard guard(settling_);
        for (int round = 0; round < 2; ++round) {
            const auto &left = counts_[turn_.fetch_add(1) & 1];
            for (int tries = 0; left.load() != 0; ++tries) {
                if (tries < 64)
                    std::this_thread::yield();
                else
                    std::this_thread::sleep_for(std::chrono::microseconds(100));
            }
        }
    }

    // In the child of a fork, where other threads' uses do not end.
    void after_fork() {
        for (auto &count : counts_) count.store(0);
        new (&settling_) std::mutex;
    }

  private:
    std::atomic<std::uint64_t> turn_{0};
    std::atomic<std::int64_t> counts_[2]{};
    std::mutex settling_;
};

}  // namespace hatchway
