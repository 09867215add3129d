// The fixed newstyle handshake: which export, and how replies look.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "exports.hpp"
#include "protocol.hpp"
#include "socket.hpp"

namespace hatchway::nbd {

// What a client and the server agreed on.
struct Terms {
    Export *chosen = nullptr;
    bool structured = false;
    bool contexts[kNumContexts]{};
};

class Handshake {
  public:
    // With a refusal each option is answered by that, which ends the handshake.
    Handshake(Socket &socket, const Exports &exports, std::string_view refusal)
        : socket_(socket), exports_(exports), refusal_(refusal) {}

    // Whether the client may send requests now.
    bool run(Terms &terms) {
        std::string greeting;
        append<std::uint64_t>(greeting, kInitMagic);
        append<std::uint64_t>(greeting, kOptionMagic);
        append<std::uint16_t>(greeting, kFixedNewstyle | kNoZeroes);
        if (!socket_.write(greeting)) return false;
        const char *flags = socket_.next(4);
        if (flags == nullptr) return false;
        const auto client = taken<std::uint32_t>(flags);
        if ((client & ~(kFixedNewstyle | kNoZeroes)) != 0) return false;
        no_zeroes_ = client & kNoZeroes;
        while (answer_option(terms)) {
            if (terms.chosen != nullptr) return true;
        }
        return false;
    }

  private:
    bool answer_option(Terms &terms) {
        const char *header = socket_.next(16);
        if (header == nullptr || taken<std::uint64_t>(header) != kOptionMagic) return false;
        option_ = taken<std::uint32_t>(header);
        const auto length = taken<std::uint32_t>(header);
        if (length > kMostOptionBytes) return false;
        const char *data = socket_.next(length);
        if (data == nullptr) return false;
        const std::string_view said(data, length);
        if (!refusal_.empty()) {
            if (option_ != kExportName) refuse(kPolicy, refusal_);
            return false;
        }
        switch (option_) {
        case kExportName:
            return choose_at_once(said, terms);
        case kAbort:
            reply(kAck);
            return false;
        case kList:
            return said.empty() ? list() : refuse(kInvalid, "a list takes no data");
        case kInfo:
        case kGo:
            return describe(said, terms);
        case kStructuredReply:
            if (!said.empty()) return refuse(kInvalid, "structured replies take no data");
            terms.structured = true;
            return reply(kAck);
        case kListMetaContext:
        case kSetMetaContext:
            return choose_contexts(said, terms);
        default:
            return refuse(kUnsupported, "this option is not known here");
        }
    }

    Export *find(std::string_view name) const {
        for (const auto &one : exports_)
            if (one->name == name) return one.get();
        // As other servers have it, no name means the only export.
        return name.empty() && exports_.size() == 1 ? exports_.front().get() : nullptr;
    }

    bool choose_at_once(std::string_view name, Terms &terms) {
        Export *found = find(name);
        if (found == nullptr) return false;  // the protocol has no answer to it
        forget_contexts_of_others(found, terms);
        std::string answer;
        append<std::uint64_t>(answer, found->chain.size());
        append<std::uint16_t>(answer, found->flags());
        if (!no_zeroes_) answer.append(124, '\0');
        terms.chosen = found;
        return socket_.write(answer);
    }

    bool list() {
        for (const auto &one : exports_) {
            std::string said;
            append<std::uint32_t>(said, static_cast<std::uint32_t>(one->name.size()));
            said += one->name;
            if (!reply(kServer, said)) return false;
        }
        return reply(kAck);
    }

    bool describe(std::string_view said, Terms &terms) {
        std::string_view name;
        const char *at;
        if (!take_name(said, name) || said.size() < 2) return refuse(kInvalid, "too short");
        at = said.data();
        const auto num_infos = taken<std::uint16_t>(at);
        if (said.size() != 2 + 2 * static_cast<std::size_t>(num_infos))
            return refuse(kInvalid, "the length does not fit");
        Export *found = find(name);
        if (found == nullptr) return refuse(kUnknown, "there is no such export");
        std::string about;
        append<std::uint16_t>(about, kInfoExport);
        append<std::uint64_t>(about, found->chain.size());
        append<std::uint16_t>(about, found->flags());
        if (!reply(kInfoReply, about)) return false;
        for (int rank = 0; rank < num_infos; ++rank) {
            if (taken<std::uint16_t>(at) != kInfoName) continue;
            about.clear();
            append<std::uint16_t>(about, kInfoName);
            about += found->name;
            if (!reply(kInfoReply, about)) return false;
        }
        about.clear();
        append<std::uint16_t>(about, kInfoBlockSize);
        append<std::uint32_t>(about, 1);
        append<std::uint32_t>(about, std::max(4096U, 1U << found->chain.granule_bits()));
        append<std::uint32_t>(about, kMostBytes);
        if (!reply(kInfoReply, about)) return false;
        if (option_ == kGo) {
            forget_contexts_of_others(found, terms);
            terms.chosen = found;
        }
        return reply(kAck);
    }

    bool choose_contexts(std::string_view said, Terms &terms) {
        const bool sets = option_ == kSetMetaContext;
        // What was chosen before is gone even if this fails.
        for (bool &one : terms.contexts) one = one && !sets;
        std::string_view name;
        if (!terms.structured) return refuse(kInvalid, "structured replies come first");
        if (!take_name(said, name) || said.size() < 4) return refuse(kInvalid, "too short");
        Export *found = find(name);
        if (found == nullptr) return refuse(kUnknown, "there is no such export");
        bool wanted[kNumContexts]{};
        const char *at = said.data();
        auto num_queries = taken<std::uint32_t>(at);
        said.remove_prefix(4);
        for (bool &one : wanted) one = num_queries == 0 && !sets;
        for (; num_queries > 0; --num_queries) {
            std::string_view query;
            if (!take_name(said, query)) return refuse(kInvalid, "the length does not fit");
            for (std::uint32_t rank = 0; rank < kNumContexts; ++rank)
                wanted[rank] |= matches(query, kContextNames[rank], sets);
        }
        if (!said.empty()) return refuse(kInvalid, "the length does not fit");
        if (sets) contexts_of_ = found;
        for (std::uint32_t rank = 0; rank < kNumContexts; ++rank) {
            if (sets) terms.contexts[rank] = wanted[rank];
            if (!wanted[rank]) continue;
            std::string context;
            append<std::uint32_t>(context, sets ? rank : 0);
            context += kContextNames[rank];
            if (!reply(kMetaContext, context)) return false;
        }
        return reply(kAck);
    }

    // Who asks what there is may ask for all of a namespace.
    static bool matches(std::string_view query, std::string_view context, bool sets) {
        return query == context ||
               (!sets && query == context.substr(0, context.find(':') + 1));
    }

    // A name and its length before it.
    static bool take_name(std::string_view &from, std::string_view &name) {
        if (from.size() < 4) return false;
        const char *at = from.data();
        const auto length = taken<std::uint32_t>(at);
        if (length > kMostNameBytes || length > from.size() - 4) return false;
        name = from.substr(4, length);
        from.remove_prefix(4 + length);
        return true;
    }

    void forget_contexts_of_others(const Export *chosen, Terms &terms) const {
        if (chosen == contexts_of_) return;
        for (bool &one : terms.contexts) one = false;
    }

    bool refuse(std::uint32_t type, std::string_view message) { return reply(type, message); }

    bool reply(std::uint32_t type, std::string_view data = {}) {
        std::string answer;
        append<std::uint64_t>(answer, kOptionReplyMagic);
        append<std::uint32_t>(answer, option_);
        append<std::uint32_t>(answer, type);
        append<std::uint32_t>(answer, static_cast<std::uint32_t>(data.size()));
        answer += data;
        return socket_.write(answer);
    }

    Socket &socket_;
    const Exports &exports_;
    std::string_view refusal_;
    const Export *contexts_of_ = nullptr;
    std::uint32_t option_ = 0;
    bool no_zeroes_ = false;
};

}  // namespace hatchway::nbd
