// Clients that are sound and clients that are not, at one server at a time, which is stopped by
// two threads while they speak; in every other round memory fails now and then. Who is sound
// reads what was written, is answered once, or is left. Run under ThreadSanitizer, and under the
// other two.
#include <sys/socket.h>
#include <sys/un.h>

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <new>
#include <optional>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "disk/nbd/server.hpp"
#include "draws.hpp"
#include "replies.hpp"
#include "served.hpp"

using namespace hatchway;
using namespace hatchway::fuzz;
using namespace hatchway::nbd;

namespace {

// Allocations of threads that are not the harness's fail, one in so many; 0 for none.
std::atomic<unsigned> fail_one_in{0};
std::atomic<std::uint64_t> num_allocations{0};
thread_local bool is_harness = false;

void *allocate(std::size_t size) {
    const unsigned one_in = fail_one_in.load(std::memory_order_relaxed);
    if (!is_harness && one_in != 0 && ++num_allocations % one_in == 0) return nullptr;
    return std::malloc(size == 0 ? 1 : size);
}

}  // namespace

// Not inlined: a compiler may not see that new is malloc here, and delete free.
[[gnu::noinline]] void *operator new(std::size_t size) {
    void *found = allocate(size);
    if (found == nullptr) throw std::bad_alloc();
    return found;
}
[[gnu::noinline]] void operator delete(void *memory) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void *memory, std::size_t) noexcept { std::free(memory); }

namespace {

constexpr int kNumClients = 6;
constexpr std::uint64_t kOwnBytes = ServedDisk::kSize / 8;
// What nobody writes to, and threads of the pool read.
constexpr std::uint64_t kRestBegin = ServedDisk::kSize * 3 / 4 - 1000;
constexpr std::uint32_t kRestBytes = 100'000;

// A socket with a name of its own that is no file's.
class Listening {
  public:
    Listening() : fd_(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
        auto *name = reinterpret_cast<sockaddr *>(&name_);
        MUST_HOLD(bind(get(), name, sizeof(sa_family_t)) == 0);
        MUST_HOLD(listen(get(), 16) == 0);
        MUST_HOLD(getsockname(get(), name, &size_) == 0);
    }
    int get() const { return fd_->get(); }
    // Whoever was not accepted yet is left.
    void end() { fd_.reset(); }
    Descriptor connected() const {
        Descriptor made(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
        if (connect(made.get(), reinterpret_cast<const sockaddr *>(&name_), size_) == 0) return made;
        return Descriptor(-1);
    }

  private:
    std::optional<Descriptor> fd_;
    sockaddr_un name_{AF_UNIX, {}};
    socklen_t size_ = sizeof name_;
};

// A client with a part of the disk of its own.
class Client {
  public:
    Client(Descriptor fd, std::uint64_t first, std::uint64_t seed)
        : socket_(std::move(fd)), first_(first), random_(seed) {}

    // False if the server left it.
    bool agree() {
        std::string said;
        append<std::uint32_t>(said, kFixedNewstyle | kNoZeroes);
        for (const auto &[option, data] :
             {std::pair(kStructuredReply, std::string()), std::pair(kGo, std::string(6, '\0'))}) {
            append<std::uint64_t>(said, kOptionMagic);
            append<std::uint32_t>(said, option);
            append<std::uint32_t>(said, static_cast<std::uint32_t>(data.size()));
            said += data;
        }
        // The greeting; the answer to the first option, three to the second.
        return socket_.write(said) && socket_.next(18) != nullptr &&
               socket_.next(20 + 20 + 12 + 20 + 14 + 20) != nullptr;
    }

    // What was written is read, whatever the others do; false if the server left it.
    bool write_and_read() {
        const auto size = static_cast<std::uint32_t>(1 + random_() % 20'000);
        const std::uint64_t offset = first_ + random_() % (kOwnBytes - size);
        const std::string data(size, static_cast<char>(random_()));
        std::string said = request(kWrite, offset, size);
        if (!socket_.write(said + data) || !is_answered(kNone, 0)) return false;
        if (!socket_.write(request(kRead, offset, size)) || !is_answered(kOffsetData, size + 8))
            return false;
        std::string found(8 + size, '\0');
        if (!socket_.read(found.data(), found.size())) return false;
        MUST_HOLD(found.substr(8) == data);
        const Command others[] = {kFlush, kTrim, kCache};
        return socket_.write(request(others[random_() % 3], first_, 4096)) && is_answered(kNone, 0);
    }

    // Replies that are more than the socket has room for, from several threads, stay apart; false
    // if the server left it.
    bool read_many() {
        constexpr int kCount = 12;
        std::string said;
        for (int rank = 0; rank < kCount; ++rank) said += request(kRead, kRestBegin, kRestBytes);
        if (!socket_.write(said)) return false;
        for (int rank = 0; rank < kCount; ++rank) {
            if (!is_answered(kOffsetData, kRestBytes + 8, kCount)) return false;
            std::string found(8 + kRestBytes, '\0');
            if (!socket_.read(found.data(), found.size())) return false;
            MUST_HOLD(found.substr(8) == ServedDisk::unwritten(kRestBegin, kRestBytes));
        }
        return true;
    }

    // Leaves in the middle of something, or says what makes no sense.
    void be_rude() {
        std::string said = request(kRead, 0, ServedDisk::kSize);
        for (auto count = random_() % 8; count > 0; --count) said += request(kRead, 0, 1 << 19);
        said += request(kWrite, 0, 1 << 20).substr(0, random_() % 60);
        if (random_() % 2) said += std::string(100, static_cast<char>(random_()));
        socket_.write(said);
        if (random_() % 2) socket_.next(1 + random_() % 1000);
    }

  private:
    std::string request(Command type, std::uint64_t offset, std::uint32_t length) {
        std::string said;
        append<std::uint32_t>(said, kRequestMagic);
        append<std::uint16_t>(said, 0);
        append<std::uint16_t>(said, type);
        append<std::uint64_t>(said, ++cookie_);
        append<std::uint64_t>(said, offset);
        append<std::uint32_t>(said, length);
        return said;
    }

    // One of the last ``count`` requests.
    bool is_answered(std::uint16_t type, std::uint32_t length, std::uint64_t count = 1) {
        const char *header = socket_.next(20);
        if (header == nullptr) return false;
        MUST_HOLD(taken<std::uint32_t>(header) == kStructuredReplyMagic);
        MUST_HOLD(taken<std::uint16_t>(header) == kDone && taken<std::uint16_t>(header) == type);
        MUST_HOLD(cookie_ - taken<std::uint64_t>(header) < count);
        MUST_HOLD(taken<std::uint32_t>(header) == length);
        return true;
    }

    Socket socket_;
    std::uint64_t first_, cookie_ = 0;
    std::mt19937_64 random_;
};

void speak(const Listening &listening, int number, std::uint64_t seed,
           const std::atomic<bool> &is_over) {
    is_harness = true;
    const bool is_rude = number >= kNumClients - 2;
    while (!is_over) {
        Descriptor fd = listening.connected();
        if (fd.get() < 0) return;
        Client client(std::move(fd), static_cast<std::uint64_t>(number) * kOwnBytes, ++seed);
        if (!client.agree()) continue;
        for (int times = 0; times < 20 && !is_over; ++times) {
            if (is_rude) {
                client.be_rude();
                break;
            }
            if (!client.write_and_read() || !client.read_many()) break;
        }
    }
}

void round(std::uint64_t seed, std::chrono::milliseconds length, unsigned fail) {
    ServedDisk disk;
    Listening listening;
    Exports exports;
    exports.emplace_back(new Export{"one", false, disk.chain(), disk});
    // Now and then there is one client too many, and often no room for what they want.
    RoomLimits limits;
    limits.shared_bytes = kRestBytes;
    limits.own_bytes = 1000;
    Server server(std::move(exports), 3, kNumClients - 1, limits);
    server.start({listening.get()});
    std::atomic<bool> is_over{false};
    std::vector<std::thread> threads;
    for (int number = 0; number < kNumClients; ++number)
        threads.emplace_back(
            [&, number] { speak(listening, number, seed + 1000 * number, is_over); });
    fail_one_in = fail;
    std::this_thread::sleep_for(length);
    MUST_HOLD(server.num_clients() < kNumClients);
    is_over = seed % 2;  // or they are cut off
    std::thread other([&] {
        is_harness = true;
        server.stop(0.01);
    });
    server.stop(0.01);
    other.join();
    fail_one_in = 0;
    MUST_HOLD(server.num_clients() == 0);
    is_over = true;
    listening.end();
    for (std::thread &thread : threads) thread.join();
    MUST_HOLD(fail != 0 || server.statistics().written_bytes.load() != 0);
}

}  // namespace

int main(int num_arguments, char **arguments) {
    is_harness = true;
    const std::chrono::seconds length(num_arguments > 1 ? std::stoi(arguments[1]) : 5);
    const std::uint64_t seed = std::random_device{}() & UINT32_MAX;
    std::printf("seed %lu\n", seed);
    const auto end = std::chrono::steady_clock::now() + length;
    std::uint64_t num_rounds = 0;
    for (; std::chrono::steady_clock::now() < end; ++num_rounds)
        round(seed + num_rounds, std::chrono::milliseconds(300), num_rounds % 2 ? 37 : 0);
    std::printf("ran %lu rounds\n", num_rounds);
}
