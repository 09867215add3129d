// Accepts clients on listening sockets, and serves each in a thread of its own.
#pragma once

#include <fcntl.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <list>
#include <memory>
#include <mutex>
#include <string>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "connection.hpp"
#include "descriptor.hpp"
#include "exports.hpp"
#include "pool.hpp"
#include "room.hpp"

namespace hatchway::nbd {

class Server {
  public:
    Server(Exports exports, std::size_t num_threads, std::size_t most_connections,
           RoomLimits limits = {})
        : exports_(std::move(exports)),
          most_connections_(most_connections),
          room_(limits),
          wake_(eventfd(0, EFD_CLOEXEC)),
          pool_(num_threads) {
        if (wake_.get() < 0) throw std::system_error(errno, std::generic_category(), "eventfd");
    }
    Server(const Server &) = delete;
    Server &operator=(const Server &) = delete;
    ~Server() { stop(0); }

    // The sockets listen already, and stay the caller's, who may close them at any time.
    void start(const std::vector<int> &listening) {
        std::vector<Descriptor> own;
        for (const int fd : listening) {
            own.emplace_back(fcntl(fd, F_DUPFD_CLOEXEC, 0));
            // A client that is announced may be gone, or taken by another process.
            if (own.back().get() < 0 || fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK) < 0)
                throw std::system_error(errno, std::generic_category(), "a listening socket");
        }
        const SignalsBlocked blocked;  // for the threads of clients as well
        accepting_ = std::thread([this, own = std::move(own)] { accept_all(own); });
    }

    // Takes no more clients, answers what has come, and ends. Clients that do not take their
    // answers are left after so long.
    void stop(double patience_s) {
        {
            const std::lock_guard guard(stopping_);
            const std::uint64_t one = 1;
            if (accepting_.joinable()) {
                // An eventfd takes 8 bytes at any time.
                if (::write(wake_.get(), &one, sizeof one) != sizeof one) return;
                accepting_.join();
            }
        }
        std::unique_lock guard(lock_);
        const auto all_ended = [this] { return has_ended(); };
        for (Client &client : clients_)
            if (client.connection != nullptr) client.connection->stop();
        if (!ended_.wait_for(guard, std::chrono::duration<double>(patience_s), all_ended)) {
            for (Client &client : clients_)
                if (client.connection != nullptr) client.connection->abort();
        }
        ended_.wait(guard, all_ended);
        for (auto &client : clients_) client.thread.join();
        clients_.clear();
    }

    const Statistics &statistics() const { return statistics_; }

    std::size_t num_clients() {
        const std::lock_guard guard(lock_);
        return count_served();
    }

  private:
    struct Client {
        bool is_served;
        std::unique_ptr<Connection> connection;  // null when it has ended
        std::thread thread;
    };

    // Clients beyond the limit that are told so at a time; others are left without a word.
    static constexpr std::size_t kMostRefused = 16;

    bool has_ended() const {
        return std::ranges::all_of(
            clients_, [](const Client &client) { return client.connection == nullptr; });
    }

    std::size_t count_served() const {
        return static_cast<std::size_t>(std::ranges::count_if(clients_, [](const Client &client) {
            return client.is_served && client.connection != nullptr;
        }));
    }

    void accept_all(const std::vector<Descriptor> &listening) {
        std::vector<pollfd> watched{{wake_.get(), POLLIN, 0}};
        for (const Descriptor &fd : listening) watched.push_back({fd.get(), POLLIN, 0});
        while (true) {
            if (poll(watched.data(), watched.size(), -1) < 0) {
                if (errno == EINTR) continue;
                return;
            }
            if (watched[0].revents != 0) return;
            for (const pollfd &one : watched)
                if (one.revents != 0) accept_one(one.fd);
        }
    }

    void accept_one(int listening) {
        Descriptor fd(accept4(listening, nullptr, nullptr, SOCK_CLOEXEC));
        if (fd.get() < 0) {
            // Without a descriptor left, the client would be announced again at once.
            pollfd ending{wake_.get(), POLLIN, 0};
            if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED) poll(&ending, 1, 50);
            return;
        }
        const std::lock_guard guard(lock_);
        std::erase_if(clients_, [](Client &client) {
            if (client.connection != nullptr) return false;
            client.thread.join();
            return true;
        });
        const bool is_served = count_served() < most_connections_;
        auto &counted = is_served ? statistics_.num_connections : statistics_.num_refused;
        if (clients_.size() >= most_connections_ + kMostRefused) {
            counted.fetch_add(1, std::memory_order_relaxed);
            return;
        }
        try {
            std::list<Client> added(1);
            Client &client = added.front();
            client.is_served = is_served;
            client.connection = std::make_unique<Connection>(
                std::move(fd), exports_, pool_, room_, statistics_, is_served ? "" : refusal());
            client.thread = std::thread([this, &client] { serve(client); });
            clients_.splice(clients_.end(), added);
            counted.fetch_add(1, std::memory_order_relaxed);
        } catch (const std::exception &) {
            // There is no memory or no thread for this client; others are served.
        }
    }

    std::string refusal() const {
        return "this server has " + std::to_string(most_connections_) +
               " connections already, which is all that it may have (--max-connections)";
    }

    void serve(Client &client) {
        client.connection->run();
        const std::lock_guard guard(lock_);
        client.connection.reset();
        ended_.notify_all();
    }

    Exports exports_;
    std::size_t most_connections_;
    Room room_;
    Descriptor wake_;
    Statistics statistics_;
    std::thread accepting_;
    std::mutex stopping_, lock_;
    std::condition_variable ended_;
    std::list<Client> clients_;
    Pool pool_;  // ends before what its jobs use
};

}  // namespace hatchway::nbd
