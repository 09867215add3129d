// Whatever a client says, the server stays within the disk, answers each request once, and ends.
#include <poll.h>
#include <sys/socket.h>

#include <map>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "disk/nbd/connection.hpp"
#include "draws.hpp"
#include "replies.hpp"
#include "served.hpp"

using namespace hatchway;
using namespace hatchway::fuzz;
using namespace hatchway::nbd;

namespace {

constexpr std::size_t kNumThreads = 2;
constexpr std::uint64_t kSize = ServedDisk::kSize;

// What a client says in one go, and what it is told until it is left.
std::string told(std::string_view said, Exports &exports) {
    int ends[2];
    MUST_HOLD(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0);
    Statistics statistics;
    Pool pool(kNumThreads);
    Room room({.shared_bytes = 1 << 20, .own_bytes = 1 << 10});
    Connection connection(Descriptor(ends[0]), exports, pool, room, statistics, "");
    const Descriptor ours(ends[1]);
    std::thread serving([&] { connection.run(); });
    std::string heard;
    std::vector<char> buffer(256 << 10);
    bool is_saying = true;
    while (true) {
        pollfd both{ours.get(), static_cast<short>(POLLIN | (is_saying ? POLLOUT : 0)), 0};
        if (poll(&both, 1, -1) < 0) {
            MUST_HOLD(errno == EINTR);
            continue;
        }
        if (is_saying && (both.revents & (POLLOUT | POLLERR))) {
            const ssize_t put =
                send(ours.get(), said.data(), said.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
            if (put > 0) said.remove_prefix(static_cast<std::size_t>(put));
            is_saying = !said.empty() && (put >= 0 || errno == EAGAIN);
            if (!is_saying) shutdown(ours.get(), SHUT_WR);
        }
        if (both.revents & (POLLIN | POLLHUP)) {
            const ssize_t got = recv(ours.get(), buffer.data(), buffer.size(), 0);
            if (got <= 0) break;
            heard.append(buffer.data(), static_cast<std::size_t>(got));
        }
    }
    serving.join();
    return heard;
}

void append_option(std::string &said, std::uint32_t option, std::string_view data) {
    append<std::uint64_t>(said, kOptionMagic);
    append<std::uint32_t>(said, option);
    append<std::uint32_t>(said, static_cast<std::uint32_t>(data.size()));
    said += data;
}

// Leaves out what the server says to greet and to agree.
std::string_view after_agreement(std::string_view heard, bool at_once) {
    MUST_HOLD(heard.size() >= 18);
    heard.remove_prefix(18);
    while (true) {
        const char *at = heard.data();
        if (at_once && (heard.size() < 8 || taken<std::uint64_t>(at) != kOptionReplyMagic)) {
            MUST_HOLD(heard.size() >= 10);
            return heard.substr(10);
        }
        MUST_HOLD(heard.size() >= 20);
        at = heard.data() + 8;
        const auto option = taken<std::uint32_t>(at);
        const auto type = taken<std::uint32_t>(at);
        const auto length = taken<std::uint32_t>(at);
        MUST_HOLD(heard.size() - 20 >= length);
        heard.remove_prefix(20 + length);
        if (option == kGo && type == kAck) return heard;
    }
}

// A client that only negotiates: each option is answered in its turn, and refused where a length
// in it is not that of what follows.
class Negotiation {
  public:
    explicit Negotiation(Draws &draws) : draws_(draws) {}

    void run(Exports &exports) {
        append<std::uint32_t>(said_, kFixedNewstyle | kNoZeroes);
        for (int count = 0; count < 50 && !draws_.is_empty(); ++count) say_option();
        check(told(said_, exports));
    }

  private:
    void say_option() {
        constexpr std::uint32_t kKinds[] = {kList,           kInfo,           kGo,
                                            kStructuredReply, kListMetaContext, kSetMetaContext};
        const bool is_known = !draws_.rarely(8);
        const std::uint32_t option = is_known ? kKinds[draws_.between(0, 5)]
                                              : static_cast<std::uint32_t>(draws_.between(11, 99));
        std::string data;
        bool is_sound = true;
        if (option == kInfo || option == kGo) {
            is_sound = say_name(data, draws_.flip() ? "one" : "");
            const auto infos = draws_.take<std::uint8_t>();
            const auto num_infos = static_cast<std::uint16_t>(infos % 5);
            append<std::uint16_t>(data, num_infos);
            for (auto left = num_infos; left > 0; --left)
                append<std::uint16_t>(data, static_cast<std::uint16_t>(draws_.between(0, 4)));
            if (infos > 200) data.pop_back();
            is_sound = is_sound && infos <= 200;
        } else if (option == kListMetaContext || option == kSetMetaContext) {
            is_sound = say_name(data, "one");
            const auto num_queries = draws_.between(0, 3);
            append<std::uint32_t>(data, static_cast<std::uint32_t>(num_queries));
            for (auto left = num_queries; left > 0; --left)
                is_sound = say_name(data, kContextNames[draws_.between(0, 1)]) && is_sound;
        }
        append_option(said_, option, data);
        asked_.emplace_back(option, is_sound);
    }

    // Whether the length before it is its own.
    bool say_name(std::string &data, std::string_view name) {
        auto length = static_cast<std::uint32_t>(name.size());
        const bool is_sound = !draws_.rarely(6);
        // Longer than all that may follow.
        if (!is_sound)
            length = static_cast<std::uint32_t>(draws_.between(500, draws_.flip() ? 5000 : UINT32_MAX));
        append<std::uint32_t>(data, length);
        data += name;
        return is_sound;
    }

    void check(std::string_view heard) const {
        MUST_HOLD(heard.size() >= 18);
        heard.remove_prefix(18);
        for (const auto &[asked, is_sound] : asked_) {
            std::uint32_t type;
            do {
                MUST_HOLD(heard.size() >= 20);
                const char *at = heard.data();
                MUST_HOLD(taken<std::uint64_t>(at) == kOptionReplyMagic);
                MUST_HOLD(taken<std::uint32_t>(at) == asked);
                type = taken<std::uint32_t>(at);
                const auto length = taken<std::uint32_t>(at);
                MUST_HOLD(heard.size() - 20 >= length);
                heard.remove_prefix(20 + length);
            } while (type != kAck && !(type & kError));
            MUST_HOLD(is_sound || type != kAck);
            if (asked == kGo && type == kAck) break;
        }
        MUST_HOLD(heard.empty());
    }

    Draws &draws_;
    std::string said_;
    std::vector<std::pair<std::uint32_t, bool>> asked_;
};

// A client that agrees with the server on how to speak, and then asks for anything.
class Session {
  public:
    Session(Draws &draws, bool read_only) : draws_(draws), writes_(false), read_only_(read_only) {}

    void run(Exports &exports) {
        const bool structured = draws_.flip(), at_once = draws_.flip();
        append<std::uint32_t>(said_, kFixedNewstyle | kNoZeroes);
        if (structured) {
            append_option(said_, kStructuredReply, {});
            const auto contexts = draws_.between(0, 3);
            std::string wanted(4, '\0');
            append<std::uint32_t>(wanted, static_cast<std::uint32_t>((contexts & 1) + contexts / 2));
            for (std::uint32_t rank = 0; rank < kNumContexts; ++rank) {
                if (!(contexts >> rank & 1)) continue;
                const std::string_view name = kContextNames[rank];
                append<std::uint32_t>(wanted, static_cast<std::uint32_t>(name.size()));
                wanted += name;
            }
            append_option(said_, kSetMetaContext, wanted);
        }
        append_option(said_, at_once ? kExportName : kGo, at_once ? "" : std::string(6, '\0'));
        bool goes_on = true;
        for (int count = 0; goes_on && count < 200 && !draws_.is_empty(); ++count)
            goes_on = say_request();
        const std::string heard = told(said_, exports);
        const Replies replies(after_agreement(heard, at_once), structured,
                              [this](std::uint64_t cookie) { return reads_.at(cookie).length; });
        check(replies);
    }

  private:
    // False if nothing after it is answered.
    bool say_request() {
        Request request{};
        request.type = static_cast<std::uint16_t>(draws_.rarely(16) ? draws_.take<std::uint16_t>()
                                                                    : draws_.between(0, 8));
        request.flags = draws_.rarely(4) ? draws_.take<std::uint16_t>() : 0;
        request.cookie = ++num_asked_;
        request.offset = draws_.rarely(12) ? draws_.take<std::uint64_t>() : draws_.between(0, kSize);
        request.length = static_cast<std::uint32_t>(draws_.between(0, 2 * 4096));
        if (draws_.rarely(8)) request.length = draws_.take<std::uint32_t>() >> draws_.between(0, 16);
        if (draws_.rarely(8)) request.length = static_cast<std::uint32_t>(kSize - request.offset);
        const bool is_sound = !draws_.rarely(32);
        append<std::uint32_t>(said_, is_sound ? kRequestMagic : draws_.take<std::uint32_t>() | 1 << 31);
        append<std::uint16_t>(said_, request.flags);
        append<std::uint16_t>(said_, request.type);
        append<std::uint64_t>(said_, request.cookie);
        append<std::uint64_t>(said_, request.offset);
        append<std::uint32_t>(said_, request.length);
        if (!is_sound || request.type == kDisconnect) {
            --num_asked_;
            return false;
        }
        if (request.type == kRead || request.type == kBlockStatus) reads_[request.cookie] = request;
        if (request.type != kBlockStatus && request.type != kRead) {
            writes_ = writes_ || request.type == kWrite || request.type == kWriteZeroes;
            reads_[request.cookie] = {};
        }
        return request.type != kWrite || say_data(request.length);
    }

    bool say_data(std::uint32_t length) {
        const bool is_cut = length > kMostBytes || (length != 0 && draws_.rarely(16));
        said_.append(is_cut ? std::min(length - 1, 4096U) : length, 'w');
        if (is_cut) --num_asked_;
        return !is_cut;
    }

    void check(const Replies &replies) const {
        MUST_HOLD(replies.by_cookie().size() == num_asked_);
        for (const auto &[cookie, reply] : replies.by_cookie()) {
            MUST_HOLD(cookie >= 1 && cookie <= num_asked_ && reply.is_whole);
            const Request &request = reads_.at(cookie);
            if (reply.error != 0 || request.length == 0 || request.type != kRead) continue;
            MUST_HOLD(reply.data.size() == request.length);
            MUST_HOLD(request.offset <= kSize && request.length <= kSize - request.offset);
            if (writes_ && !read_only_) continue;
            MUST_HOLD(reply.data == ServedDisk::unwritten(request.offset, request.length));
        }
    }

    Draws &draws_;
    std::string said_;
    std::uint64_t num_asked_ = 0;
    bool writes_, read_only_;
    // What was asked for; of what is no read nor block status, nothing.
    std::map<std::uint64_t, Request> reads_;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t *data, std::size_t size) {
    Draws draws(data, size);
    ServedDisk disk;
    const bool read_only = draws.rarely(4);
    disk.fail_one_in(static_cast<unsigned>(draws.between(0, 5)));
    Exports exports;
    exports.emplace_back(new Export{"one", read_only, disk.chain(), disk});
    const auto how = draws.between(0, 7);
    if (how == 0) {
        const auto *rest = reinterpret_cast<const char *>(draws.rest());
        told({rest, draws.num_left()}, exports);
    } else if (how == 1) {
        Negotiation(draws).run(exports);
    } else {
        Session(draws, read_only).run(exports);
    }
    return 0;
}
