// One client. Its thread answers what needs no waiting by itself, as many requests at a time as
// came together; the pool does the rest.
#pragma once

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <exception>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "buffer.hpp"
#include "exports.hpp"
#include "extents.hpp"
#include "handshake.hpp"
#include "outbox.hpp"
#include "output.hpp"
#include "pool.hpp"
#include "protocol.hpp"
#include "room.hpp"
#include "socket.hpp"

namespace hatchway::nbd {

struct Statistics {
    std::atomic<std::uint64_t> num_connections{0}, num_refused{0};
    std::atomic<std::uint64_t> num_requests{0}, num_handed_on{0};
    std::atomic<std::uint64_t> read_bytes{0}, written_bytes{0};
};

class Connection {
  public:
    // With a refusal the client is told so, and is not served.
    Connection(Descriptor fd, const Exports &exports, Pool &pool, Room &room,
               Statistics &statistics, std::string refusal)
        : socket_(std::move(fd)),
          exports_(exports),
          pool_(pool),
          statistics_(statistics),
          refusal_(std::move(refusal)),
          in_flight_(room, socket_) {}

    // Until the client is done, or gone; the pool has nothing of it any more.
    void run() {
        try {
            converse();
        } catch (const std::exception &) {
            // Without memory this client is lost; others are not.
        }
        socket_.shut(SHUT_RDWR);
        in_flight_.wait_for_all();
    }

    // Requests that came are answered, and no more are taken.
    void stop() { socket_.shut(SHUT_RD); }
    void abort() { socket_.shut(SHUT_RDWR); }

  private:
    static constexpr int kHandshakePatienceS = 30, kRefusalPatienceS = 5;
    static constexpr std::size_t kSendBytes = 256 << 10;
    static constexpr std::size_t kMostInPlace = 64 << 10;

    void converse() {
        socket_.set_patience(refusal_.empty() ? kHandshakePatienceS : kRefusalPatienceS);
        Terms terms;
        if (!Handshake(socket_, exports_, refusal_).run(terms)) return;
        socket_.set_patience(0);
        terms_ = terms;
        while (answer_next()) {
        }
        in_flight_.wait_for_all();
        send();
    }

    bool answer_next() {
        if (socket_.num_buffered() < kRequestBytes && !send()) return false;
        const char *header = socket_.next(kRequestBytes);
        Request request;
        if (header == nullptr || !parse(header, request)) return false;
        statistics_.num_requests.fetch_add(1, std::memory_order_relaxed);
        if (request.type == kDisconnect) return false;
        if (request.type == kWrite) return write(request);
        const int error = error_in(request);
        if (error != 0) {
            answer(out_, request, error);
        } else if (request.type == kRead) {
            return read(request);
        } else if (request.type == kBlockStatus) {
            if (!status(request, false, out_))
                hand_on(0, [this, request](Output &out) { status(request, true, out); });
        } else if (request.type == kFlush && terms_.chosen->read_only) {
            answer(out_, request, 0);
        } else {
            hand_on(0, [this, request](Output &out) {
                answer(out, request, done_by_backend(request));
            });
        }
        return send_if_much();
    }

    // What is wrong with a request, other than a write's data.
    int error_in(const Request &request) const {
        const bool writes = request.type == kWrite || request.type == kTrim ||
                            request.type == kWriteZeroes;
        if (request.type > kBlockStatus) return EINVAL;
        if (writes && terms_.chosen->read_only) return EPERM;
        if (request.type == kFlush) return 0;
        const std::uint64_t size = terms_.chosen->chain.size();
        if (request.offset > size || request.length > size - request.offset)
            return request.type == kWrite || request.type == kWriteZeroes ? ENOSPC : EINVAL;
        if (request.type == kRead && request.length > kMostBytes) return EOVERFLOW;
        if (request.type == kBlockStatus && (!has_contexts() || request.length == 0)) return EINVAL;
        return 0;
    }

    bool read(const Request &request) {
        if (request.length > kSendBytes) return read_much(request);
        const std::size_t before = out_.size();
        if (read_into(out_, request, false) == Outcome::done) return send_if_much();
        out_.cut(before);
        hand_on(request.length,
                [this, request](Output &out) { read_patiently(out, request); });
        return true;
    }

    bool read_much(Request request) {
        if (!send()) return false;
        // In pieces, which other replies may come between, there is no large one to be kept.
        const bool in_pieces = terms_.structured && !(request.flags & kDf);
        while (in_pieces && request.length > kSendBytes) {
            Request piece = request;
            piece.length = kSendBytes;
            if (read_into(out_, piece, false, 0) != Outcome::done) break;
            if (!send()) return false;
            request.offset += kSendBytes;
            request.length -= kSendBytes;
        }
        out_.clear();
        Held held(in_flight_, request.length);
        if (read_into(out_, request, false) == Outcome::done) return send();
        out_.clear();
        hand_on(held, [this, request](Output &out) { read_patiently(out, request); });
        return true;
    }

    void read_patiently(Output &out, const Request &request) {
        const Outcome outcome = read_into(out, request, true);
        if (outcome == Outcome::done) return;
        // Where it would be, had the kernel known how.
        char *target = out.extend(0) - request.length;
        const int error =
            terms_.chosen->backend.read(request.offset, request.length, target);
        if (error == 0) return;
        out.cut(0);
        answer(out, request, error);
    }

    Outcome read_into(Output &out, const Request &request, bool may_block,
                      std::uint16_t flags = kDone) {
        if (terms_.structured && request.length != 0) {
            append_chunk(out, request.cookie, kOffsetData, request.length + 8, flags);
            append<std::uint64_t>(out, request.offset);
        } else {
            answer(out, request, 0);
        }
        statistics_.read_bytes.fetch_add(request.length, std::memory_order_relaxed);
        char *target = out.extend(request.length);
        return terms_.chosen->chain.read(request.offset, request.length, target, may_block);
    }

    bool write(const Request &request) {
        if (request.length > kMostBytes) return false;  // there is no way past its data
        if (socket_.num_buffered() < request.length && !send()) return false;
        if (request.length <= kMostInPlace) {
            const char *data = socket_.next(request.length);
            return data != nullptr && write(request, data, nullptr, nullptr);
        }
        return send() && write_much(request);
    }

    // In pieces, as long as they lie in the highest file already; then the rest is kept.
    bool write_much(Request request) {
        std::size_t num_read = 0;
        while (error_in(request) == 0) {
            num_read = std::min<std::size_t>(request.length, kSendBytes);
            in_.clear();
            char *piece = in_.extend(num_read);
            if (!socket_.read(piece, num_read)) return false;
            Chain &chain = terms_.chosen->chain;
            if (chain.overwrite(request.offset, num_read, piece) != Outcome::done) break;
            statistics_.written_bytes.fetch_add(num_read, std::memory_order_relaxed);
            request.offset += num_read;
            request.length -= static_cast<std::uint32_t>(num_read);
            num_read = 0;
            if (request.length == 0) {
                acknowledge(request);
                return true;
            }
        }
        Held held(in_flight_, request.length);
        Buffer kept = buffer_of(request.length);
        char *data = kept.get();
        std::copy_n(in_.view().data(), num_read, data);
        return socket_.read(data + num_read, request.length - num_read) &&
               write(request, data, std::move(kept), &held);
    }

    // Data that are kept already have their room.
    bool write(const Request &request, const char *data, Buffer kept,
               Held *held) {
        const int error = error_in(request);
        if (error != 0) {
            answer(out_, request, error);
            return true;
        }
        statistics_.written_bytes.fetch_add(request.length, std::memory_order_relaxed);
        if (terms_.chosen->chain.overwrite(request.offset, request.length, data) ==
            Outcome::done) {
            acknowledge(request);
            return true;
        }
        if (kept == nullptr) {
            kept = buffer_of(request.length);
            std::memcpy(kept.get(), data, request.length);
        }
        std::shared_ptr<char[]> shared = std::move(kept);
        std::function<void(Output &)> job = [this, request, shared](Output &out) {
            answer(out, request,
                   terms_.chosen->backend.write(request.offset, shared.get(), request.length,
                                                request.flags & kFua));
        };
        held != nullptr ? hand_on(*held, std::move(job)) : hand_on(request.length, std::move(job));
        return true;
    }

    // What was written is in the file, and survives a crash if that was asked for.
    void acknowledge(const Request &request) {
        if (!(request.flags & kFua)) {
            answer(out_, request, 0);
        } else {
            hand_on(0, [this, request](Output &out) {
                answer(out, request, terms_.chosen->backend.flush());
            });
        }
    }

    int done_by_backend(const Request &request) {
        Backend &backend = terms_.chosen->backend;
        const bool fua = request.flags & kFua;
        switch (request.type) {
        case kFlush:
            return backend.flush();
        case kTrim:
            return backend.discard(request.offset, request.length, fua);
        case kWriteZeroes:
            return backend.write_zeroes(request.offset, request.length,
                                        !(request.flags & kNoHole), fua);
        default:
            terms_.chosen->chain.prefetch(request.offset, request.length);
            return 0;
        }
    }

    // False if it has to be done where it may wait.
    bool status(const Request &request, bool may_block, Output &out) {
        const std::size_t before = out.size();
        int last = kNumContexts - 1;
        while (!terms_.contexts[last]) --last;
        for (int context = 0; context <= last; ++context) {
            if (!terms_.contexts[context]) continue;
            std::vector<StatusExtent> found;
            const Outcome outcome = extents_of(
                *terms_.chosen, static_cast<Context>(context), request.offset,
                request.offset + request.length, request.flags & kReqOne, may_block, found);
            if (outcome != Outcome::done || found.empty()) {
                out.cut(before);
                if (outcome == Outcome::would_block) return false;
                answer(out, request, EIO);
                return true;
            }
            append_chunk(out, request.cookie, kBlockStatusChunk,
                         static_cast<std::uint32_t>(4 + 8 * found.size()),
                         context == last ? kDone : 0);
            append<std::uint32_t>(out, static_cast<std::uint32_t>(context));
            for (const StatusExtent &extent : found) {
                append<std::uint32_t>(out, extent.length);
                append<std::uint32_t>(out, extent.state);
            }
        }
        return true;
    }

    bool has_contexts() const {
        for (const bool one : terms_.contexts)
            if (one) return true;
        return false;
    }

    void answer(Output &out, const Request &request, int error) const {
        if (!terms_.structured)
            append_simple(out, request.cookie, error);
        else if (error == 0)
            append_chunk(out, request.cookie, kNone, 0);
        else
            append_error(out, request.cookie, error, std::strerror(error));
    }

    // Has the pool do a job, and send what it says.
    void hand_on(std::size_t bytes, std::function<void(Output &)> job) {
        send();  // the client must not wait for these until there is room for the job
        Held held(in_flight_, bytes);
        hand_on(held, std::move(job));
    }

    void hand_on(Held &held, std::function<void(Output &)> job) {
        statistics_.num_handed_on.fetch_add(1, std::memory_order_relaxed);
        pool_.submit([this, bytes = held.bytes(), job = std::move(job)] {
            do_and_send(job, bytes);
        });
        held.hand_on();
    }

    void do_and_send(const std::function<void(Output &)> &job, std::size_t bytes) {
        try {
            Output out;
            job(out);
            outbox_.leave(std::move(out), [this, bytes] { in_flight_.end(bytes); });
            return;
        } catch (const std::exception &) {
            // Without memory this client is lost; the pool's thread goes on.
        }
        socket_.shut(SHUT_RDWR);
        in_flight_.end(bytes);
    }

    bool send_if_much() { return out_.size() < kSendBytes || send(); }

    bool send() {
        const bool sent = out_.size() == 0 || outbox_.write(out_.view());
        out_.clear();
        return sent;
    }

    Socket socket_;
    const Exports &exports_;
    Pool &pool_;
    Statistics &statistics_;
    std::string refusal_;
    Terms terms_;
    Output in_, out_;
    InFlight in_flight_;
    Outbox outbox_{socket_};  // ends before what it says when it has sent something
};

}  // namespace hatchway::nbd
