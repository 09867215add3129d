// What a server says, taken apart.
#pragma once

#include <cstdint>
#include <map>
#include <string_view>

#include "disk/nbd/protocol.hpp"
#include "draws.hpp"

namespace hatchway::fuzz {

// Replies to requests, by cookie; each is to come once.
class Replies {
  public:
    struct Reply {
        std::uint32_t error = 0;
        std::string_view data;
        bool is_whole = false;
    };

    // Takes apart all that was said. ``length_of`` says how much data a reply without an error
    // has where replies are not structured.
    template <class LengthOf>
    Replies(std::string_view said, bool structured, LengthOf length_of) {
        while (!said.empty()) {
            if (structured)
                take_chunk(said);
            else
                take_simple(said, length_of);
        }
    }

    const std::map<std::uint64_t, Reply> &by_cookie() const { return replies_; }

  private:
    template <class Number>
    static Number take(std::string_view &from) {
        MUST_HOLD(from.size() >= sizeof(Number));
        const char *at = from.data();
        from.remove_prefix(sizeof(Number));
        return nbd::taken<Number>(at);
    }
    static std::string_view take(std::string_view &from, std::size_t size) {
        MUST_HOLD(from.size() >= size);
        const std::string_view found = from.substr(0, size);
        from.remove_prefix(size);
        return found;
    }

    template <class LengthOf>
    void take_simple(std::string_view &said, LengthOf length_of) {
        MUST_HOLD(take<std::uint32_t>(said) == nbd::kSimpleReplyMagic);
        const auto error = take<std::uint32_t>(said);
        Reply &reply = begin(take<std::uint64_t>(said), nbd::kDone);
        const std::uint64_t cookie = last_;
        reply.error = error;
        if (error == 0) reply.data = take(said, length_of(cookie));
    }

    void take_chunk(std::string_view &said) {
        MUST_HOLD(take<std::uint32_t>(said) == nbd::kStructuredReplyMagic);
        const auto flags = take<std::uint16_t>(said);
        const auto type = take<std::uint16_t>(said);
        Reply &reply = begin(take<std::uint64_t>(said), flags);
        std::string_view data = take(said, take<std::uint32_t>(said));
        if (type == nbd::kErrorChunk) {
            reply.error = take<std::uint32_t>(data);
            MUST_HOLD(reply.error != 0 && take<std::uint16_t>(data) == data.size());
        } else if (type == nbd::kOffsetData) {
            take<std::uint64_t>(data);
            reply.data = data;
        } else if (type == nbd::kBlockStatusChunk) {
            MUST_HOLD(take<std::uint32_t>(data) < 2 && !data.empty() && data.size() % 8 == 0);
            while (!data.empty()) {
                MUST_HOLD(take<std::uint32_t>(data) != 0);
                take<std::uint32_t>(data);
            }
        } else {
            MUST_HOLD(type == nbd::kNone && data.empty());
        }
    }

    Reply &begin(std::uint64_t cookie, std::uint16_t flags) {
        last_ = cookie;
        Reply &reply = replies_[cookie];
        MUST_HOLD(!reply.is_whole);
        reply.is_whole = flags & nbd::kDone;
        return reply;
    }

    std::map<std::uint64_t, Reply> replies_;
    std::uint64_t last_ = 0;
};

}  // namespace hatchway::fuzz
