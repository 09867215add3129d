// Threads for what may wait: for a disk, or for Python.
#pragma once

#include <pthread.h>
#include <signal.h>

#include <condition_variable>
#include <cstddef>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

namespace hatchway::nbd {

// Threads that are started meanwhile take no signals: the process's own thread, which waits
// for them, would not wake up for one that another thread took.
class SignalsBlocked {
  public:
    SignalsBlocked() {
        sigset_t all;
        sigfillset(&all);
        pthread_sigmask(SIG_SETMASK, &all, &before_);
    }
    SignalsBlocked(const SignalsBlocked &) = delete;
    SignalsBlocked &operator=(const SignalsBlocked &) = delete;
    ~SignalsBlocked() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }

  private:
    sigset_t before_;
};

class Pool {
  public:
    explicit Pool(std::size_t num_threads) {
        const SignalsBlocked blocked;
        try {
            for (std::size_t rank = 0; rank < num_threads; ++rank)
                threads_.emplace_back([this] { run(); });
        } catch (...) {
            end();  // of the threads that could be started
            throw;
        }
    }
    Pool(const Pool &) = delete;
    Pool &operator=(const Pool &) = delete;

    // What was submitted is done first.
    ~Pool() { end(); }

    void submit(std::function<void()> job) {
        {
            const std::lock_guard guard(lock_);
            jobs_.push_back(std::move(job));
        }
        more_.notify_one();
    }

  private:
    void end() {
        {
            const std::lock_guard guard(lock_);
            is_ending_ = true;
        }
        more_.notify_all();
        for (std::thread &thread : threads_) thread.join();
    }

    void run() {
        while (true) {
            std::unique_lock guard(lock_);
            more_.wait(guard, [this] { return is_ending_ || !jobs_.empty(); });
            if (jobs_.empty()) return;
            const std::function<void()> job = std::move(jobs_.front());
            jobs_.pop_front();
            guard.unlock();
            job();
        }
    }

    std::mutex lock_;
    std::condition_variable more_;
    std::deque<std::function<void()>> jobs_;
    bool is_ending_ = false;
    std::vector<std::thread> threads_;
};

}  // namespace hatchway::nbd
