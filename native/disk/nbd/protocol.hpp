// Numbers and messages of the NBD protocol, as its specification (proto.md) names them.
#pragma once

#include <cerrno>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <type_traits>

namespace hatchway::nbd {

constexpr std::uint64_t kInitMagic = 0x4e42444d41474943;    // NBDMAGIC
constexpr std::uint64_t kOptionMagic = 0x49484156454f5054;  // IHAVEOPT
constexpr std::uint64_t kOptionReplyMagic = 0x0003e889045565a9;
constexpr std::uint32_t kRequestMagic = 0x25609513;
constexpr std::uint32_t kSimpleReplyMagic = 0x67446698;
constexpr std::uint32_t kStructuredReplyMagic = 0x668e33ef;

enum HandshakeFlag : std::uint16_t { kFixedNewstyle = 1, kNoZeroes = 2 };

enum Option : std::uint32_t {
    kExportName = 1,
    kAbort = 2,
    kList = 3,
    kInfo = 6,
    kGo = 7,
    kStructuredReply = 8,
    kListMetaContext = 9,
    kSetMetaContext = 10,
};

constexpr std::uint32_t kError = 1U << 31;

enum OptionReply : std::uint32_t {
    kAck = 1,
    kServer = 2,
    kInfoReply = 3,
    kMetaContext = 4,
    kUnsupported = kError | 1,
    kPolicy = kError | 2,
    kInvalid = kError | 3,
    kUnknown = kError | 6,
    kTooBig = kError | 9,
};

enum Info : std::uint16_t { kInfoExport = 0, kInfoName = 1, kInfoBlockSize = 3 };

enum TransmissionFlag : std::uint16_t {
    kHasFlags = 1 << 0,
    kReadOnly = 1 << 1,
    kSendFlush = 1 << 2,
    kSendFua = 1 << 3,
    kSendTrim = 1 << 5,
    kSendWriteZeroes = 1 << 6,
    kSendDf = 1 << 7,
    kCanMultiConn = 1 << 8,
    kSendCache = 1 << 10,
};

enum Command : std::uint16_t {
    kRead = 0,
    kWrite = 1,
    kDisconnect = 2,
    kFlush = 3,
    kTrim = 4,
    kCache = 5,
    kWriteZeroes = 6,
    kBlockStatus = 7,
};

enum CommandFlag : std::uint16_t { kFua = 1, kNoHole = 2, kDf = 4, kReqOne = 8 };

enum Chunk : std::uint16_t {
    kNone = 0,
    kOffsetData = 1,
    kOffsetHole = 2,
    kBlockStatusChunk = 5,
    kErrorChunk = (1 << 15) | 1,
};

constexpr std::uint16_t kDone = 1;
constexpr std::uint32_t kStateHole = 1, kStateZero = 2;

// QEMU's bound, and what we say in the handshake.
constexpr std::uint32_t kMostBytes = 32 << 20;
constexpr std::uint32_t kMostOptionBytes = 64 << 10;
constexpr std::uint32_t kMostNameBytes = 4096;

constexpr std::size_t kRequestBytes = 28, kSimpleReplyBytes = 16, kChunkHeaderBytes = 20;

// Errors have the numbers that Linux gives them; others are not for the wire.
inline std::uint32_t error_on_wire(int error) {
    switch (error) {
    case 0:
    case EPERM:
    case EIO:
    case ENOMEM:
    case EINVAL:
    case ENOSPC:
    case EOVERFLOW:
    case ENOTSUP:
    case ESHUTDOWN:
        return static_cast<std::uint32_t>(error);
    case EROFS:
        return EPERM;
    case EDQUOT:
    case EFBIG:
        return ENOSPC;
    default:
        return EIO;
    }
}

template <class Number>
Number swapped(Number number) {
    static_assert(std::is_unsigned_v<Number>);
    if constexpr (__BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__) return number;
    if constexpr (sizeof number == 2) return __builtin_bswap16(number);
    if constexpr (sizeof number == 4) return __builtin_bswap32(number);
    if constexpr (sizeof number == 8) return __builtin_bswap64(number);
}

// The number at the beginning of ``from``, which moves past it.
template <class Number>
Number taken(const char *&from) {
    Number number;
    std::memcpy(&number, from, sizeof number);
    from += sizeof number;
    return swapped(number);
}

template <class Number, class Bytes>
void append(Bytes &to, Number number) {
    number = swapped(number);
    to.append(reinterpret_cast<const char *>(&number), sizeof number);
}

struct Request {
    std::uint16_t flags, type;
    std::uint64_t cookie, offset;
    std::uint32_t length;
};

// False if it is none.
inline bool parse(const char *from, Request &request) {
    if (taken<std::uint32_t>(from) != kRequestMagic) return false;
    request.flags = taken<std::uint16_t>(from);
    request.type = taken<std::uint16_t>(from);
    request.cookie = taken<std::uint64_t>(from);
    request.offset = taken<std::uint64_t>(from);
    request.length = taken<std::uint32_t>(from);
    return true;
}

template <class Bytes>
void append_simple(Bytes &to, std::uint64_t cookie, int error) {
    append<std::uint32_t>(to, kSimpleReplyMagic);
    append<std::uint32_t>(to, error_on_wire(error));
    append<std::uint64_t>(to, cookie);
}

template <class Bytes>
void append_chunk(Bytes &to, std::uint64_t cookie, std::uint16_t type, std::uint32_t length,
                  std::uint16_t flags = kDone) {
    append<std::uint32_t>(to, kStructuredReplyMagic);
    append<std::uint16_t>(to, flags);
    append<std::uint16_t>(to, type);
    append<std::uint64_t>(to, cookie);
    append<std::uint32_t>(to, length);
}

template <class Bytes>
void append_error(Bytes &to, std::uint64_t cookie, int error, std::string_view message) {
    append_chunk(to, cookie, kErrorChunk, static_cast<std::uint32_t>(6 + message.size()));
    append<std::uint32_t>(to, error_on_wire(error));
    append<std::uint16_t>(to, static_cast<std::uint16_t>(message.size()));
    to.append(message.data(), message.size());
}

}  // namespace hatchway::nbd
